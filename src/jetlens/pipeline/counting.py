"""Counting: objects that cross a line, objects in a zone, and the defects of each object over all frames in which it was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.results import Detections

__all__ = ["Anchor", "Crossing", "DefectTotals", "Fruit", "LineCounter", "Point", "ZoneChange", "ZoneCounter", "anchors"]

Point: TypeAlias = tuple[float, float]
"""x and y in pixels of the frame."""

Anchor = Literal["center", "bottom"]
"""Which point of a box stands for the object: its middle, or the middle of its lower edge (where people and cars touch the ground)."""

PATIENCE = 30
"""After so many frames without a box an object counts as gone."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """An object went over a line; ``forward`` is from the left hand to the right hand of one who walks from its start to its end."""

    tracker_id: int
    class_id: int
    forward: bool


@dataclass(frozen=True, slots=True)
class ZoneChange:
    """An object came into a zone or left it.

    Attributes:
        frames: with ``entered`` False, in how many frames it was seen inside.
    """

    tracker_id: int
    class_id: int
    entered: bool
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Fruit:
    """What all frames together say of one object.

    Attributes:
        class_id: the one it had most often.
        frames: in how many it was seen.
        defect_ratio: the share of its area that is defective; frames in which it is larger count for more.
        worst_ratio: the largest of a single frame.
    """

    tracker_id: int
    class_id: int
    frames: int
    defect_ratio: float
    worst_ratio: float


def anchors(detections: Detections, anchor: Anchor = "center") -> NDArray[np.float64]:
    """The point of each box that stands for its object: [N, 2]."""
    if anchor not in get_args(Anchor):
        raise UsageError(f"anchor is {anchor!r}; allowed: {', '.join(get_args(Anchor))}")
    boxes = detections.xyxy.astype(np.float64)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middle if anchor == "center" else np.stack([middle[:, 0], boxes[:, 3]], axis=1)


@dataclass(slots=True)
class _OnSide:
    """Where an object was when it was last clearly on one side of a line."""

    point: Point
    side: int
    frame: int


class LineCounter:
    """Counts the objects that cross a line, by class and direction.

    An object that goes back is counted in the other direction. One that runs past the line's ends does not cross it.

    Attributes:
        forward: crossings by class id.
        backward: crossings by class id.
    """

    def __init__(self, start: Point, end: Point, *, anchor: Anchor = "center", margin_px: float = 0.0) -> None:
        """``margin_px``: an object is on a side from this distance on, so that one which trembles on the line counts once.

        Raises:
            UsageError: the line has no length, or the margin is negative.
        """
        self.start, self.end = _point(start), _point(end)
        self._length = float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))
        if self._length == 0 or margin_px < 0:
            raise UsageError(f"line {start} to {end}, margin {margin_px}: give two different points and a margin of at least 0 pixels")
        self._anchor, self._margin = anchor, margin_px
        self._objects: dict[int, _OnSide] = {}
        self._frame = 0
        self.forward: Counter[int] = Counter()
        self.backward: Counter[int] = Counter()

    def update(self, tracked: Detections) -> list[Crossing]:
        """What crossed the line between the last frame and this one; the boxes must have ids."""
        ids = _ids(tracked)
        self._frame += 1
        found = []
        for number, class_id, xy in zip(ids.tolist(), tracked.class_id.tolist(), anchors(tracked, self._anchor).tolist(), strict=True):
            point = (xy[0], xy[1])
            side = self._side(point)
            before = self._objects.get(number)
            if before is not None:
                before.frame = self._frame
            if side == 0:
                continue
            if before is not None and before.side != side and self._between(before.point, point):
                found.append(Crossing(number, class_id, side > 0))
                (self.forward if side > 0 else self.backward)[class_id] += 1
            self._objects[number] = _OnSide(point, side, self._frame)
        self._objects = {number: one for number, one in self._objects.items() if self._frame - one.frame <= PATIENCE}
        return found

    def _side(self, point: Point) -> int:
        """-1 for the left hand, 1 for the right hand, 0 for on the line or too near to it."""
        distance = _cross(self.start, self.end, point) / self._length
        return 0 if abs(distance) <= self._margin else (1 if distance > 0 else -1)

    def _between(self, before: Point, now: Point) -> bool:
        """Whether the way from one side to the other meets the line between its ends."""
        return _cross(before, now, self.start) * _cross(before, now, self.end) <= 0


@dataclass(slots=True)
class _Inside:
    class_id: int
    frames: int
    last: int


class ZoneCounter:
    """Counts the objects in a polygon, by class.

    Attributes:
        entered: how many came in so far, by class id.
    """

    def __init__(self, corners: Sequence[Point], *, anchor: Anchor = "center") -> None:
        """``corners``: of the polygon in order, at least three; where its edges cross each other, what they enclose twice is outside.

        Raises:
            UsageError: they are fewer.
        """
        self.corners = np.array([_point(corner) for corner in corners], np.float64).reshape(-1, 2)
        if len(self.corners) < 3:
            raise UsageError(f"a zone has {len(self.corners)} corners; give at least 3 points x,y")
        self._anchor = anchor
        self._objects: dict[int, _Inside] = {}
        self._frame = 0
        self.entered: Counter[int] = Counter()

    @property
    def inside(self) -> Counter[int]:
        """How many objects are inside now, by class id."""
        return Counter(one.class_id for one in self._objects.values())

    def update(self, tracked: Detections) -> list[ZoneChange]:
        """Which objects came in and left with this frame; one that is not seen any more leaves after a second or so (30 frames)."""
        ids = _ids(tracked)
        self._frame += 1
        changes = []
        within = self.contains(anchors(tracked, self._anchor))
        for number, class_id, here in zip(ids.tolist(), tracked.class_id.tolist(), within.tolist(), strict=True):
            one = self._objects.get(number)
            if here and one is None:
                self._objects[number] = _Inside(class_id, 1, self._frame)
                self.entered[class_id] += 1
                changes.append(ZoneChange(number, class_id, True))
            elif here and one is not None:
                one.frames, one.last, one.class_id = one.frames + 1, self._frame, class_id
            elif one is not None:
                changes.append(ZoneChange(number, one.class_id, False, one.frames))
                del self._objects[number]
        for number in [number for number, one in self._objects.items() if self._frame - one.last > PATIENCE]:
            one = self._objects.pop(number)
            changes.append(ZoneChange(number, one.class_id, False, one.frames))
        return changes

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each point [N, 2] is in the polygon: how often a ray from it to the right meets an edge."""
        x, y = points[:, :1], points[:, 1:]
        one, other = self.corners, np.roll(self.corners, -1, axis=0)
        spans = (one[:, 1] > y) != (other[:, 1] > y)
        height = np.where(one[:, 1] == other[:, 1], 1, other[:, 1] - one[:, 1])
        right = one[:, 0] + (y - one[:, 1]) * (other[:, 0] - one[:, 0]) / height
        hits: NDArray[np.bool_] = np.count_nonzero(spans & (x < right), axis=1) % 2 == 1
        return hits


@dataclass(slots=True)
class _Sums:
    frames: int = 0
    area: float = 0.0
    defects: float = 0.0
    worst: float = 0.0
    last: int = 0
    classes: Counter[int] = field(default_factory=Counter)


class DefectTotals:
    """Adds up the defects of every tracked object over the frames in which it is seen."""

    def __init__(self) -> None:
        self._objects: dict[int, _Sums] = {}
        self._frame = 0

    @property
    def following(self) -> int:
        """How many objects are being added up."""
        return len(self._objects)

    def update(self, tracked: Detections, defect_ratio: NDArray[np.float32]) -> list[Fruit]:
        """Adds a frame, and gives the objects that have gone since.

        Args:
            tracked: boxes with ids; their class is the object's grade.
            defect_ratio: [N], the share of each tracked object that is defective: ``cascade.defect_ratios(mask, whole_pixels(tracked))``, after
                tracking, since a tracker leaves boxes out.
        """
        ids = _ids(tracked)
        self._frame += 1
        sides = np.maximum(tracked.xyxy[:, 2:] - tracked.xyxy[:, :2], 0).astype(np.float64)
        rows = zip(ids.tolist(), tracked.class_id.tolist(), (sides[:, 0] * sides[:, 1]).tolist(), defect_ratio.tolist(), strict=True)
        for number, class_id, area, ratio in rows:
            sums = self._objects.setdefault(number, _Sums())
            sums.frames += 1
            sums.area += area
            sums.defects += area * ratio
            sums.worst = max(sums.worst, ratio)
            sums.classes[class_id] += 1
            sums.last = self._frame
        return [self._taken(number) for number in [n for n, sums in self._objects.items() if self._frame - sums.last > PATIENCE]]

    def so_far(self, tracker_id: int) -> Fruit:
        """What is known of an object that is being added up.

        Raises:
            KeyError: there is no such object, or it has gone.
        """
        sums = self._objects[tracker_id]
        # Of classes that are equally frequent the smallest id, so that the answer does not depend on the order of frames.
        class_id = min(sums.classes, key=lambda one: (-sums.classes[one], one))
        return Fruit(tracker_id, class_id, sums.frames, sums.defects / sums.area if sums.area else 0.0, sums.worst)

    def close(self) -> list[Fruit]:
        """The objects that have not gone yet; afterwards there are none."""
        return [self._taken(number) for number in list(self._objects)]

    def _taken(self, number: int) -> Fruit:
        fruit = self.so_far(number)
        del self._objects[number]
        return fruit


def _ids(tracked: Detections) -> NDArray[np.int64]:
    if tracked.tracker_id is None:
        raise UsageError("counting needs tracked detections (tracker_id is None): pass them through Tracker.update first")
    return tracked.tracker_id


def _point(point: Point) -> Point:
    x, y = (float(value) for value in point)
    if not np.isfinite([x, y]).all():
        raise UsageError(f"point {point}: give finite x and y in pixels")
    return x, y


def _cross(start: Point, end: Point, point: Point) -> float:
    """Twice the area of the triangle; its sign tells the side of the point."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
