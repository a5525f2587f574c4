"""The orange line as a video, as single pictures and as crops of single fruit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from PIL import Image as PillowImage

from jetlens.data.orange_line.fields import random_stream
from jetlens.data.orange_line.scene import Scene
from jetlens.data.orange_line.truth import LineTruth
from jetlens.errors import UsageError
from jetlens.frame import Frame, Image

__all__ = ["SIZES", "OrangeLine", "crops", "still"]

SIZES = (32, 4320)
"""Smallest and largest height and width in pixels."""
STILL_FPS = 30.0


def _checked(seed: int, size_hw: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Seed and size as plain integers."""
    try:
        height, width = (int(length) for length in size_hw)
    except (TypeError, ValueError) as error:
        raise UsageError(f"orange line: size_hw is {size_hw!r}; give height and width in pixels, such as (360, 640)") from error
    if not all(SIZES[0] <= length <= SIZES[1] for length in (height, width)):
        raise UsageError(
            f"orange line: size {height}x{width} (height x width) is not within {SIZES[0]} to {SIZES[1]} pixels; choose such a size"
        )
    if int(seed) < 0:
        raise UsageError(f"orange line: seed {seed} is negative; give 0 or more")
    return int(seed), (height, width)


class OrangeLine:
    """A video of an inspection line: frame i is the same whatever was asked for before it.

    Args:
        seed: 0 or more; one seed, one line, bit for bit.
        size_hw: height and width in pixels; the fruit scale with the height.
        frames: length of the video.
        fps: frames in a second.
    """

    def __init__(self, seed: int = 0, size_hw: tuple[int, int] = (360, 640), frames: int = 240, fps: float = 30.0) -> None:
        self.seed, self.size_hw = _checked(seed, size_hw)
        if frames < 1:
            raise UsageError(f"orange line: {frames} frames; give 1 or more")
        if not 1 <= fps <= 1000:
            raise UsageError(f"orange line: {fps} frames in a second; give 1 to 1000")
        self.frames = int(frames)
        self.fps = float(fps)
        self._scene = Scene(self.seed, self.size_hw, self.fps)

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: int) -> tuple[Frame, LineTruth]:
        if not -self.frames <= index < self.frames:
            raise IndexError(f"frame {index} of {self.frames}")
        index = int(index) % self.frames
        image, truth = self._scene.render(index)
        return Frame(image, index, index / self.fps, time.monotonic(), f"orange-line:{self.seed}"), truth

    def __iter__(self) -> Iterator[tuple[Frame, LineTruth]]:
        return (self[index] for index in range(self.frames))


def still(seed: int, size_hw: tuple[int, int] = (360, 640)) -> tuple[Image, LineTruth]:
    """One picture of a scene of its own, varied more widely than the video."""
    seed, size_hw = _checked(seed, size_hw)
    return Scene(seed, size_hw, STILL_FPS, wide=True).render(0)


def crops(seed: int, size_hw: tuple[int, int] = (96, 96), still_hw: tuple[int, int] = (360, 640)) -> list[tuple[Image, int]]:
    """Every fruit of a still, cut by its true box give or take a few per cent and resized, with its grade."""
    _, (height, width) = _checked(seed, size_hw)
    image, truth = still(seed, still_hw)
    picture = PillowImage.fromarray(image)
    rng = random_stream(seed, "crop")
    out = []
    for box, grade in zip(truth.xyxy, truth.grade, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        shift = rng.uniform(-0.06, 0.06, 4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
        left, top = max(0.0, x1 + shift[0]), max(0.0, y1 + shift[1])
        right, bottom = min(float(still_hw[1]), x2 + shift[2]), min(float(still_hw[0]), y2 + shift[3])
        small = picture.resize((width, height), PillowImage.Resampling.BILINEAR, box=(left, top, right, bottom))
        out.append((np.asarray(small), int(grade)))
    return out
