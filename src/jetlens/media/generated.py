"""Test streams that are computed and not read: ``test://NAME?seed=0&frames=240&size=360x640&fps=30&live=1``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

from jetlens.errors import UsageError
from jetlens.frame import Frame, Image
from jetlens.media.base import Source, StreamInfo
from jetlens.media.live.options import Option, read_options, whole
from jetlens.media.live.source import POLL_S, Limits, LiveSource, Picture
from jetlens.registry import Table

__all__ = ["GENERATORS", "GeneratedSource", "generated_source"]

GENERATORS: Final = Table("test stream", {"orange-line": "jetlens.data.orange_line:OrangeLine"})
"""Names to classes ``(seed, size_hw, frames, fps)`` whose iteration gives pairs of a frame and its truth."""
_ENDLESS: Final = 2**31
_MAX_LOOP_BYTES: Final = 2**30


def _size_hw(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return int(height), int(width)


_OPTIONS: Final = {
    "seed": Option(int, "a number such as 7"),
    "frames": Option(int, "a number such as 240"),
    "size": Option(_size_hw, "HEIGHTxWIDTH such as 360x640"),
    "fps": Option(float, "a number such as 30"),
    "live": whole(0, 1),
    "loop": whole(1, 10_000),
}
_ARGUMENTS: Final = {"seed": "seed", "frames": "frames", "size": "size_hw", "fps": "fps"}


def generated_source(uri: str) -> Source:
    """The frames of a generator as fast as they are asked for, or with ``live=1`` at their rate, like a camera.

    A live one goes on for ever unless ``frames`` is given; ``loop=N`` computes only the first N frames and repeats them, so that the
    camera costs next to nothing. Frame i of a live one is frame i (of a loop, i modulo N) of the generator.

    Raises:
        UsageError: a setting is unknown or its value is not allowed.
    """
    _, values = read_options(uri, _OPTIONS, {})
    if not values.pop("live", 0):
        if "loop" in values:
            raise UsageError(f"{uri[:80]}: loop is for live=1")
        return GeneratedSource(uri, values)
    endless = "frames" not in values
    source = GeneratedSource(uri, {"frames": _ENDLESS, **values})
    loop = values.get("loop", 0)
    height, width = source.info.size_hw
    if loop * height * width * 3 > _MAX_LOOP_BYTES:
        raise UsageError(f"{uri[:80]}: a loop of {loop} frames takes more than {_MAX_LOOP_BYTES // 2**20} MiB; give a smaller one")
    info = source.info
    if endless:
        info = StreamInfo(info.size_hw, info.fps, None, info.name, info.decoder)
    return LiveSource(uri, lambda limits: _Paced(source, loop, limits), info=info)


class GeneratedSource:
    """The frames of a generator; the same address gives the same pixels."""

    def __init__(self, uri: str, settings: dict[str, Any]) -> None:
        name = urlsplit(uri).netloc
        arguments = {_ARGUMENTS[key]: value for key, value in settings.items() if key in _ARGUMENTS}
        self.generator = made = GENERATORS.load(name)(**arguments)
        self._info = StreamInfo(made.size_hw, made.fps, made.frames, uri, f"generator {name}")

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream."""
        return self._info

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame, _ in self.generator)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> GeneratedSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Paced:
    """A generator read at its own rate: what is due and could not be computed in time is left out."""

    def __init__(self, source: GeneratedSource, loop: int, limits: Limits) -> None:
        self.decoder = source.info.decoder
        self.fps = source.info.fps
        self._frames = source.info.frames or _ENDLESS
        self._generator = source.generator
        self._closing = limits.closing
        self._loop: list[Image] = [self._generator[index][0].image_rgb for index in range(min(loop, self._frames))]
        if not loop:
            self._generator[0]  # the first frame prepares the scene, which takes longer than a frame may
        self._start_s = time.monotonic()
        self._next = 0

    def read(self) -> Picture | None:
        """The frame of this moment, once."""
        if self._next >= self._frames:
            raise EOFError
        early_s = self._start_s + self._next / self.fps - time.monotonic()
        if early_s > 0 and (self._closing.wait(min(early_s, POLL_S)) or early_s > POLL_S):
            return None
        due = min(max(self._next, int((time.monotonic() - self._start_s) * self.fps)), self._frames - 1)
        skipped, self._next = due - self._next, due + 1
        image = self._loop[due % len(self._loop)].copy() if self._loop else self._generator[due][0].image_rgb
        return Picture(image, time.monotonic(), due / self.fps, skipped)

    def close(self) -> None:
        """Nothing is open."""
