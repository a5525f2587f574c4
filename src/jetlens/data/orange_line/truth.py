"""The exact truth of a picture, read from the pixels that the fruit own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetlens.data.orange_line.render import Canvas, Placed

__all__ = ["CLASSES", "DETECTION_CLASSES", "GRADES", "MIN_DEFECT_RATIO", "MIN_VISIBLE_PX", "MIN_VISIBLE_RATIO", "LineTruth", "read_truth"]

CLASSES = ("background", "sunburn", "ulcer", "wind scarring")
GRADES = ("sound", "sunburn", "ulcer", "wind scarring")
DETECTION_CLASSES = ("orange",)

MIN_VISIBLE_RATIO = 0.2
"""A fruit counts when at least this share of a disc of its radius is visible ..."""
MIN_VISIBLE_PX = 16
"""... and at least this many pixels."""
MIN_DEFECT_RATIO = 0.006
"""A fruit is sound when its defects cover less than this share of its visible pixels."""


@dataclass(frozen=True, slots=True)
class LineTruth:
    """What is to be seen in one picture.

    A fruit counts when at least MIN_VISIBLE_RATIO of a disc of its radius and MIN_VISIBLE_PX pixels are visible: not
    hidden by other fruit and not outside. The others are left out of all three truths.

    Attributes:
        mask: uint8 [H, W], class ids (CLASSES) of the visible defects of the fruit that count.
        xyxy: float32 [N, 4], boxes of the visible pixels of each fruit, in pixels; the right and lower edges are exclusive.
        tracker_id: int64 [N], from 1, the same for a fruit in all frames.
        grade: int64 [N], index into GRADES: the defect with the largest visible area, sound below MIN_DEFECT_RATIO.
        defect_ratio: float32 [N], visible defect pixels over visible fruit pixels.
    """

    mask: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    tracker_id: NDArray[np.int64]
    grade: NDArray[np.int64]
    defect_ratio: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tracker_id)


def read_truth(canvas: Canvas, fruits: Sequence[Placed]) -> LineTruth:
    """Count the pixels of every fruit."""
    mask = np.zeros_like(canvas.label)
    boxes, ids, grades, ratios = [], [], [], []
    for placed in sorted(fruits, key=lambda fruit: fruit.tracker_id):
        window = canvas.window(placed.x, placed.y, 1.2 * placed.radius, 1.2 * placed.radius)
        if window is None:
            continue
        visible = canvas.owner[window] == placed.tracker_id
        count = int(np.count_nonzero(visible))
        if count < max(MIN_VISIBLE_PX, MIN_VISIBLE_RATIO * np.pi * placed.radius**2):
            continue
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        top, left = window[0].start, window[1].start
        boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
        labels = canvas.label[window]
        areas = np.bincount(labels[visible], minlength=len(CLASSES))[1:]
        ratio = int(areas.sum()) / count
        ids.append(placed.tracker_id)
        grades.append(1 + int(areas.argmax()) if ratio >= MIN_DEFECT_RATIO else 0)
        ratios.append(ratio)
        mask[window][visible] = labels[visible]
    return LineTruth(
        mask=mask,
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        tracker_id=np.array(ids, np.int64),
        grade=np.array(grades, np.int64),
        defect_ratio=np.array(ratios, np.float32),
    )
