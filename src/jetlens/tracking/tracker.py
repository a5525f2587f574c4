"""Tracker: boxes of the same object in following frames get the same id."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.ops.boxes import iou_matrix, nms
from jetlens.results import Detections
from jetlens.tracking.assignment import best_pairs
from jetlens.tracking.motion import Motion, corners, started

__all__ = ["Tracker", "TrackerOptions"]


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """When boxes belong together.

    Attributes:
        high: boxes of at least this confidence are matched first, with all tracks.
        low: those down to this one then get a chance with the tracks that are still without a box and were seen in the frame before.
        start: a box that nothing claims begins a track from this confidence on.
        overlap: least IoU times confidence in the first round.
        low_overlap: least IoU in the second.
        confirm: frames in a row in which a new object must be seen before it gets an id; more hide false boxes, and the first frames of true ones.
        lost_s: how long an unseen object keeps its id, in seconds of the stream.
        fps: frames a second that the motion's noise is meant for.
        same_class: whether only boxes of one class may belong to one track.
        same_object: boxes whose IoU is above this are one object, whatever their classes, and the most confident one stands for it; not with
            ``same_class``.
    """

    high: float = 0.5
    low: float = 0.1
    start: float = 0.5
    overlap: float = 0.2
    low_overlap: float = 0.5
    confirm: int = 1
    lost_s: float = 1.0
    fps: float = 30.0
    same_class: bool = False
    same_object: float = 0.7

    def __post_init__(self) -> None:
        shares = ("high", "low", "start", "overlap", "low_overlap", "same_object")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"tracking: {name} is {getattr(self, name)}; give a number from 0 to 1")
        if self.low > self.high or self.start < self.low:
            raise UsageError(f"tracking: low is {self.low}, high {self.high}, start {self.start}; give low <= high and low <= start")
        if self.confirm < 1 or not 0 <= self.lost_s < 3600 or not 0 < self.fps <= 1000:
            raise UsageError(
                f"tracking: confirm {self.confirm}, lost_s {self.lost_s}, fps {self.fps}; give at least 1, 0 to 3600 and up to 1000"
            )


DEFAULTS = TrackerOptions()


@dataclass(frozen=True, slots=True)
class _Tracks:
    """T objects; a row an object.

    Attributes:
        number: the id, or 0 before one was given.
        seen: frames in a row in which it was seen, or 0 if it was not in the last one.
        seen_s: when it was seen last.
        class_id: of its last box.
    """

    motion: Motion
    number: NDArray[np.int64]
    seen: NDArray[np.int64]
    seen_s: NDArray[np.float64]
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.number)

    def picked(self, index: NDArray[np.bool_]) -> _Tracks:
        return _Tracks(*(getattr(self, row.name)[index] for row in fields(self)))

    def joined(self, other: _Tracks) -> _Tracks:
        rest = (np.concatenate([getattr(self, row.name), getattr(other, row.name)]) for row in fields(self)[1:])
        return _Tracks(self.motion.joined(other.motion), *rest)


def _new_tracks(xyxy: NDArray[np.float32], class_id: NDArray[np.int64], now_s: float) -> _Tracks:
    count = len(xyxy)
    return _Tracks(started(xyxy), np.zeros(count, np.int64), np.ones(count, np.int64), np.full(count, now_s), class_id)


class Tracker:
    """Gives the boxes of one stream ids that stay with their objects.

    After ByteTrack's idea (Zhang et al. 2022): boxes of high confidence are matched with the predicted places of all tracks by an exact
    assignment over their overlap, then boxes of low confidence with the tracks left over, so that an object half hidden keeps its id. Ids
    count from 1 and are never used again. What it keeps is bounded by the boxes of the last ``lost_s`` seconds.
    """

    def __init__(self, options: TrackerOptions = DEFAULTS) -> None:
        self.options = options
        self._tracks = _new_tracks(np.empty((0, 4), np.float32), np.empty(0, np.int64), 0.0)
        self._last_s: float | None = None
        self._given = 0

    @property
    def following(self) -> int:
        """How many objects are followed, unseen ones included."""
        return len(self._tracks)

    def update(self, detections: Detections, pts_s: float) -> Detections:
        """The detections of the next frame that belong to a track, in their order, with ``tracker_id``.

        Left out are boxes that no track claims and that are too uncertain to begin one, and all but one of an object's. The order of the detections changes no id.

        Args:
            detections: load the model with a confidence near ``low`` so that its uncertain boxes come too.
            pts_s: the frame's time; where it does not grow (a stream that began anew) one frame is taken to have passed.
        """
        # The same boxes in another order are the same frame.
        order = np.lexsort((*detections.xyxy.T[::-1], detections.class_id, -detections.confidence))
        order = order[np.isfinite(detections.xyxy[order]).all(axis=1) & (detections.confidence[order] >= self.options.low)]
        if not self.options.same_class:
            # Detectors suppress class by class: one that cannot tell a car from a truck gives both, and they would be two objects.
            xyxy, confidence = detections.xyxy[order], detections.confidence[order]
            order = order[nms(xyxy, confidence, np.zeros(len(order), np.int64), self.options.same_object, max_detections=len(order))]
        boxes = detections[order]
        self._advance(pts_s)
        owner = self._matched(boxes)
        ids = self._settle(boxes, owner, pts_s)
        kept = np.flatnonzero(ids)
        kept = kept[np.argsort(order[kept], kind="stable")]
        return replace(detections[order[kept]], tracker_id=ids[kept])

    def _advance(self, pts_s: float) -> None:
        """Moves every track to the frame's time."""
        last = self._last_s
        passed = pts_s - last if last is not None else 0.0
        if passed <= 0:
            # Without a usable time the unseen ones age by one frame.
            passed = 1 / self.options.fps
            self._tracks = replace(self._tracks, seen_s=self._tracks.seen_s - (0.0 if last is None else last + passed - pts_s))
        self._last_s = pts_s
        young = pts_s - self._tracks.seen_s <= self.options.lost_s + 0.5 / self.options.fps
        if not young.all():
            self._tracks = self._tracks.picked(young)
        self._tracks = replace(self._tracks, motion=self._tracks.motion.predicted(passed * self.options.fps))

    def _matched(self, boxes: Detections) -> NDArray[np.int64]:
        """The row of the track that claims each box, or -1."""
        owner = np.full(len(boxes), -1, np.int64)
        if not len(boxes) or not len(self._tracks):
            return owner
        overlap = iou_matrix(corners(self._tracks.motion), boxes.xyxy)
        if self.options.same_class:
            overlap *= self._tracks.class_id[:, None] == boxes.class_id
        sure = boxes.confidence >= self.options.high
        first = overlap * boxes.confidence * sure - self.options.overlap
        for row, column in best_pairs(first):
            owner[column] = row
        free = self._tracks.seen > 0
        free[owner[owner >= 0]] = False
        second = np.where(free[:, None] & ~sure, overlap - self.options.low_overlap, 0)
        for row, column in best_pairs(second):
            owner[column] = row
        return owner

    def _settle(self, boxes: Detections, owner: NDArray[np.int64], pts_s: float) -> NDArray[np.int64]:
        """Takes the boxes into their tracks, begins new ones, and gives the id of each box, 0 for none."""
        tracks, ids = self._tracks, np.zeros(len(boxes), np.int64)
        claimed = np.flatnonzero(owner >= 0)
        rows = owner[claimed]
        seen, seen_s, class_id = np.zeros_like(tracks.seen), tracks.seen_s.copy(), tracks.class_id.copy()
        seen[rows] = tracks.seen[rows] + 1
        seen_s[rows] = pts_s
        class_id[rows] = boxes.class_id[claimed]
        motion = tracks.motion.corrected(rows, boxes.xyxy[claimed]) if len(rows) else tracks.motion
        tracks = replace(tracks, motion=motion, seen=seen, seen_s=seen_s, class_id=class_id)
        begun = np.flatnonzero((owner < 0) & (boxes.confidence >= self.options.start))
        place = np.concatenate([rows, len(tracks) + np.arange(len(begun))])
        tracks = tracks.joined(_new_tracks(boxes.xyxy[begun], boxes.class_id[begun], pts_s))
        from_box = np.concatenate([claimed, begun])
        # In the order of the boxes, so that new ids follow it.
        sequence = np.argsort(from_box, kind="stable")
        number = tracks.number.copy()
        for box, row in zip(from_box[sequence], place[sequence], strict=True):
            if number[row] == 0 and tracks.seen[row] >= self.options.confirm:
                self._given += 1
                number[row] = self._given
            ids[box] = number[row]
        # What was seen once and not again before it got an id was no object.
        alive = (number > 0) | (tracks.seen > 0)
        self._tracks = replace(tracks, number=number).picked(alive)
        return ids
