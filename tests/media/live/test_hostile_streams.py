"""I4: playlists, other protocols and local files through network inputs: refused, and nothing is asked of the canary."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetlens.errors import InputError, JetlensError
from jetlens.media import open_source
from jetlens.media.live import LiveSource

SECRET = b"canary in a local file"


class Canary:
    """A port that nobody must connect to."""

    def __init__(self) -> None:
        self.hits = 0
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.hits += 1
            sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server that gives one answer to everything."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(0.5)
                try:
                    while request := sock.recv(65536):
                        sock.sendall(answer(request))
                        if b"RTSP" not in request:
                            break
                except OSError:
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def http(content_type: str, body: str) -> Callable[[bytes], bytes]:
    return lambda _: f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def parts(body: str) -> Callable[[bytes], bytes]:
    head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
    return lambda _: (head + f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n{body}\r\n" * 3).encode()


def sdp(extra: str) -> Callable[[bytes], bytes]:
    def answer(request: bytes) -> bytes:
        number = request.partition(b"CSeq: ")[2].split(b"\r")[0].decode() or "1"
        body = f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n{extra}\r\n" if b"DESCRIBE" in request else ""
        kind = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n" if body else "Transport: RTP/AVP/TCP;interleaved=0-1\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n{kind}\r\n{body}".encode()

    return answer


def cases(canary: int, file: Path) -> dict[str, str | tuple[str, Callable[[bytes], bytes]]]:
    """Addresses as they are, and schemes with what their server answers."""
    at = f"http://127.0.0.1:{canary}/x.ts"
    local = f"file://{file}"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{at}\n#EXTINF:1,\n{local}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{at}'\nfile '{local}'\n"
    media = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    return {
        "concat": f"concat:{file}|{at}",
        "subfile": f"subfile,,start,0,end,9,,:{file}",
        "data": "data:application/vnd.apple.mpegurl;base64,I0VYVE0zVQo=",
        "file": local,
        "crypto": f"crypto:{file}",
        "cache": f"cache:{at}",
        "async": f"async:{at}",
        "tee": f"tee:{file}",
        "hls": f"hls+http://127.0.0.1:{canary}/x.m3u8",
        "ftp": f"ftp://127.0.0.1:{canary}/x",
        "tcp": f"tcp://127.0.0.1:{canary}",
        "udp": f"udp://127.0.0.1:{canary}",
        "rtmp": f"rtmp://127.0.0.1:{canary}/x",
        "pipe": "pipe:0",
        "device that is a file": f"v4l2://{file}",
        "m3u8 by http": ("http", http("application/vnd.apple.mpegurl", playlist)),
        "m3u8 as text": ("http", http("text/plain", playlist)),
        "m3u8 without a type": ("http", http("", playlist)),
        "ffconcat by http": ("http", http("text/plain", concat)),
        "sdp by http": ("http", http("application/sdp", f"v=0\nc=IN IP4 127.0.0.1\nm=video {canary} RTP/AVP 96\n")),
        "redirect": ("http", lambda _: f"HTTP/1.1 302 Found\r\nLocation: {at}\r\n\r\n".encode()),
        "redirect to a file": ("http", lambda _: f"HTTP/1.1 302 Found\r\nLocation: {local}\r\n\r\n".encode()),
        "m3u8 as a picture": ("http", parts(playlist)),
        "svg as a picture": ("http", parts(f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{at}"/><image href="{local}"/></svg>')),
        "m3u8 by rtsp": ("rtsp", lambda _: f"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: {len(playlist)}\r\n\r\n{playlist}".encode()),
        "sdp that points away": ("rtsp", sdp(f"c=IN IP4 127.0.0.1\r\n{media}a=control:http://127.0.0.1:{canary}/x")),
        "sdp that points to a file": ("rtsp", sdp(f"a=control:{local}\r\n{media}a=control:{local}")),
        "rtsp that redirects": ("rtsp", lambda _: f"RTSP/1.0 302 Found\r\nCSeq: 1\r\nLocation: {at}\r\n\r\n".encode()),
    }


NAMES = list(cases(1, Path("/x")))


def attempt(uri: str) -> str:
    """What opening an address says; it must not give a frame."""
    try:
        source = open_source(uri)
        if not isinstance(source, LiveSource):
            frames = list(source)
            raise AssertionError(f"it gave {len(frames)} frames")
    except JetlensError as error:
        return str(error)
    with source:
        try:
            source.ready(0.35)
        except InputError as error:
            return str(error)
    raise AssertionError("it gave a frame")


def test_there_are_at_least_twenty_five() -> None:
    assert len(NAMES) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.txt"
    file.write_bytes(SECRET)
    read_before = file.stat().st_atime_ns
    canary = Canary()
    try:
        case = cases(canary.port, file)[name]
        if isinstance(case, str):
            said = attempt(case)
        else:
            if case[0] == "rtsp":
                pytest.importorskip("av")
            with answering(case[1]) as port:
                said = attempt(f"{case[0]}://127.0.0.1:{port}/stream")
        time.sleep(0.05)
        assert canary.hits == 0
        assert SECRET.decode() not in said
        assert "\n" not in said
        assert len(said) <= 300 + len(str(file))
        assert file.stat().st_atime_ns == read_before
    finally:
        canary.close()


def test_a_library_that_is_given_the_address_follows_the_playlist() -> None:
    """The control: FFmpeg without our limits asks the canary."""
    av = pytest.importorskip("av")
    canary = Canary()
    try:
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{canary.port}/x.ts\n#EXT-X-ENDLIST\n"
        with answering(http("application/vnd.apple.mpegurl", playlist)) as port, pytest.raises((av.error.FFmpegError, OSError)):
            av.open(f"http://127.0.0.1:{port}/x.m3u8", timeout=3)
        assert canary.hits > 0
    finally:
        canary.close()
