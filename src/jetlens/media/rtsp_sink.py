"""RtspSink: frames to an RTSP server such as MediaMTX; a server that is slow, dead or away costs the writer nothing."""

from __future__ import annotations

import threading
from fractions import Fraction
from types import TracebackType
from typing import Any, Final

from jetlens.errors import NetworkError, OutputError
from jetlens.frame import Frame
from jetlens.media.base import StreamInfo, finish
from jetlens.media.live.address import Address, parse_address
from jetlens.media.live.rtsp_publish import CLOCK_HZ, RtspPublisher
from jetlens.registry import require

__all__ = ["RTSP_PORTS", "RtspSink"]

RTSP_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_PATIENCE_S: Final = 2.0
_RETRY_S: Final = (0.25, 0.5, 1.0, 2.0)
_CLOSING_S: Final = 0.3
_OPTIONS: Final = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23"}


class RtspSink:
    """Encodes and sends in a thread of its own; only the newest frame waits for it, and the others are dropped and counted.

    Args:
        uri: ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH`` or ``rtsps://``.
        info: of the stream; its rate sets how often a picture stands by itself (each second).

    Raises:
        UsageError: the address is malformed.
        MissingDependencyError: PyAV is not installed.
        OutputError: this PyAV has no H.264 encoder.
    """

    def __init__(self, uri: str, info: StreamInfo) -> None:
        self._address: Address = parse_address(uri, RTSP_PORTS)
        self._av = require("av", extra="video", why="sending rtsp://")
        if "libx264" not in self._av.codecs_available:
            raise OutputError(f"{self._address.name}: this PyAV has no libx264; install it from its wheel")
        self._interval = max(1, round(info.fps or 30))
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._ending = False
        self.sent = self.dropped = self.reconnects = 0
        self.reason = ""
        self._thread = threading.Thread(target=self._work, name=f"jetlens-rtsp-{self._address.host}", daemon=True)
        self._thread.start()

    @property
    def note(self) -> str:
        """What became of the frames, and what went wrong last."""
        back = f", connected again {self.reconnects} times" if self.reconnects else ""
        reason = f"; last trouble: {self.reason}" if self.reason else ""
        return f"{self._address.name}: {self.sent} frames sent, {self.dropped} dropped{back}{reason}"

    def write(self, frame: Frame) -> None:
        """Takes one frame at once; the one that still waited is dropped.

        Raises:
            OutputError: the sink is closed.
        """
        with self._changed:
            if self._ending:
                raise OutputError(f"{self._address.name} is closed already")
            self.dropped += self._newest is not None
            self._newest = frame
            self._changed.notify_all()

    def close(self) -> None:
        """Sends the frame that waits, says goodbye, and leaves a server that does not answer; closing twice is allowed.

        Raises:
            OutputError: of all frames none could be sent.
        """
        if self._ending:
            return
        self.discard()
        if self.dropped and not self.sent:
            raise OutputError(f"{self._address.name}: none of {self.dropped} frames could be sent: {self.reason or 'no answer'}")

    def discard(self) -> None:
        """Ends in the same way, whatever came of it: what was sent cannot be taken back."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(_CLOSING_S)
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = None

    def _next(self) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ending)
            frame, self._newest = self._newest, None
            return frame

    def _work(self) -> None:
        """Sessions one after the other, until the sink is closed."""
        tries = 0
        while True:
            before = self.sent
            try:
                if self._session():
                    return
            except NetworkError as error:
                self.reason = str(error).removeprefix(f"{self._address.name}: ")
            except (self._av.error.FFmpegError, ValueError) as error:
                self.reason = f"the picture cannot be encoded: {type(error).__name__}"
            tries = 0 if self.sent > before else tries + 1
            with self._changed:
                if self._changed.wait_for(lambda: self._ending, _RETRY_S[min(tries, len(_RETRY_S) - 1)]):
                    return

    def _session(self) -> bool:
        """Sends frames of one size to a server that stays; True once the sink is closed.

        Raises:
            NetworkError: the server is away, refuses, or is too slow.
        """
        encoder: Any = None
        publisher: RtspPublisher | None = None
        size_hw, start_s, ticks = (0, 0), 0.0, -1
        try:
            while (frame := self._next()) is not None:
                if publisher is not None and frame.size_hw != size_hw:
                    with self._changed:
                        self.dropped += self._newest is not None
                        self._newest = self._newest or frame  # it begins the next session
                    return False
                if encoder is None:
                    size_hw, start_s = frame.size_hw, frame.captured_s
                    encoder = self._encoder(size_hw)
                ticks = max(ticks + 1, round((frame.captured_s - start_s) * CLOCK_HZ))
                picture = self._encoded(encoder, frame, ticks)
                try:
                    if publisher is None:
                        publisher = RtspPublisher(self._address, picture, _PATIENCE_S)
                        self.reconnects += self.sent > 0
                    publisher.send(picture, ticks)
                except NetworkError:
                    self.dropped += 1
                    raise
                self.sent += 1
            return True
        finally:
            if publisher is not None:
                publisher.close()

    def _encoder(self, size_hw: tuple[int, int]) -> Any:
        encoder: Any = self._av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width = (max(2, length - length % 2) for length in size_hw)
        encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, CLOCK_HZ)
        encoder.framerate = Fraction(self._interval)
        encoder.options = {**_OPTIONS, "g": str(self._interval), "threads": "1"}
        return encoder

    def _encoded(self, encoder: Any, frame: Frame, ticks: int) -> bytes:
        picture = self._av.VideoFrame.from_ndarray(frame.image_rgb, format="rgb24")
        picture = picture.reformat(encoder.width, encoder.height, "yuv420p")
        picture.pts, picture.time_base = ticks, encoder.time_base
        return b"".join(bytes(packet) for packet in encoder.encode(picture))

    def __enter__(self) -> RtspSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finish(self, error)
