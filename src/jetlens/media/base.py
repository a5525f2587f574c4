"""What every source and sink offers, and the facts of a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from jetlens.errors import InputError
from jetlens.frame import Frame

__all__ = ["Sink", "Source", "StreamInfo", "finish", "frame_rate", "scratch_path"]

S = TypeVar("S", bound="Source")
K = TypeVar("K", bound="Sink")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream before its frames are read.

    Attributes:
        size_hw: height and width of the frames as they are shown, in pixels.
        fps: nominal frames in a second; 0 where pictures have no rate.
        frames: how many frames the header promises (only what decodes counts), or None where it does not say.
        name: the file or address as the user gave it.
        decoder: what turns bytes into pixels, such as ``pyav h264`` or ``nvdec h264``, and why hardware that was tried does not.
    """

    size_hw: tuple[int, int]
    fps: float
    frames: int | None
    name: str
    decoder: str


def frame_rate(fps: float) -> Fraction:
    """The exact rate behind a rounded one: 29.97002997 -> 30000/1001."""
    return Fraction(fps).limit_denominator(1001) if fps > 0 else Fraction(25)


class Source(Protocol):
    """Frames in order; a context manager that is read once.

    The frames' arrays may be kept and written to. Iteration that ends with an ``InputError`` has delivered every frame that could be
    decoded, and the error says why there are no more (or which were damaged).
    """

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Frees the decoder; closing twice is allowed."""
        ...

    def __enter__(self: S) -> S: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Sink(Protocol):
    """Where frames go; a context manager.

    What is written becomes visible under its final name when the sink closes. Leaving the context because of the input or of Ctrl-C
    closes (what was written stays and can be played), leaving it because of any other error discards.
    """

    @property
    def note(self) -> str:
        """What the sink had to do to the frames (padding, another codec), or an empty text."""
        ...

    def write(self, frame: Frame) -> None:
        """Writes one frame; its array is not needed afterwards.

        Raises:
            OutputError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Completes what was written and gives it its final name; closing twice is allowed.

        Raises:
            OutputError: it cannot be completed; nothing is left behind.
        """
        ...

    def discard(self) -> None:
        """Stops and removes what was written."""
        ...

    def __enter__(self: K) -> K: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def scratch_path(path: Path) -> Path:
    """The hidden name beside a file under which it is written before it gets its own."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def finish(sink: Sink, error: BaseException | None) -> None:
    """Closes or discards a sink, whichever the error that ends its context asks for."""
    if error is None or isinstance(error, (InputError, KeyboardInterrupt)):
        sink.close()
    else:
        sink.discard()
