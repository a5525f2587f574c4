"""RecordingSink: a stream whose size is known with its first frame, as one video file or as a new one every so often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from jetlens.errors import OutputError
from jetlens.frame import Frame
from jetlens.media.base import Sink, StreamInfo, finish
from jetlens.media.sinks import open_video_sink

__all__ = ["RecordingSink"]

_USUAL_FPS: Final = 30.0


class RecordingSink:
    """Video that starts with the first frame, wherever in its stream that stands.

    With segments the files are called ``NAME-0001.mp4`` and on; each is complete once the next has begun, so that whatever ends the process
    costs the last one only. A frame of another size begins a new segment; without segments it is scaled.

    Args:
        info: of the stream; a size of 0 x 0 is not known yet.
        segment_s: seconds of stream in one file; None for one file.
        open_file: opens the sink of one file.

    Attributes:
        paths: files that were begun.
    """

    def __init__(
        self,
        path: Path,
        info: StreamInfo,
        *,
        segment_s: float | None = None,
        open_file: Callable[[Path, StreamInfo], Sink] = open_video_sink,
    ) -> None:
        """Raises OutputError where the path's folder cannot be made."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} cannot be made: {error.strerror}") from None
        self._path, self._info, self._segment_s, self._open = path, info, segment_s, open_file
        self._sink: Sink | None = None
        self._start_s = 0.0
        self._size_hw = (0, 0)
        self._closed = False
        self.note = ""
        self.paths: list[Path] = []

    def write(self, frame: Frame) -> None:
        """Writes one frame, at its time after the file's first.

        Raises:
            OutputError: it cannot be written, or the sink is closed.
        """
        if self._closed:
            raise OutputError(f"{self._path} is closed already")
        if self._sink is not None and self._segment_s is not None:
            over = frame.pts_s - self._start_s
            if over >= self._segment_s or over < 0 or frame.size_hw != self._size_hw:
                self._finish()
        if self._sink is None:
            self._begin(frame)
        assert self._sink is not None
        self._sink.write(replace(frame, pts_s=max(0.0, frame.pts_s - self._start_s)))

    def close(self) -> None:
        """Completes the last file; closing twice is allowed."""
        self._closed = True
        self._finish()

    def discard(self) -> None:
        """Removes the file that is being written; those before it stay."""
        self._closed = True
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.discard()

    def _begin(self, frame: Frame) -> None:
        number = len(self.paths) + 1
        path = self._path if self._segment_s is None else self._path.with_stem(f"{self._path.stem}-{number:04d}")
        info = replace(self._info, size_hw=frame.size_hw, fps=self._info.fps or _USUAL_FPS, frames=None)
        self._sink = self._open(path, info)
        self._start_s, self._size_hw = frame.pts_s, frame.size_hw
        self.paths.append(path)

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()
            self.note = sink.note or self.note

    def __enter__(self) -> RecordingSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finish(self, error)
