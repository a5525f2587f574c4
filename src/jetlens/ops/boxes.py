"""Boxes as float32 [N, 4] left, top, right, bottom: their overlap and non-maximum suppression."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["iou_matrix", "nms"]

_MATRIX_LIMIT = 512
"""Up to so many boxes all overlaps are computed at once; above it class by class, and in a class as large, row by row for the boxes that are kept."""
_TINY = np.finfo(np.float32).tiny


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every box of ``a`` [N, 4] with every box of ``b`` [M, 4]: float32 [N, M]; 0 where both are empty."""
    sides_a = np.ascontiguousarray(a.T, np.float32)
    sides_b = sides_a if a is b else np.ascontiguousarray(b.T, np.float32)
    # Both axes in one array: with few boxes the calls cost more than what they compute.
    size = np.minimum(sides_a[2:, :, None], sides_b[2:, None])
    size -= np.maximum(sides_a[:2, :, None], sides_b[:2, None])
    np.maximum(size, 0, out=size)
    shared: NDArray[np.float32] = np.multiply(size[0], size[1], out=size[0])
    area_a = _areas(sides_a)
    union = np.add(area_a[:, None], area_a if a is b else _areas(sides_b), out=size[1])
    union -= shared
    # Where both are empty the union is 0, and so is what they share.
    np.maximum(union, _TINY, out=union)
    shared /= union
    return shared


def _areas(sides: NDArray[np.float32]) -> NDArray[np.float32]:
    size = sides[2:] - sides[:2]
    areas: NDArray[np.float32] = np.multiply(size[0], size[1], out=size[0])
    return areas


def nms(
    xyxy: NDArray[np.float32],
    confidence: NDArray[np.float32],
    class_id: NDArray[np.integer[Any]],
    iou: float,
    *,
    max_detections: int = 300,
) -> NDArray[np.int64]:
    """Indices of the boxes that no more confident box of their class overlaps by more than ``iou``, most confident first.

    Boxes [N, 4], the other two [N]. Equal confidences keep the order in which they came.
    """
    order = (-confidence).argsort(kind="stable")
    boxes, classes = xyxy[order], class_id[order]
    if len(order) <= _MATRIX_LIMIT:
        dead = _suppressed(boxes, classes, np.float32(iou))
    else:
        dead = np.zeros(len(order), bool)
        for one_class in np.unique(classes):
            group = np.flatnonzero(classes == one_class)
            if len(group) <= _MATRIX_LIMIT:
                dead[group] = _suppressed(boxes[group], classes[group], np.float32(iou))
            else:
                dead[group] = _suppressed_by_rows(boxes[group], np.float32(iou), max_detections)
    return order[~dead][:max_detections].astype(np.int64, copy=False)


def _suppressed(boxes: NDArray[np.float32], classes: NDArray[np.integer[Any]], iou: np.float32) -> NDArray[np.bool_]:
    """Which boxes a more confident one of their class rules out; they are sorted by confidence."""
    dead = np.zeros(len(boxes), bool)
    if len(boxes) < 2:
        return dead
    overlapping = iou_matrix(boxes, boxes) > iou
    overlapping &= classes[:, None] == classes
    overlapping &= _later()[: len(boxes), : len(boxes)]
    # Most boxes overlap none: only the others are looked at one by one.
    for index in np.logical_or.reduce(overlapping, axis=1).nonzero()[0].tolist():
        if not dead[index]:
            dead |= overlapping[index]
    return dead


@lru_cache(maxsize=1)
def _later() -> NDArray[np.bool_]:
    """Which of sorted boxes comes after which: read-only [512, 512], made at the first use since that takes a millisecond."""
    later = np.triu(np.ones((_MATRIX_LIMIT, _MATRIX_LIMIT), bool), 1)
    later.setflags(write=False)
    return later


def _suppressed_by_rows(boxes: NDArray[np.float32], iou: np.float32, limit: int) -> NDArray[np.bool_]:
    """The same for boxes of one class that are too many for a matrix; those after the first ``limit`` that are kept count as ruled out."""
    dead = np.zeros(len(boxes), bool)
    kept = 0
    for index in range(len(boxes)):
        if dead[index]:
            continue
        kept += 1
        if kept == limit:
            dead[index + 1 :] = True
            break
        dead[index + 1 :] |= iou_matrix(boxes[index : index + 1], boxes[index + 1 :])[0] > iou
    return dead
