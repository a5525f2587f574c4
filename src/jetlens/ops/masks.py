"""Class-id masks: from a network's scores to ids, from its canvas back to the source picture, and the colours of ids."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.ops.buffers import BufferPool
from jetlens.ops.opencv import cv2_if_there
from jetlens.ops.placement import Placement

__all__ = ["class_ids", "resize_mask", "voc_palette"]

_SCRATCH = BufferPool()


def class_ids(logits: NDArray[Any]) -> NDArray[np.uint8]:
    """The class with the highest score at each pixel: [C, h, w] to uint8 [h, w]; the first of equals, as argmax."""
    best = logits[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    winner = np.empty(best.shape, np.uint8)
    for class_id in range(1, len(logits)):
        np.greater(logits[class_id], best, out=winner.view(bool))
        np.maximum(best, logits[class_id], out=best)
        # Ids grow, so the largest winner is the last: cheaper than a masked copy.
        np.multiply(winner, np.uint8(class_id), out=winner)
        np.maximum(ids, winner, out=ids)
    return ids


def resize_mask(mask: NDArray[Any], placement: Placement, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """A network's mask [h, w] at the size of the source picture: uint8 [source_h, source_w], written into ``out`` if given.

    Each source pixel takes the id at its own centre's place on the canvas (nearest neighbour, the exact inverse of the placement); the mask
    may be of another size than the canvas that it covers. What a crop cut off is 0, the background.
    """
    (source_h, source_w), (canvas_h, canvas_w) = placement.source_hw, placement.canvas_hw
    height, width = mask.shape
    columns, (left, right) = _indices(source_w, canvas_w, width, placement.scale_xy[0], placement.offset_xy[0])
    rows, (top, bottom) = _indices(source_h, canvas_h, height, placement.scale_xy[1], placement.offset_xy[1])
    if out is None:
        out = np.empty((source_h, source_w), np.uint8)
    narrow = mask if mask.dtype == np.uint8 else mask.astype(np.uint8)
    wide = _take_columns(narrow, columns)
    if (left, right, top, bottom) == (0, source_w, 0, source_h):
        np.take(wide, rows, axis=0, out=out, mode="clip")
        return out
    out[...] = 0
    out[top:bottom, left:right] = wide[rows]
    return out


def _take_columns(mask: NDArray[np.uint8], columns: NDArray[np.intp]) -> NDArray[np.uint8]:
    cv2 = cv2_if_there()
    if cv2 is None or not len(columns):
        return np.take(mask, columns, axis=1)
    # Whole rows are copied four times as fast as single pixels.
    tall = _SCRATCH.take((len(columns), len(mask)))
    np.take(cv2.transpose(mask), columns, axis=0, out=tall, mode="clip")
    wide: NDArray[np.uint8] = cv2.transpose(tall, dst=_SCRATCH.take((len(mask), len(columns))))
    return wide


@lru_cache(maxsize=64)
def _indices(source: int, canvas: int, mask: int, scale: float, offset: float) -> tuple[NDArray[np.intp], tuple[int, int]]:
    """For one axis: the mask's index for each source pixel that is on the canvas, and the span of those pixels."""
    on_canvas = (np.arange(source) + 0.5) * scale + offset
    inside = np.flatnonzero((on_canvas >= 0) & (on_canvas < canvas))
    if not len(inside):
        return np.empty(0, np.intp), (0, 0)
    first, last = int(inside[0]), int(inside[-1]) + 1
    indices = np.minimum((on_canvas[first:last] * (mask / canvas)).astype(np.intp), mask - 1)
    indices.setflags(write=False)
    return indices, (first, last)


@lru_cache(maxsize=1)
def voc_palette() -> NDArray[np.uint8]:
    """The colours of PASCAL VOC for 256 class ids: uint8 [256, 3] in RGB, read-only; id 0 is black."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    palette.setflags(write=False)
    return palette
