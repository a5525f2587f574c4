"""Boxes as float32 [N, 4] left, top, right, bottom: their overlap and non-maximum suppression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["iou_matrix", "nms"]

_MATRIX_LIMIT = 512
"""Up to so many boxes of a class all overlaps are computed at once; above it, row by row for the boxes that are kept."""


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
    alive = np.zeros(len(order), bool)
    for one_class in np.unique(classes):
        members = np.flatnonzero(classes == one_class)
        alive[members[_greedy(boxes[members], np.float32(iou), max_detections)]] = True
    return order[alive][:max_detections].astype(np.int64, copy=False)


def _greedy(boxes: NDArray[np.float32], iou: np.float32, limit: int) -> list[int]:
    """Indices of the boxes to keep out of those of one class, which are sorted by confidence."""
    count = len(boxes)
    overlapping = iou_matrix(boxes, boxes) > iou if 1 < count <= _MATRIX_LIMIT else None
    dead = np.zeros(count, bool)
    kept: list[int] = []
    for index in range(count):
        if dead[index]:
            continue
        kept.append(index)
        if len(kept) == limit:
            break
        if overlapping is not None:
            dead |= overlapping[index]
        elif count > 1:
            dead[index:] |= iou_matrix(boxes[index : index + 1], boxes[index:])[0] > iou
    return kept
