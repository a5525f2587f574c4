"""What a view looks at: a picture or a stream that the user names, else the orange line."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens.errors import InputError, UsageError
from jetlens.fetch import is_url
from jetlens.frame import Image
from jetlens.media import Source, open_source
from jetlens.media.images import ImageFilesSource
from jetlens.media.sources import scheme_of

__all__ = ["DEFAULT_SEED", "fruit", "fruits", "gray_levels", "open_input", "picture", "place", "reduced", "stills"]

DEFAULT_SEED = 2_000_010
"""A still of the part that no training has seen, with fruit of every grade."""
SIZE_HW = (360, 640)
MOST_SIDE = 640


def picture(text: str | None) -> tuple[Image, str]:
    """The picture that a text names and what to call it; the orange line's for None.

    Raises:
        InputError: it cannot be read, or it is a stream.
    """
    opened, name = open_input(text)
    if isinstance(opened, np.ndarray):
        return opened, name
    opened.close()
    raise InputError(f"{name}: this view takes one picture; give an image file, and videos to edges, colors and keypoints")


def open_input(text: str | None) -> tuple[Image | Source, str]:
    """A picture, or an open stream, and its name: file, folder, pattern, image address, video, camera, test://; the orange line's for None.

    Raises:
        InputError: nothing is there, or it cannot be used.
        UsageError: an address of a kind that cannot be opened.
    """
    if text is None:
        return stills(1)[0], "orange line"
    if is_url(text) and scheme_of(text):
        from jetlens.pipeline.inputs import Input, expand

        (found,) = expand([text])
        assert isinstance(found, Input)
        return found.image(), found.name
    source = open_source(text)
    if isinstance(source, ImageFilesSource) and source.info.frames == 1:
        return next(iter(source)).image_rgb, source.info.name
    return source, source.info.name


def stills(count: int) -> list[Image]:
    """Pictures of the orange line, [360, 640, 3]."""
    from jetlens.data.orange_line import still

    return [still(DEFAULT_SEED + index, SIZE_HW)[0] for index in range(count)]


def fruits(count: int) -> list[Image]:
    """Oranges cut out of a still of the orange line, [320, 320, 3], of another grade than the one before where there is one."""
    from jetlens.data.orange_line import crops

    left = crops(DEFAULT_SEED, (320, 320), (1080, 1920))
    chosen: list[tuple[Image, int]] = []
    while left and len(chosen) < count:
        last = chosen[-1][1] if chosen else 0
        chosen.append(left.pop(next((index for index, (_, grade) in enumerate(left) if grade != last), 0)))
    return [image for image, _ in chosen]


def fruit() -> Image:
    """One orange with an ulcer, cut out of a still of the orange line."""
    from jetlens.data.orange_line import GRADES, crops

    return next(image for image, grade in crops(DEFAULT_SEED, (320, 320), (1080, 1920)) if GRADES[grade] == "ulcer")


def reduced(image: Image) -> Image:
    """The picture itself, or a smaller one whose longer side has 640 pixels."""
    if max(image.shape[:2]) <= MOST_SIDE:
        return image
    small = PillowImage.fromarray(image)
    small.thumbnail((MOST_SIDE, MOST_SIDE))
    return np.asarray(small)


def gray_levels(image: Image) -> NDArray[np.float64]:
    """Luma of a picture (ITU-R BT.601), whole grey levels 0 to 255: float64 [height, width]."""
    return np.asarray(PillowImage.fromarray(image).convert("L"), np.float64)


def place(text: str, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Row and column out of ``ROW,COLUMN``.

    Raises:
        UsageError: it is no such pair, or lies outside.
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if found is None:
        raise UsageError(f"--at {text!r}: give row,column in pixels of the result, such as 100,200")
    row, column = int(found[1]), int(found[2])
    if row >= size_hw[0] or column >= size_hw[1]:
        raise UsageError(f"--at {text!r}: the result has {size_hw[0]} rows and {size_hw[1]} columns, counted from 0")
    return row, column
