"""LivePage: all streams of a running pipeline in a browser, with their rate, age, drops and what is found in them."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from PIL import Image as PillowImage

from jetlens.frame import Frame
from jetlens.pipeline.status import LiveStatus
from jetlens.results import Prediction
from jetlens.serve.access import Access, Refusal, check_token
from jetlens.serve.feed import Feed, Picture
from jetlens.serve.machine import MachineHistory
from jetlens.serve.server import BoundedServer, Request, bind

__all__ = ["ROUTES", "LivePage", "Watched"]

_ASSETS = Path(__file__).parents[1] / "assets" / "serve"
_BOUNDARY = "jetlens-frame"
_QUIET_S = 0.5
_SNAPSHOT_S = 2.0
# Fewer than connections: questions for the status still find one.
_MOST_VIEWERS = 24
_STATUS_S = 0.2
_SNAPSHOTS = {"png": ("PNG", {"compress_level": 1}), "jpg": ("JPEG", {"quality": 95})}
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Watched(Protocol):
    """What the page needs of a pipeline; each may be called from any thread."""

    def status(self) -> LiveStatus:
        """A snapshot."""
        ...

    def pause(self) -> None:
        """Stops inference until ``resume``."""
        ...

    def resume(self) -> None:
        """Goes on."""
        ...


class LivePage:
    """Serves the page; it is the pipeline's ``Observer``.

    Args:
        pipeline: that is watched and paused.
        host: an address or name of this machine.
        port: 0 takes a free one.
        token: that viewers must bring; needed wherever others can reach the address.
        interval_s: between readings of the machine's sensors.

    Raises:
        UsageError: the address can be reached from elsewhere and there is no token, or port or token are none.
        NetworkError: the port is in use, or the address is none of this machine.
    """

    def __init__(
        self,
        pipeline: Watched,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        *,
        interval_s: float = 2.0,
    ) -> None:
        listener = bind(host, port, lambda address: check_token(address, token))
        address, bound = listener.getsockname()[:2]
        self.access = Access(address, bound, token)
        self.pipeline = pipeline
        self._started = False
        self.feed = Feed()
        self.machine = MachineHistory(interval_s)
        self.seats = threading.BoundedSemaphore(_MOST_VIEWERS)
        self._server = BoundedServer(listener, functools.partial(_PageRequest, self))
        self._status_lock = threading.Lock()
        self._status: tuple[float, bytes] = (-math.inf, b"")

    @property
    def url(self) -> str:
        """Where the page is; without the token."""
        address = self.access.address
        if address in ("0.0.0.0", "::"):
            address = _own_address()
        return f"http://{f'[{address}]' if ':' in address else address}:{self.access.port}/"

    def wanted(self, stream: str) -> bool:
        """Whether a browser shows this stream now."""
        return self.feed.wanted(stream)

    def show(self, frame: Frame, prediction: Prediction) -> None:
        """Takes the newest frame of its stream and returns at once."""
        self.feed.show(frame)

    def start(self) -> None:
        """Begins to answer; twice is allowed."""
        if not self._started:
            self._started = True
            self.machine.start()
            self._server.start()

    def close(self) -> None:
        """Ends every connection and thread, within half a second; twice is allowed."""
        self.feed.close()
        self._server.close()
        self.machine.close()

    def stream_names(self) -> list[str]:
        """The names of the streams, by their number on the page."""
        return [stream.name for stream in self.pipeline.status().streams]

    def status_json(self) -> bytes:
        """Pipeline and machine at this moment; several who ask at once get the same."""
        with self._status_lock:
            made_s, body = self._status
            if time.monotonic() - made_s > _STATUS_S:
                content = {"pipeline": self.pipeline.status().to_dict(), "machine": self.machine.to_dict()}
                body = json.dumps(_finite(content), allow_nan=False).encode()
                self._status = (time.monotonic(), body)
            return body

    def __enter__(self) -> LivePage:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _PageRequest(Request):
    """One request to the page."""

    def __init__(self, page: LivePage, *arguments: Any) -> None:
        self._page = page
        super().__init__(*arguments)

    def answer(self) -> None:
        """Checks who asks, then what."""
        path, query = self.target
        refusal = self._page.access.refusal(self.command, query, self.headers)
        if refusal is not None:
            self._refused(path, refusal)
        elif "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            self.refuse(413, "no request here has a body")
        else:
            self._routed(path)

    def _routed(self, path: str) -> None:
        known = [(method, found, respond) for method, pattern, respond in ROUTES if (found := re.fullmatch(pattern, path))]
        if not known:
            self.refuse(404, "there is nothing at this address")
            return
        method, found, respond = known[0]
        if method != self.command:
            self.refuse(405, f"this address takes {method}")
            return
        try:
            respond(self, *found.groups())
        except OSError:
            raise
        except Exception:
            if not self.begun:
                self.refuse(500, "the live page failed; the terminal where jetlens runs says how")
            raise

    def _refused(self, path: str, refusal: Refusal) -> None:
        if refusal.status == 401 and path == "/":
            # Who brings no token gets no other file either: this page's own style is allowed by its hash.
            body = (_ASSETS / "token.html").read_bytes()
            style = hashlib.sha256(body.partition(b"<style>")[2].partition(b"</style>")[0]).digest()
            policy = (
                f"default-src 'none'; style-src 'sha256-{base64.b64encode(style).decode()}'; form-action 'self'; frame-ancestors 'none'"
            )
            self.reply(401, "text/html; charset=utf-8", body, {**_ASK_TOKEN, "Content-Security-Policy": policy})
        elif refusal.status == 401:
            self.reply(401, "text/plain; charset=utf-8", f"{refusal.reason}\n".encode(), _ASK_TOKEN)
        else:
            self.refuse(refusal.status, refusal.reason)

    def _file(self, path: str) -> None:
        name, content_type = _FILES[path]
        access = self._page.access
        brought = path == "/" and access.brings_token(self.target[1])
        self.reply(200, content_type, (_ASSETS / name).read_bytes(), {"Set-Cookie": access.cookie} if brought else {})

    def _status(self) -> None:
        self.reply(200, "application/json", self._page.status_json())

    def _all_streams(self) -> None:
        names = self._page.stream_names()
        self._watch(names, names)

    def _one_stream(self, number: str) -> None:
        names = self._page.stream_names()
        if int(number) < len(names):
            self._watch(names, [names[int(number)]])
        else:
            self.refuse(404, f"there is no such stream: give 0 to {len(names) - 1}")

    def _watch(self, names: Sequence[str], chosen: Sequence[str]) -> None:
        """Sends pictures until the viewer leaves or the page ends."""
        page = self._page
        if not page.seats.acquire(blocking=False):
            self.refuse(503, f"{_MOST_VIEWERS} viewers are here already")
            return
        try:
            self.begin(200, f"multipart/x-mixed-replace; boundary={_BOUNDARY}", {})
            self.send(f"--{_BOUNDARY}\r\n".encode())
            with page.feed.viewer(chosen) as viewer:
                while not page.feed.closed:
                    picture = viewer.next(_QUIET_S)
                    if picture is not None:
                        self.send(_part(picture, names.index(picture.frame.stream)))
                    elif self._left():
                        return
        finally:
            page.seats.release()

    def _left(self) -> bool:
        """Whether the viewer closed the connection."""
        self.connection.settimeout(0)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _snapshot(self, number: str, suffix: str) -> None:
        names = self._page.stream_names()
        frame = self._page.feed.frame(names[int(number)], _SNAPSHOT_S) if int(number) < len(names) else None
        if frame is None:
            self.refuse(404, "this stream has no frame now")
            return
        buffer = io.BytesIO()
        kind, options = _SNAPSHOTS[suffix]
        # One at a time: a large PNG takes a core for a while, which the pipeline needs.
        with _SNAPSHOT_LOCK:
            PillowImage.fromarray(frame.image_rgb).save(buffer, kind, **options)
        name = f"jetlens-stream-{number}-frame-{frame.index:06d}.{suffix}"
        self.reply(200, f"image/{kind.lower()}", buffer.getvalue(), {"Content-Disposition": f'attachment; filename="{name}"'})

    def _action(self, name: str) -> None:
        pipeline = self._page.pipeline
        {"pause": pipeline.pause, "resume": pipeline.resume}[name]()
        self.reply(200, "application/json", b"{}")


_Respond = Callable[..., None]
ROUTES: tuple[tuple[str, str, _Respond], ...] = (
    ("GET", r"(/|/view\.css|/view\.js|/icon\.svg)", _PageRequest._file),
    ("GET", r"/status", _PageRequest._status),
    ("GET", r"/frames", _PageRequest._all_streams),
    ("GET", r"/stream/([0-9]{1,4})", _PageRequest._one_stream),
    ("GET", r"/snapshot/([0-9]{1,4})\.(png|jpg)", _PageRequest._snapshot),
    ("POST", r"/(pause|resume)", _PageRequest._action),
)
"""Method, whole path and answer of everything that is served."""

_ASK_TOKEN = {"WWW-Authenticate": 'Bearer realm="jetlens"'}
_SNAPSHOT_LOCK = threading.Lock()


def _part(picture: Picture, number: int) -> bytes:
    """One part of the multipart answer, with the boundary after it: browsers show a picture once they have seen that."""
    age_ms = 1e3 * (time.monotonic() - picture.frame.captured_s)
    head = (
        f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
        f"X-Stream: {number}\r\nX-Index: {picture.frame.index}\r\nX-Age-Ms: {age_ms:.0f}\r\n\r\n"
    )
    return head.encode() + picture.jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()


def _finite(value: Any) -> Any:
    """The same without numbers that JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _own_address() -> str:
    """The address by which others most likely reach this machine; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
