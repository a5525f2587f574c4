"""RTSP over TCP through PyAV, decoded in hardware where that works: FFmpeg may speak nothing but RTSP, and is never waited for without a limit."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

from jetlens.errors import UsageError, VideoError
from jetlens.frame import Image
from jetlens.media.hardware import Choice, Decoding, split_decoder
from jetlens.media.live.address import Address, parse_address
from jetlens.media.live.source import REFUSED, Damaged, Limits, LiveSource, Picture, Timing
from jetlens.registry import installed, require

__all__ = ["RtspConnection", "rtsp_source"]

_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_PROTOCOLS: Final = "rtsp,rtp,udp,tcp,tls"
_MAX_PIXELS: Final = 33_177_600
_MOST_TIMES: Final = 256
_PATIENCE_S: Final = 0.01
_OPTIONS: Final = {
    "protocol_whitelist": _PROTOCOLS,
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",
    # FFmpeg would look at the stream for seconds before it opens. Its nobuffer would throw away what it saw: the first key frame.
    "probesize": "32",
    "analyzeduration": "0",
    "max_delay": "100000",
}


class RtspConnection:
    """One session with a camera; after damage nothing is delivered before the next key frame."""

    fps = 0.0

    def __init__(self, address: Address, limits: Limits, choice: Choice) -> None:
        av = require("av", extra="video", why="reading rtsp://")
        self._name = address.name
        self._error: type[Exception] = av.error.FFmpegError
        self._arrivals: dict[int, float] = {}
        self._damaged, self._joined = True, False  # a stream is joined in its middle
        try:
            self._container = av.open(address.url, format="rtsp", options=dict(_OPTIONS), timeout=(limits.first_s, limits.stall_s))
        except (self._error, OSError, ValueError) as error:
            raise VideoError(f"{self._name}: {_said(error)}") from None
        try:
            streams = self._container.streams.video
            if not streams or streams[0].codec_context is None:
                raise VideoError(f"{self._name}: the camera sends no picture stream that can be decoded")
            self._stream = streams[0]
            self._decoding = Decoding(av, self._stream, self._name, choice, _PATIENCE_S)
        except BaseException:
            self._container.close()
            raise
        self._packets = self._container.demux(self._stream)
        self._decoded: list[Any] = []
        self._stall_s = limits.stall_s

    @property
    def decoder(self) -> str:
        """What turns packets into pictures."""
        return self._decoding.description

    def read(self) -> Picture | Damaged | None:
        """The next picture; blocks at most for the limit of a stall."""
        while self._decoded:
            picture = self._shown(self._decoded.pop(0))
            if picture is not None:
                return picture
        asked_s = time.monotonic()
        try:
            packet = next(self._packets)
        except (self._error, OSError, IndexError, StopIteration) as error:
            raise VideoError(f"{self._name}: {_said(error)}") from None
        # When its time is up FFmpeg first hands out the picture that it held back, which is old by then.
        if time.monotonic() - asked_s >= self._stall_s:
            raise VideoError(f"{self._name}: no answer in time")
        return self._decode(packet)

    def _shown(self, frame: Any) -> Picture | Damaged | None:
        """A decoded frame if it and those that it refers to are sound; None before the first key frame."""
        if frame.is_corrupt or frame.width * frame.height > _MAX_PIXELS:
            self._damaged = True
            return Damaged(f"{self._name}: a picture is damaged")
        if not self._decoding.is_key(frame) and self._damaged:
            return Damaged(f"{self._name}: a picture refers to a damaged one") if self._joined else None
        try:
            image: Image = frame.to_ndarray(format="rgb24")
        except (self._error, ValueError):
            return Damaged(f"{self._name}: a picture is of a kind that is not converted")
        self._damaged, self._joined = False, True
        return Picture(image, self._arrivals.pop(frame.pts, time.monotonic()), frame.time)

    def _decode(self, packet: Any) -> Damaged | None:
        if not packet.size:
            raise VideoError(f"{self._name}: the camera ended the stream")
        if packet.pts is not None:
            self._arrivals[packet.pts] = time.monotonic()
            while len(self._arrivals) > _MOST_TIMES:
                del self._arrivals[next(iter(self._arrivals))]
        try:
            self._decoded = self._decoding.decode(packet)
        except (self._error, ValueError):
            self._damaged = True
            return Damaged(f"{self._name}: a picture cannot be decoded")
        if packet.is_corrupt:
            self._decoded, self._damaged = [], True
            return Damaged(f"{self._name}: a picture is damaged")
        return None

    def close(self) -> None:
        """Frees the decoder and says goodbye to the camera."""
        self._decoding.close()
        with suppress(self._error, OSError):
            self._container.close()


def _said(error: Exception) -> str:
    """What went wrong in FFmpeg's words: its messages hold the address, the text of its error number does not."""
    if isinstance(error, StopIteration):
        return "the camera ended the stream"
    kind = type(error).__name__
    if kind == "ExitError":
        return "no answer in time"
    if kind == "HTTPUnauthorizedError":
        return f"the camera asks for another user or password {REFUSED}"
    text = getattr(error, "strerror", None)
    return text.lower() if text and len(text) < 80 else kind


def rtsp_source(uri: str, *, timing: Timing | None = None) -> LiveSource:
    """A camera by its address, ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH[#decoder=NAME]``; nothing is asked before it is iterated.

    Raises:
        UsageError: the address is malformed, or no decoder has this name.
        MissingDependencyError: PyAV is not installed.
    """
    place, asked = split_decoder(uri)
    if asked == "cv2":
        raise UsageError("rtsp:// is not read by OpenCV: leave #decoder=cv2 away")
    address, choice = parse_address(place, _PORTS), Choice(asked)
    if not installed("av"):
        require("av", extra="video", why="reading rtsp://")
    return LiveSource(address.name, lambda limits: RtspConnection(address, limits, choice), timing=timing)
