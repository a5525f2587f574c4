"""Images and frames as they travel through jetlens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "Image"]

Image: TypeAlias = NDArray[np.uint8]
"""One picture: uint8, shape [height, width, 3], RGB, C-contiguous unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a stream.

    Attributes:
        image_rgb: uint8 [height, width, 3], RGB.
        index: position in its stream, from 0.
        pts_s: presentation time in seconds from the start of the stream.
        captured_s: reading of ``time.monotonic()`` when the frame was obtained.
        stream: the name of the stream, the file's or camera's.
    """

    image_rgb: Image
    index: int
    pts_s: float
    captured_s: float
    stream: str

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image_rgb.shape[0], self.image_rgb.shape[1]

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"Frame({self.stream!r}, index={self.index}, {width}x{height}, pts_s={self.pts_s:.3f})"
