"""Motion JPEG over http and https: a camera that sends multipart/x-mixed-replace."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from jetlens.errors import ImageError, NetworkError
from jetlens.imagefile import NETWORK_MAX_PIXELS, load_image
from jetlens.media.live.address import Address, parse_address
from jetlens.media.live.httpstream import HTTP_PORTS, HttpStream
from jetlens.media.live.jpeg import jpeg_flaw
from jetlens.media.live.multipart import PartReader, boundary_of
from jetlens.media.live.source import Damaged, Limits, LiveSource, Picture, Timing

__all__ = ["MjpegConnection", "mjpeg_source"]

_MOST_WAITING: Final = 3
"""Parts that may wait to be decoded; where more do, the reader is behind and only the newest is decoded."""
_JPEG_START: Final = b"\xff\xd8\xff"
_KINDS: Final = {
    "image/": "one picture and no stream; `jetlens predict` reads it",
    "video/": "a video file or raw stream; motion JPEG (multipart/x-mixed-replace) is read, or rtsp://",
    "audio/": "a playlist or sound, which is refused; give the camera's own stream",
    "application/vnd.apple": "a playlist, which is refused; give the camera's own stream",
    "application/x-mpegurl": "a playlist, which is refused; give the camera's own stream",
    "application/dash": "a playlist, which is refused; give the camera's own stream",
    "application/sdp": "a description of a stream, which is refused; give its rtsp:// address",
    "text/": "text or a web page; give the address of the picture stream itself",
}
"""What other answers are, by the beginning of their Content-Type."""


class MjpegConnection:
    """One connection; the parts that a slow reader has no time for are left undecoded."""

    decoder = "http motion jpeg"
    fps = 0.0

    def __init__(self, address: Address, limits: Limits) -> None:
        self._name = address.name
        self._stream = HttpStream(address, limits)
        try:
            kind = self._stream.content_type.strip()
            boundary = boundary_of(kind)
            if not kind.lower().startswith("multipart/") or not boundary:
                said = next(
                    (text for start, text in _KINDS.items() if kind.lower().startswith(start)), "no multipart/x-mixed-replace stream"
                )
                raise NetworkError(f"{self._name}: the address answers with {said}")
        except BaseException:
            self._stream.close()
            raise
        self._parts = PartReader(boundary)
        self._waiting: deque[tuple[bytes | str, float]] = deque()
        self._skipped = 0

    def read(self) -> Picture | Damaged | None:
        """The next part, decoded."""
        if not self._waiting:
            received = self._stream.read()
            if received is None:
                return None
            now_s = time.monotonic()
            try:
                self._waiting.extend((part, now_s) for part in self._parts.feed(received, lambda held: not jpeg_flaw(held.rstrip(b"\r\n"))))
            except NetworkError as error:
                raise NetworkError(f"{self._name}: {error}") from None
        while len(self._waiting) > _MOST_WAITING or (self._skipped and len(self._waiting) > 1):
            part, _ = self._waiting.popleft()
            if isinstance(part, str):
                return Damaged(f"{self._name}: {part}")
            self._skipped += 1
        return self._decoded(*self._waiting.popleft()) if self._waiting else None

    def close(self) -> None:
        """Closes the connection."""
        self._stream.close()

    def _decoded(self, part: bytes | str, captured_s: float) -> Picture | Damaged:
        if isinstance(part, str):
            return Damaged(f"{self._name}: {part}")
        try:
            image = load_image(part, max_pixels=NETWORK_MAX_PIXELS) if part.startswith(_JPEG_START) else None
            flaw = jpeg_flaw(part, image)
        except ImageError as error:
            image, flaw = None, error.why
        if flaw or image is None:
            return Damaged(f"{self._name}: a picture is damaged: {flaw}")
        skipped, self._skipped = self._skipped, 0
        return Picture(image, captured_s, None, skipped)


def mjpeg_source(uri: str, *, timing: Timing | None = None) -> LiveSource:
    """A camera by its http or https address, ``http://[USER:PASSWORD@]HOST[:PORT]/PATH``; nothing is asked before it is iterated.

    Raises:
        UsageError: the address is malformed.
    """
    address = parse_address(uri, HTTP_PORTS)
    return LiveSource(address.name, lambda limits: MjpegConnection(address, limits), timing=timing)
