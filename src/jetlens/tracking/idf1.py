"""IDF1: how much of the truth is followed under one id (Ristani et al. 2016, Performance Measures for Multi-Target Multi-Camera Tracking)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import DataError
from jetlens.ops.boxes import iou_matrix
from jetlens.results import Detections
from jetlens.tracking.assignment import best_pairs

__all__ = ["IdentityScore", "identity_score"]


@dataclass(frozen=True, slots=True)
class IdentityScore:
    """Counts of boxes, all frames together.

    Attributes:
        matched: IDTP, boxes whose true and tracked id belong together; one id belongs to one other over the whole stream.
        true_boxes: IDTP + IDFN.
        tracked_boxes: IDTP + IDFP.
        true_ids: how many objects there are.
        tracked_ids: how many ids were given.
        changes: how often an object is seen under another id than the last time.
    """

    matched: int
    true_boxes: int
    tracked_boxes: int
    true_ids: int
    tracked_ids: int
    changes: int

    @property
    def idf1(self) -> float:
        """2 IDTP / (2 IDTP + IDFP + IDFN); 1 where nothing is there and nothing was tracked."""
        boxes = self.true_boxes + self.tracked_boxes
        return 2 * self.matched / boxes if boxes else 1.0

    @property
    def idp(self) -> float:
        """Of the tracked boxes, the share under the right id."""
        return self.matched / self.tracked_boxes if self.tracked_boxes else 1.0

    @property
    def idr(self) -> float:
        """Of the true boxes, the share that was tracked under the right id."""
        return self.matched / self.true_boxes if self.true_boxes else 1.0


def identity_score(tracked: Sequence[Detections], truth: Sequence[Detections], *, iou: float = 0.5) -> IdentityScore:
    """The score of tracked boxes against true ones; one of each a frame, both with their ``tracker_id``.

    True and tracked ids are matched one to one over the whole stream so that the boxes they share (IoU of at least ``iou`` in the same frame)
    are the most.

    Raises:
        DataError: the counts differ, or ids are missing.
    """
    if len(tracked) != len(truth):
        raise DataError(f"{len(tracked)} tracked frames came for {len(truth)} true ones; give one for each")
    shared: Counter[tuple[int, int]] = Counter()
    last: dict[int, int] = {}
    changes = 0
    true_ids: set[int] = set()
    tracked_ids: set[int] = set()
    for seen, real in zip(tracked, truth, strict=True):
        seen_id, real_id = _ids(seen), _ids(real)
        true_ids.update(real_id.tolist())
        tracked_ids.update(seen_id.tolist())
        overlap = iou_matrix(real.xyxy, seen.xyxy)
        for row, column in np.argwhere(overlap >= iou):
            shared[int(real_id[row]), int(seen_id[column])] += 1
        for row, column in best_pairs(np.where(overlap >= iou, overlap, 0)):
            one, other = int(real_id[row]), int(seen_id[column])
            changes += last.get(one, other) != other
            last[one] = other
    matched = _most(shared)
    return IdentityScore(
        matched, sum(len(real) for real in truth), sum(len(seen) for seen in tracked), len(true_ids), len(tracked_ids), changes
    )


def _most(shared: Counter[tuple[int, int]]) -> int:
    """The boxes shared under the best one-to-one match of ids."""
    rows = {one: index for index, one in enumerate(sorted({one for one, _ in shared}))}
    columns = {other: index for index, other in enumerate(sorted({other for _, other in shared}))}
    counts = np.zeros((len(rows), len(columns)))
    for (one, other), count in shared.items():
        counts[rows[one], columns[other]] = count
    return int(sum(counts[row, column] for row, column in best_pairs(counts)))


def _ids(detections: Detections) -> NDArray[np.int64]:
    if detections.tracker_id is None:
        raise DataError("these detections have no tracker_id; give what Tracker.update returned, or a truth with ids")
    return detections.tracker_id
