"""Boxes as float32 [N, 4] left, top, right, bottom: their overlap and non-maximum suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["iou_matrix", "nms"]

_MATRIX_LIMIT = 512
"""Up to so many boxes all overlaps are computed at once; above it class by class, and in a class as large, row by row for the boxes that are kept."""


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every box of ``a`` [N, 4] with every box of ``b`` [M, 4]: float32 [N, M]; 0 where both are empty."""
    left_a, top_a, right_a, bottom_a = np.ascontiguousarray(a.T, np.float32)[:, :, None]
    left_b, top_b, right_b, bottom_b = np.ascontiguousarray(b.T, np.float32)[:, None, :]
    shared: NDArray[np.float32] = np.minimum(right_a, right_b)
    shared -= np.maximum(left_a, left_b)
    np.maximum(shared, 0, out=shared)
    height = np.minimum(bottom_a, bottom_b)
    height -= np.maximum(top_a, top_b)
    np.maximum(height, 0, out=height)
    shared *= height
    union = (right_a - left_a) * (bottom_a - top_a) + (right_b - left_b) * (bottom_b - top_b)
    union -= shared
    # Where both are empty the union is 0, and so is what they share.
    np.maximum(union, np.finfo(np.float32).tiny, out=union)
    shared /= union
    return shared


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
    order = np.argsort(-confidence, kind="stable")
    boxes, classes = xyxy[order], class_id[order]
    whole = len(order) <= _MATRIX_LIMIT
    groups: list[Any] = [slice(None)] if whole else [np.flatnonzero(classes == one_class) for one_class in np.unique(classes)]
    dead = np.zeros(len(order), bool)
    for group in groups:
        if whole or len(group) <= _MATRIX_LIMIT:
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
    overlapping = np.triu(overlapping, 1)
    # Most boxes overlap none: only the others are looked at one by one.
    for index in np.flatnonzero(overlapping.any(axis=1)).tolist():
        if not dead[index]:
            dead |= overlapping[index]
    return dead


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
