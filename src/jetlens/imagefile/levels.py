"""Decoded pictures of any Pillow mode to uint8 RGB."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from jetlens.errors import ImageError
from jetlens.frame import Image

_BAND_PIXELS: Final = 65_536


def rgb_pixels(upright: PillowImage.Image, picture: ImageFile, name: str) -> Image:
    """The RGB array of a decoded picture of any mode; ``picture`` is the file it came from, with its tags."""
    mode = upright.mode
    if mode == "RGB":
        return _packed(upright)
    if mode.startswith("I"):
        return _grey_to_rgb(_integer_levels(upright, picture, name))
    if mode == "F":
        return _grey_to_rgb(_float_levels(np.asarray(upright), name))
    # Alpha is dropped; without this entry Pillow neither warns about a palette's alpha nor carries it along.
    upright.info.pop("transparency", None)
    if mode in ("RGBa", "La"):
        upright = upright.convert(mode.upper())
    try:
        return _packed(upright.convert("RGB"))
    except ValueError as error:  # L*a*b* in older Pillow
        raise ImageError("unsupported-pixels", name, f"this Pillow cannot convert its colours ({mode}) to RGB") from error


def _packed(picture: PillowImage.Image) -> Image:
    """The array of an RGB picture, converted a band at a time: the intermediate copies that Pillow makes then stay in the cache."""
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)))
    return rgb


def _integer_levels(upright: PillowImage.Image, picture: ImageFile, name: str) -> NDArray[np.uint8]:
    """Grey levels of 12, 16 and 32-bit integers: the high byte of the range."""
    values = np.asarray(upright)
    tags: Any = getattr(picture, "tag_v2", {})
    bits, signed = tags.get(258, (16,))[0], tags.get(339, (1,))[0] == 2
    top = {12: 4095, 16: 32767 if signed else 65535}.get(bits, 65535)
    if upright.mode == "I" or bits == 12:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > top:
            raise ImageError("unsupported-pixels", name, f"its integers lie in {low} to {high}; allowed are 0 to {top}")
    return (values >> (top.bit_length() - 8)).astype(np.uint8)


def _float_levels(values: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise ImageError("unsupported-pixels", name, "its float values are not all finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255:
        raise ImageError("unsupported-pixels", name, f"its float values lie in {low:.4g} to {high:.4g}; allowed are 0 to 1 or 0 to 255")
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def _grey_to_rgb(grey: NDArray[np.uint8]) -> Image:
    rgb = np.empty((*grey.shape, 3), np.uint8)
    rgb[...] = grey[..., None]
    return rgb
