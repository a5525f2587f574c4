"""Placement: where a source picture stands on a network's canvas, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Placement"]


@dataclass(frozen=True, slots=True)
class Placement:
    """An axis-aligned map from source pixels to canvas pixels: ``canvas = source * scale + offset`` (corner coordinates).

    Attributes:
        source_hw: height and width of the source picture.
        canvas_hw: height and width of the network's input.
        scale_xy: canvas pixels per source pixel, horizontally and vertically.
        offset_xy: canvas position of the source's top left corner; negative where a crop cuts it off.
    """

    source_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def boxes_to_source(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [N, 4] in canvas pixels as boxes in source pixels, clipped to the picture."""
        height, width = self.source_hw
        scale, offset, limit = np.array((self.scale_xy * 2, self.offset_xy * 2, (width, height) * 2), np.float32)
        source: NDArray[np.float32] = np.subtract(xyxy, offset, dtype=np.float32)
        source /= scale
        np.maximum(source, 0, out=source)
        np.minimum(source, limit, out=source)
        return source

    def boxes_to_canvas(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [N, 4] in source pixels as boxes in canvas pixels, not clipped."""
        scale = np.array(self.scale_xy * 2, np.float32)
        return (xyxy * scale + np.array(self.offset_xy * 2, np.float32)).astype(np.float32, copy=False)

    def content_xyxy(self) -> tuple[int, int, int, int]:
        """The part of the canvas that holds the picture: left, top, right, bottom in whole pixels."""
        left, top = self.offset_xy
        height, width = self.source_hw
        right, bottom = left + width * self.scale_xy[0], top + height * self.scale_xy[1]
        canvas_h, canvas_w = self.canvas_hw
        return max(0, round(left)), max(0, round(top)), min(canvas_w, round(right)), min(canvas_h, round(bottom))
