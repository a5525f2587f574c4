"""Video through PyAV: decoding to RGB and encoding to H.264."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import numpy as np

from jetlens.errors import OutputError, VideoError
from jetlens.frame import Frame, Image
from jetlens.media.base import StreamInfo, finish, frame_rate, scratch_path
from jetlens.media.containers import CONTAINERS, check_video_file
from jetlens.media.hardware import Choice, Decoding
from jetlens.ops.buffers import BufferPool
from jetlens.registry import require

__all__ = ["PyAvSink", "PyAvSource"]

MAX_PIXELS: Final = 89_478_485
"""Frames above a quarter GiB of RGB are refused from the header."""
_ENCODERS: Final[dict[str, dict[str, str]]] = {
    # Measured at 720p on one core: veryfast 9.4 ms a frame, ultrafast 4.8 ms for a file three times as large.
    "libx264": {"preset": "veryfast", "crf": "23"},
    "libopenh264": {},
    "mpeg4": {"qscale": "3"},
}
_MUXERS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_BT601, _LIMITED_RANGE = 5, 1  # FFmpeg's numbers
_TRANSPOSE: Final = ("transpose", "dir=cclock_flip")


def _orientation(frame: Any) -> tuple[tuple[str, str | None], ...]:
    """The filters that turn a decoded frame as its display matrix (a phone held upright) asks."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return ()
    matrix = np.frombuffer(bytes(data)[:36], np.int32).reshape(3, 3)
    if abs(int(matrix[0, 0])) >= abs(int(matrix[0, 1])):
        transposed, flip_x, flip_y = False, matrix[0, 0] < 0, matrix[1, 1] < 0
    else:
        transposed, flip_x, flip_y = True, matrix[1, 0] < 0, matrix[0, 1] < 0
    chosen: tuple[tuple[bool, tuple[str, str | None]], ...] = (
        (transposed, _TRANSPOSE),
        (bool(flip_x), ("hflip", None)),
        (bool(flip_y), ("vflip", None)),
    )
    return tuple(step for wanted, step in chosen if wanted)


class _Converter:
    """One chain of FFmpeg's filters; its frames come from FFmpeg's own pool, so that no frame is allocated anew."""

    def __init__(self, size_hw: tuple[int, int], pixels: str, steps: tuple[tuple[str, str | None], ...]) -> None:
        av = require("av", extra="video", why="reading and writing video")
        self.key = (size_hw, pixels, steps)
        self._graph = av.filter.Graph()
        buffer = self._graph.add_buffer(width=size_hw[1], height=size_hw[0], format=pixels, time_base=Fraction(1, 1000))
        chain = [buffer, *(self._graph.add(name, arguments) for name, arguments in steps), self._graph.add("buffersink")]
        for before, after in pairwise(chain):
            before.link_to(after)
        self._graph.configure()

    def __call__(self, frame: Any) -> Any:
        self._graph.push(frame)
        return self._graph.pull()


@dataclass(slots=True)
class _Damage:
    """What went wrong while reading, counted."""

    packets: int = 0
    frames: int = 0
    stop: str = ""
    last: str = ""

    def reason(self, container: str) -> str:
        """Why there are no more frames, or no sound ones; an empty text where nothing is wrong."""
        parts = [container] if container else []
        if self.stop:
            parts.append(f"reading stopped: {self.stop}")
        if self.packets:
            parts.append(f"{self.packets} damaged packets" + (f" ({self.last})" if self.last else ""))
        if self.frames:
            parts.append(f"{self.frames} frames with visible damage")
        return "; ".join(parts)


class PyAvSource:
    """A local video file, decoded to RGB in presentation order, turned upright; missing colour tags count as BT.601.

    FFmpeg reads it, is told the container that the first bytes name and may open nothing but this file; it decodes too, unless hardware does.

    Args:
        decoder: a name of HARDWARE, SOFTWARE, or None for hardware that passes its trial, else software.
    """

    def __init__(self, path: Path, name: str | None = None, decoder: str | None = None) -> None:
        self._av = av = require("av", extra="video", why="reading video")
        self._name = name or str(path)
        self._choice = Choice(decoder)
        self._pool = BufferPool()
        self._error: type[Exception] = av.error.FFmpegError
        demuxer, self._problem = check_video_file(path)
        # FFmpeg up to 7 crashes when its MPEG-PS demuxer, which knows no references to other files, gets this option.
        options = {} if demuxer == "mpeg" else {"protocol_whitelist": "file"}
        self._decoding: Decoding | None = None
        try:
            self._container = av.open(f"file:{path.absolute()}", format=demuxer, options=options)
        except (self._error, OSError, ValueError) as error:
            raise VideoError(f"{self._name}: this {CONTAINERS[demuxer]} cannot be opened: {_said(error)}") from None
        try:
            self._prepare(demuxer)
        except BaseException:
            self.close()
            raise

    def _prepare(self, demuxer: str) -> None:
        streams = self._container.streams.video
        if not streams:
            raise VideoError(f"{self._name}: this {CONTAINERS[demuxer]} holds no picture stream")
        self._stream = stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{self._name}: this FFmpeg has no decoder for its pictures; convert it to H.264 first")
        if context.width < 1 or context.height < 1:
            raise VideoError(f"{self._name}: its header gives no picture size: no frame can be decoded")
        if context.width * context.height > MAX_PIXELS:
            raise VideoError(f"{self._name}: its header says {context.width} x {context.height} pixels; at most {MAX_PIXELS:,} are allowed")
        rate = stream.average_rate or stream.guessed_rate
        self._fps = float(rate) if rate else 0.0
        # AVI keeps no presentation times, and what FFmpeg puts in their place jumps back and forth where frames are reordered (H.264).
        self._by_decoder = demuxer == "avi"
        self._damage = _Damage()
        self._decoding = Decoding(self._av, stream, self._name, self._choice)
        self._frames = self._decoded(self._decoding)
        self._first = next(self._frames, None)
        if self._first is None:
            raise VideoError(f"{self._name}: no frame of it can be decoded" + self._because())
        self._converter = self._new_converter(self._first)
        self._start_s = self._seconds(self._first) or 0.0
        shown_hw = (self._first.height, self._first.width)
        self._info = StreamInfo(
            size_hw=shown_hw[::-1] if _TRANSPOSE in self._converter.key[2] else shown_hw,
            fps=self._fps,
            frames=stream.frames or None,
            name=self._name,
            decoder=self._decoding.description,
        )

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream; the size is the first decoded frame's, upright."""
        return self._info

    def __iter__(self) -> Iterator[Frame]:
        index, pts_s, period_s = 0, 0.0, 1 / (self._fps or 25.0)
        frame, self._first = self._first, None
        while frame is not None:
            if index:  # damaged streams repeat times or lack them
                seconds = self._seconds(frame)
                now_s = -1.0 if seconds is None else seconds - self._start_s
                pts_s = now_s if now_s > pts_s else pts_s + period_s
            yield Frame(self._image(frame), index, pts_s, time.monotonic(), self._name)
            index += 1
            frame = next(self._frames, None)
        reason = self._reason()
        if reason:
            raise VideoError(f"{self._name}: {index} frames decoded up to {pts_s:.2f} s, but the file is cut or damaged: {reason}")

    def _seconds(self, frame: Any) -> float | None:
        """When a frame is shown; None where the file does not say."""
        if self._by_decoder:
            return None if frame.dts is None else float(frame.dts * frame.time_base)
        return cast("float | None", frame.time)

    def _decoded(self, decoding: Decoding) -> Iterator[Any]:
        """Every frame that decodes, whatever lies between; what does not is counted."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except IndexError:  # PyAV's own last step, after every packet, where streams appeared that were not there at the start
                packet = None
            except (self._error, OSError) as error:
                self._damage.stop = _said(error)
                packet = None
            try:
                if packet is None:
                    yield from self._checked(decoding.decode(None))
                    return
                self._damage.packets += bool(packet.is_corrupt)
                yield from self._checked(decoding.decode(packet))
            except EOFError:  # the decoder was flushed by the demuxer's last, empty packet
                return
            except (self._error, ValueError) as error:
                if packet is None:
                    return
                self._damage.packets += not packet.is_corrupt
                self._damage.last = _said(error)

    def _checked(self, frames: list[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.width * frame.height > MAX_PIXELS:
                self._damage.last = f"a frame of {frame.width} x {frame.height} pixels"
                self._damage.packets += 1
                continue
            self._damage.frames += bool(frame.is_corrupt)
            yield frame

    def _new_converter(self, frame: Any) -> _Converter:
        # Pictures that are RGB already would be handed on as the decoder's own memory: one lossless step makes them ours.
        own: tuple[tuple[str, str | None], ...] = (("format", "gbrp"),) if frame.format.name == "rgb24" else ()
        turned = _orientation(frame if self._decoding is None else self._decoding.marked(frame))
        return _Converter((frame.height, frame.width), frame.format.name, (*turned, *own, ("format", "rgb24")))

    def _image(self, frame: Any) -> Image:
        """The frame's pixels: FFmpeg's own memory where its rows have no gaps, else copied into the pool's."""
        if ((frame.height, frame.width), frame.format.name) != self._converter.key[:2]:
            self._converter = self._new_converter(frame)
        rgb = self._converter(frame)
        height, width, row_bytes = rgb.height, rgb.width, rgb.planes[0].line_size
        rows = np.frombuffer(rgb.planes[0], np.uint8)[: height * row_bytes].reshape(height, row_bytes)
        if row_bytes == width * 3 and rows.flags.writeable:
            return rows.reshape(height, width, 3)
        image: Image = self._pool.take((height, width, 3))
        np.copyto(image.reshape(height, width * 3), rows[:, : width * 3])
        return image

    def _reason(self) -> str:
        return self._damage.reason(self._problem)

    def _because(self) -> str:
        reason = self._reason()
        return f": {reason}" if reason else ""

    def close(self) -> None:
        """Closes the file and frees the decoder."""
        if self._decoding is not None:
            self._decoding.close()
        self._container.close()

    def __enter__(self) -> PyAvSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class PyAvSink:
    """A video file: H.264 (yuv420p, BT.601) at the stream's rate and with the frames' own times.

    An odd width or height is padded by repeating the last column or row: yuv420p, which every player knows, needs even ones.
    """

    def __init__(self, path: Path, info: StreamInfo) -> None:
        av = require("av", extra="video", why="writing video")
        self._av = av
        self._path = path
        self._scratch = scratch_path(path)
        self._pool = BufferPool()
        self._height, self._width = (length + length % 2 for length in info.size_hw)
        rate = frame_rate(info.fps)
        # A multiple of the rate near 90 kHz: constant rates are exact, varying ones are kept to 1/90 ms.
        self._ticks = rate.numerator * max(1, 90_000 // rate.numerator)
        self._last = -1
        self._converter: _Converter | None = None
        self._written = 0
        self._container = None
        encoder = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise OutputError(f"{path}: this FFmpeg has none of the encoders {', '.join(_ENCODERS)}; install PyAV from its wheel")
        try:
            self._container = av.open(str(self._scratch), "w", format=_MUXERS.get(path.suffix.lower(), "mp4"))
            self._stream = self._container.add_stream(encoder, rate=rate, options=_ENCODERS[encoder])
        except (av.error.FFmpegError, OSError) as error:
            self.discard()
            raise OutputError(f"{path} cannot be written: {_said(error)}") from None
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = self._width, self._height, "yuv420p"
        context.time_base = Fraction(1, self._ticks)
        context.thread_count = max(1, min(4, (os.cpu_count() or 1) // 2))
        context.colorspace, context.color_range = _BT601, _LIMITED_RANGE
        self.codec = encoder

    @property
    def note(self) -> str:
        """What was done to the frames beyond encoding."""
        height, width = self._height, self._width
        return f"padded to {width}x{height} (H.264 needs even sides)" if self._padded else ""

    _padded = False

    def write(self, frame: Frame) -> None:
        """Encodes one frame; a size other than the stream's is scaled to it."""
        image = self._even(frame.image_rgb)
        if self._converter is None or self._converter.key[0] != image.shape[:2]:
            scale = f"{self._width}:{self._height}:flags=bilinear:out_color_matrix=bt601:out_range=tv"
            self._converter = _Converter((image.shape[0], image.shape[1]), "rgb24", (("scale", scale), ("format", "yuv420p")))
        picture = self._converter(self._av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image)))
        self._last = max(self._last + 1, round(frame.pts_s * self._ticks))
        picture.pts, picture.time_base = self._last, Fraction(1, self._ticks)
        self._encode(picture)
        self._written += 1

    def _even(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if height % 2 == 0 and width % 2 == 0:
            return image
        self._padded = True
        even: Image = self._pool.take((height + height % 2, width + width % 2, 3))
        even[:height, :width] = image
        even[height:, :width] = image[-1:]
        even[:, width:] = even[:, width - 1 : width]
        return even

    def _encode(self, picture: Any) -> None:
        container: Any = self._container
        if container is None:
            raise OutputError(f"{self._path} is closed already")
        try:
            for packet in self._stream.encode(picture):
                container.mux(packet)
        except (self._av.error.FFmpegError, OSError) as error:
            self.discard()
            raise OutputError(f"{self._path} cannot be written: {_said(error)}; what was written of it is removed") from None

    def close(self) -> None:
        """Completes the file and gives it its final name; nothing is left where no frame was written."""
        if self._container is None:
            return
        if not self._written:
            self.discard()
            return
        self._encode(None)
        try:
            self._container.close()
            self._container = None
            os.replace(self._scratch, self._path)
        except (self._av.error.FFmpegError, OSError) as error:
            self.discard()
            raise OutputError(f"{self._path} cannot be written: {_said(error)}; what was written of it is removed") from None

    def discard(self) -> None:
        """Stops and removes what was written."""
        container, self._container = self._container, None
        with suppress(Exception):  # a full disk fails here once more
            if container is not None:
                container.close()
        self._scratch.unlink(missing_ok=True)

    def __enter__(self) -> PyAvSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finish(self, error)


def _said(error: BaseException) -> str:
    """What FFmpeg or the system says, without its number and path."""
    return str(getattr(error, "strerror", None) or error)
