"""Events: what happened on a stream, as JSON lines and as POSTs to an address that the user gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jetlens.media.jsonlines import JsonLines
from jetlens.pipeline.counting import DefectTotals, LineCounter, ZoneCounter
from jetlens.results import Detections, label_of

__all__ = [
    "DefectFound",
    "Event",
    "EventLog",
    "LineCrossed",
    "ObjectWatch",
    "StreamBack",
    "StreamStalled",
    "StreamWatch",
    "ZoneEntered",
    "ZoneLeft",
    "to_record",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened on a stream.

    Attributes:
        stream: its name without credentials.
        pts_s: when, in seconds of the stream.
    """

    kind: ClassVar[str]

    stream: str
    pts_s: float


@dataclass(frozen=True, slots=True)
class LineCrossed(Event):
    """An object crossed a line."""

    kind: ClassVar[str] = "line-crossed"

    line: str
    direction: str
    tracker_id: int
    label: str


@dataclass(frozen=True, slots=True)
class ZoneEntered(Event):
    """An object came into a zone; ``inside`` counts all objects in it now."""

    kind: ClassVar[str] = "zone-entered"

    zone: str
    tracker_id: int
    label: str
    inside: int


@dataclass(frozen=True, slots=True)
class ZoneLeft(Event):
    """An object left a zone, or is not seen any more."""

    kind: ClassVar[str] = "zone-left"

    zone: str
    tracker_id: int
    label: str
    inside: int


@dataclass(frozen=True, slots=True)
class DefectFound(Event):
    """The defects of an object, over all its frames so far, went above the threshold; told once an object."""

    kind: ClassVar[str] = "defect-found"

    tracker_id: int
    label: str
    defect_ratio: float
    frames: int


@dataclass(frozen=True, slots=True)
class StreamStalled(Event):
    """A stream gives no frames any more."""

    kind: ClassVar[str] = "stream-stalled"

    reason: str


@dataclass(frozen=True, slots=True)
class StreamBack(Event):
    """A stream that had stalled gives frames again."""

    kind: ClassVar[str] = "stream-back"

    down_s: float


def to_record(event: Event, time: datetime | None = None) -> dict[str, Any]:
    """The event as plain values, ready for JSON: its kind, the wall clock in UTC (now if not given), and its own fields."""
    moment = time or datetime.now(timezone.utc)
    fields = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(event).items()}
    return {"event": event.kind, "time": moment.isoformat(timespec="milliseconds"), **fields}


class EventLog:
    """Writes each event as one JSON line."""

    def __init__(self, lines: JsonLines, clock: Callable[[], datetime] | None = None) -> None:
        self._lines = lines
        self._clock = clock or _now

    def send(self, event: Event) -> None:
        """Writes one event.

        Raises:
            OutputError: it cannot be written.
        """
        self._lines.write(to_record(event, self._clock()))


class ObjectWatch:
    """Turns the tracked objects of one stream into events."""

    def __init__(
        self,
        stream: str,
        *,
        lines: Mapping[str, LineCounter] | None = None,
        zones: Mapping[str, ZoneCounter] | None = None,
        defect_above: float | None = None,
        least_frames: int = 3,
    ) -> None:
        """``defect_above``: share of an object's area above which it is told, once it was seen in ``least_frames`` frames."""
        self.stream = stream
        self.lines = dict(lines or {})
        self.zones = dict(zones or {})
        self.defects = DefectTotals()
        self._defect_above, self._least_frames = defect_above, least_frames
        self._told: set[int] = set()

    def update(self, tracked: Detections, pts_s: float, defect_ratio: NDArray[np.float32] | None = None) -> list[Event]:
        """The events of one frame; ``defect_ratio`` [N] is the cascade's, where there is one."""
        events: list[Event] = [*self._crossed(tracked, pts_s), *self._zoned(tracked, pts_s)]
        if defect_ratio is not None:
            events.extend(self._defective(tracked, defect_ratio, pts_s))
        return events

    def _crossed(self, tracked: Detections, pts_s: float) -> Iterator[Event]:
        for name, line in self.lines.items():
            for one in line.update(tracked):
                direction = "forward" if one.forward else "backward"
                yield LineCrossed(self.stream, pts_s, name, direction, one.tracker_id, label_of(tracked.labels, one.class_id))

    def _zoned(self, tracked: Detections, pts_s: float) -> Iterator[Event]:
        for name, zone in self.zones.items():
            changes = zone.update(tracked)
            count = zone.inside.total()
            for one in changes:
                kind = ZoneEntered if one.entered else ZoneLeft
                yield kind(self.stream, pts_s, name, one.tracker_id, label_of(tracked.labels, one.class_id), count)

    def _defective(self, tracked: Detections, defect_ratio: NDArray[np.float32], pts_s: float) -> Iterator[Event]:
        for gone in self.defects.update(tracked, defect_ratio):
            self._told.discard(gone.tracker_id)
        if self._defect_above is None or tracked.tracker_id is None:
            return
        for number in tracked.tracker_id.tolist():
            fruit = self.defects.so_far(number)
            if number not in self._told and fruit.frames >= self._least_frames and fruit.defect_ratio > self._defect_above:
                self._told.add(number)
                yield DefectFound(self.stream, pts_s, number, label_of(tracked.labels, fruit.class_id), fruit.defect_ratio, fruit.frames)


class StreamWatch:
    """Turns the states of one live source into events: one when it stalls, one when it is back."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._since_s: float | None = None

    def update(self, state: str, now_s: float, pts_s: float, reason: str = "") -> Event | None:
        """The event of a change of state.

        Args:
            state: ``SourceStatus.state``: opening, running, stalled, reconnecting or ended.
            now_s: of the monotonic clock.
            pts_s: of the last frame.
            reason: why there are no frames, without credentials.
        """
        if state in ("stalled", "reconnecting") and self._since_s is None:
            self._since_s = now_s
            return StreamStalled(self.stream, pts_s, reason)
        if state == "running" and self._since_s is not None:
            down_s, self._since_s = now_s - self._since_s, None
            return StreamBack(self.stream, pts_s, down_s)
        return None


def _now() -> datetime:
    return datetime.now(timezone.utc)
