"""Webhook: events as POSTs of JSON, from a thread of its own that never makes the pipeline wait."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import SplitResult, unquote, urlsplit

from jetlens import __version__
from jetlens.errors import UsageError
from jetlens.pipeline.events import Event, to_record

__all__ = ["Webhook", "WebhookStatus"]


@dataclass(frozen=True, slots=True)
class WebhookStatus:
    """What became of the events: ``sent = delivered + failed + dropped + waiting``.

    Attributes:
        dropped: events for which the queue had no room.
        failed: events that the address did not take.
        reason: why the last one failed, without credentials; empty if none did.
    """

    name: str
    sent: int
    delivered: int
    failed: int
    dropped: int
    waiting: int
    reason: str


class Webhook:
    """Posts events to one address, in order.

    Only the address itself is asked: redirects are not followed and no proxy is used. The name under which it appears anywhere is its host: user,
    password, path and query may all be secrets.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, waiting: int = 256) -> None:
        """``timeout_s``: of connecting, and of each wait for the answer. ``waiting``: events that may wait; further ones are dropped and counted.

        Raises:
            UsageError: it is no http or https address.
        """
        self._parts, self.name = _parsed(url)
        if not 0 < timeout_s <= 60 or waiting < 1:
            raise UsageError(f"webhook: timeout {timeout_s} s, {waiting} waiting; give up to 60 s and at least 1")
        self._timeout_s = timeout_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("sent", "delivered", "failed", "dropped"), 0)
        self._reason = ""
        self._stop = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Takes an event and returns at once; one for which there is no room is dropped and counted."""
        content = json.dumps(to_record(event), allow_nan=False).encode()
        self._count("sent")
        try:
            if self._stop.is_set():
                raise queue.Full
            self._queue.put_nowait(content)
        except queue.Full:
            self._count("dropped")

    def status(self) -> WebhookStatus:
        """Counts so far."""
        with self._lock:
            counts = dict(self._counts)
            waiting = counts["sent"] - counts["delivered"] - counts["failed"] - counts["dropped"]
            return WebhookStatus(self.name, **counts, waiting=waiting, reason=self._reason)

    def close(self, timeout_s: float = 1.0) -> None:
        """Posts what waits for at most this long, then drops the rest; closing twice is allowed."""
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandon()
            self._thread.join(max(0.5, deadline - time.monotonic()))

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            try:
                content = self._queue.get(timeout=0.2)
            except queue.Empty:
                content = None
            if content is None:
                if self._stop.is_set() and self._queue.empty():
                    return
                continue
            reason = self._post(content)
            self._count("failed" if reason else "delivered", reason)

    def _abandon(self) -> None:
        """Drops what waits and breaks the connection off that the thread waits for."""
        while True:
            try:
                if self._queue.get_nowait() is not None:
                    self._count("dropped")
            except queue.Empty:
                break
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _post(self, content: bytes) -> str:
        """Posts one event; the reason if that failed."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        self._connection = connection
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        try:
            connection.request("POST", path, content, self._headers())
            status = connection.getresponse().status
        except ssl.SSLError as error:
            return f"{self.name}: TLS failed ({error.reason or 'unknown reason'})"
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The text of an error may quote the address; its kind does not.
            return f"{self.name}: {_plain(error)}"
        finally:
            self._connection = None
            connection.close()
        return "" if 200 <= status < 300 else f"{self.name}: answered {status}"

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"jetlens/{__version__}", "Connection": "close"}
        if self._parts.username is not None:
            pair = f"{unquote(self._parts.username)}:{unquote(self._parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    def _count(self, what: str, reason: str = "") -> None:
        with self._lock:
            self._counts[what] += 1
            self._reason = reason or self._reason


def _parsed(url: str) -> tuple[SplitResult, str]:
    """The parts of an address and the name under which it may appear."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("the webhook's address cannot be read; give http://HOST:PORT/PATH or https://...") from None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise UsageError("the webhook's address is not of the form http://HOST:PORT/PATH or https://... in ASCII without spaces")
    if "@" in parts.path + parts.query or parts.fragment:
        # A password with a plain / or # moves the host: nothing may go to whatever stands there then.
        raise UsageError(
            "the webhook's address has an @ behind its host or a #; write /, ?, # and @ of a password as %2F, %3F, %23 and %40"
        )
    shown = f"[{host}]" if ":" in host else host
    return parts, f"{parts.scheme}://{shown}{f':{port}' if port else ''}"


def _plain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
