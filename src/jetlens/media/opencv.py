"""Video through OpenCV, where PyAV is not installed: decoding to RGB, and encoding to MPEG-4 (mp4v)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from jetlens.errors import OutputError, VideoError
from jetlens.frame import Frame, Image
from jetlens.media.base import StreamInfo, finish, scratch_path
from jetlens.media.containers import CONTAINERS, check_video_file
from jetlens.ops.buffers import BufferPool
from jetlens.registry import require

__all__ = ["OpenCvSink", "OpenCvSource"]


def _cv2(why: str) -> Any:
    # FFmpeg inside OpenCV would print to stderr what our errors say.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    return require("cv2", extra="cpu", why=why)


class OpenCvSource:
    """A local video file, decoded by OpenCV to RGB in presentation order, turned upright.

    OpenCV does not tell a file's end from damage: only what the container itself shows (a cut file) is reported.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self._cv2 = _cv2("reading video (better: pip install 'jetlens[video]')")
        self._name = name or str(path)
        self._pool = BufferPool()
        self._bgr: Image | None = None
        demuxer, self._problem = check_video_file(path)
        logging = self._cv2.utils.logging
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # what OpenCV would print, our error says
        self._capture = self._cv2.VideoCapture(str(path.absolute()), self._cv2.CAP_FFMPEG)
        logging.setLogLevel(level)
        if not self._capture.isOpened() or not self._capture.grab():
            self._capture.release()
            raise VideoError(
                f"{self._name}: no frame of this {CONTAINERS[demuxer]} can be decoded" + (self._problem and f": {self._problem}")
            )
        _, self._bgr = self._capture.retrieve()
        if self._bgr is None:
            self._capture.release()
            raise VideoError(f"{self._name}: no frame of this {CONTAINERS[demuxer]} can be decoded")
        promised = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        size_hw = self._bgr.shape[0], self._bgr.shape[1]
        self._info = StreamInfo(size_hw, fps if 0 < fps < 1000 else 0.0, promised if promised > 0 else None, self._name, "cv2 ffmpeg")

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream; the size is the first decoded frame's, upright."""
        return self._info

    def __iter__(self) -> Iterator[Frame]:
        index, start_s, pts_s = 0, self._pts_s(), 0.0
        period_s = 1 / (self._info.fps or 25.0)
        more = True
        while more:
            bgr = self._bgr
            assert bgr is not None
            image: Image = self._pool.take(bgr.shape)
            self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB, dst=image)
            if index:  # some containers' last frames come without a time
                pts_s = now_s if (now_s := self._pts_s() - start_s) > pts_s else pts_s + period_s
            yield Frame(image, index, pts_s, time.monotonic(), self._name)
            index += 1
            more, self._bgr = self._capture.read(self._bgr)
        if self._problem:
            raise VideoError(f"{self._name}: {index} frames decoded up to {pts_s:.2f} s, but the file is cut or damaged: {self._problem}")

    def _pts_s(self) -> float:
        return float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000

    def close(self) -> None:
        """Closes the file."""
        self._capture.release()

    def __enter__(self) -> OpenCvSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class OpenCvSink:
    """A video file: MPEG-4 part 2 (mp4v) at the stream's constant rate."""

    note = "MPEG-4 (mp4v) at a constant rate, for want of PyAV: pip install 'jetlens[video]' for H.264"

    def __init__(self, path: Path, info: StreamInfo) -> None:
        self._cv2 = cv2 = _cv2("writing video (better: pip install 'jetlens[video]')")
        self._path = path
        self._scratch = scratch_path(path)
        self._size_hw = info.size_hw
        self._bgr: Any = None
        self._written = 0
        height, width = info.size_hw
        self._writer: Any = None
        try:
            self._scratch.touch()
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from None
        self._writer = cv2.VideoWriter(str(self._scratch), cv2.VideoWriter_fourcc(*"mp4v"), info.fps or 25.0, (width, height))
        if not self._writer.isOpened():
            self.discard()
            raise OutputError(f"{path} cannot be written: OpenCV opens no mp4v encoder for {width}x{height} and {path.suffix}; use .mp4")

    def write(self, frame: Frame) -> None:
        """Encodes one frame; a size other than the stream's is scaled to it."""
        if self._writer is None:
            raise OutputError(f"{self._path} is closed already")
        image = frame.image_rgb
        if image.shape[:2] != self._size_hw:
            image = self._cv2.resize(image, self._size_hw[::-1], interpolation=self._cv2.INTER_LINEAR)
        self._bgr = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2BGR, dst=self._bgr)
        self._writer.write(self._bgr)
        self._written += 1

    def close(self) -> None:
        """Completes the file and gives it its final name; nothing is left where no frame was written."""
        if self._writer is None:
            return
        if not self._written:
            self.discard()
            return
        self._writer.release()
        self._writer = None
        try:
            # OpenCV reports no failed write: a full disk shows as a file that ends before its own end.
            _, problem = check_video_file(self._scratch)
            if problem:
                raise OutputError(f"{self._path} cannot be written: {problem} (disk full?)")
            os.replace(self._scratch, self._path)
        except VideoError as error:
            self.discard()
            raise OutputError(f"{self._path} cannot be written: what came out is no video (disk full?): {error}") from None
        except OSError as error:
            self.discard()
            raise OutputError(f"{self._path} cannot be written: {error.strerror}") from None
        except OutputError:
            self.discard()
            raise

    def discard(self) -> None:
        """Stops and removes what was written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.release()
        with suppress(OSError):
            self._scratch.unlink(missing_ok=True)

    def __enter__(self) -> OpenCvSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finish(self, error)
