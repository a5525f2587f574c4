"""Masks of class ids: read from files, and painted from polygons and run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from jetlens.data.base import IGNORED, LabelError
from jetlens.errors import ImageError
from jetlens.imagefile import DEFAULT_MAX_PIXELS

__all__ = ["Region", "checked_ids", "decode_runs", "paint_regions", "polygon_of", "read_mask", "unpack_runs"]

_FORMATS: Final = ("PNG", "BMP", "TIFF", "GIF")
"""Lossless ones: JPEG would change class ids."""

Region = tuple[int, "Sequence[NDArray[np.float64]] | NDArray[np.bool_]"]
"""A class id and where it is: polygons [K, 2] of x and y in pixels, or a mask [height, width]."""


def read_mask(path: Path, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """The class ids of a mask file [height, width]: palette indices or grey levels.

    Raises:
        ImageError: the file cannot be read.
        LabelError: the file is missing, has another size than the picture, or holds colours in place of ids.
    """
    if not path.is_file():
        raise LabelError("missing-mask", path, "there is no such mask")
    try:
        with PillowImage.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > DEFAULT_MAX_PIXELS:
                raise ImageError("too-large", path, f"the mask is {picture.width} x {picture.height} pixels")
            if (picture.height, picture.width) != size_hw:
                raise LabelError(
                    "mask-size", path, f"is {picture.width}x{picture.height}, its picture is {size_hw[1]}x{size_hw[0]}; they must be equal"
                )
            values = np.asarray(picture)
    except UnidentifiedImageError:
        raise ImageError("not-an-image", path, f"a mask is a file of class ids, one of {', '.join(_FORMATS)}") from None
    except (ImageError, LabelError):
        raise
    except Exception as error:  # the decoders raise whatever their parsing runs into
        raise ImageError("damaged", path, f"the mask cannot be decoded: {str(error)[:80]}") from None
    if values.ndim == 3:
        if not (values[..., :3] == values[..., :1]).all():
            raise LabelError("mask-colors", path, "is coloured; save class ids as grey levels or with a palette")
        values = values[..., 0]
    if values.dtype != np.bool_ and int(values.max()) > IGNORED:
        raise LabelError(
            "unknown-mask-id", path, f"holds the id {int(values.max())}; ids are 0 to 254, and 255 for pixels that do not count"
        )
    return values.astype(np.uint8)


def checked_ids(mask: NDArray[np.uint8], classes: int, file: str | Path) -> NDArray[np.uint8]:
    """The mask, if all its ids are classes or 255.

    Raises:
        LabelError: it holds another id.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = np.flatnonzero(counts[classes:IGNORED])
    if len(wrong):
        found = classes + int(wrong[0])
        raise LabelError(
            "unknown-mask-id", file, f"holds the id {found} ({counts[found]} pixels); allowed: 0 to {classes - 1}, and 255 for none"
        )
    return mask


def paint_regions(regions: Sequence[Region], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """One mask of class ids, 0 where there is no region; large regions first, so that small ones stay visible."""
    layers = [(class_id, shape if isinstance(shape, np.ndarray) else _filled(shape, size_hw)) for class_id, shape in regions]
    mask = np.zeros(size_hw, np.uint8)
    for class_id, layer in sorted(layers, key=lambda row: -int(row[1].sum())):
        mask[layer] = class_id
    return mask


def _filled(polygons: Sequence[NDArray[np.float64]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside one of the polygons."""
    filled = np.zeros(size_hw, np.bool_)
    for polygon in polygons:
        # A row's edges in turn open and close the polygon: each crossing flips all pixels whose centres lie to its right.
        start, end = polygon, np.roll(polygon, -1, axis=0)
        first, last = (
            np.clip(np.ceil(pick(start[:, 1], end[:, 1]) - 0.5), 0, size_hw[0]).astype(np.int64) for pick in (np.minimum, np.maximum)
        )
        count = last - first
        edge = np.repeat(np.arange(len(polygon)), count)
        if not len(edge):
            continue
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
        slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
        crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
        column = np.clip(np.ceil(crossing - 0.5), 0, size_hw[1]).astype(np.int64)
        top, left, right = int(row.min()), int(column.min()), int(column.max())
        flips = np.zeros((int(row.max()) - top + 1, right - left + 1), np.int32)
        np.add.at(flips, (row - top, column - left), 1)
        filled[top : top + len(flips), left:right] |= (np.cumsum(flips, axis=1) % 2 == 1)[:, :-1]
    return filled


def decode_runs(runs: Sequence[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """COCO's run lengths, column after column, of zeros and ones in turn: a mask [height, width].

    Raises:
        ValueError: they do not add up to the picture.
    """
    height, width = size_hw
    if height * width > DEFAULT_MAX_PIXELS or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"the run lengths add up to {sum(runs)}, the picture has {height * width} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, np.asarray(runs, np.int64))
    return np.ascontiguousarray(flat.reshape(width, height).T)


def unpack_runs(text: str) -> list[int]:
    """COCO's packed run lengths: numbers of 5 bits a character, from the third one on as differences to the last but one.

    Raises:
        ValueError: a character is not of the packing, or the last number has no end.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{letter!r} is no packed run length")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the packed run lengths break off")
    return runs


def polygon_of(values: Sequence[Any]) -> NDArray[np.float64]:
    """A polygon [K, 2] from x and y in turn.

    Raises:
        ValueError: these are not at least three points of finite numbers.
    """
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"a polygon has {len(values)} numbers; it needs x and y of at least three points")
    points = np.array([float(value) for value in values]).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a polygon has a coordinate that is no finite number")
    return points
