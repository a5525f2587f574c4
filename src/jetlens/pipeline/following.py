"""Following: tracking, counting and events of every stream of a live pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from jetlens.errors import UsageError
from jetlens.frame import Frame
from jetlens.pipeline.counting import LineCounter, Point, ZoneCounter
from jetlens.pipeline.events import Event, ObjectWatch, StreamWatch
from jetlens.pipeline.status import LiveStatus
from jetlens.results import Detections, Prediction
from jetlens.tracking import Tracker, TrackerOptions

__all__ = ["LEAST_CONFIDENCE", "EventSink", "Follower", "StreamStates", "points"]

LEAST_CONFIDENCE = 0.1
"""A tracked detector is to give boxes down to this: unsure ones keep the id of an object that is half hidden."""


class EventSink(Protocol):
    """Takes events."""

    def send(self, event: Event) -> None:
        """Takes one, at once."""
        ...


def points(text: str, flag: str, least: int, most: int | None = None) -> list[Point]:
    """Points out of ``x,y,x,y,...`` in pixels.

    Raises:
        UsageError: it is not that, or they are too few or too many.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    count = len(numbers) // 2
    if not numbers or len(numbers) % 2 or count < least or (most is not None and count > most):
        raise UsageError(f"{flag} {text!r}: give {least}{'' if most == least else ' or more'} points in pixels as x,y,x,y")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class Follower:
    """Tracks and counts the objects of one stream; a pipeline calls it with each prediction.

    Args:
        confidence: from which a box begins a track.
        lines: two points each.
        zones: corners of each.
        margin_px: so near to a line an object is on neither side of it: one that trembles there counts once.
    """

    def __init__(
        self,
        stream: str,
        *,
        confidence: float = 0.5,
        lines: Sequence[Sequence[Point]] = (),
        zones: Sequence[Sequence[Point]] = (),
        margin_px: float = 0.0,
        sinks: Sequence[EventSink] = (),
    ) -> None:
        high = max(confidence, LEAST_CONFIDENCE)
        self._tracker = Tracker(TrackerOptions(high=high, start=high, low=min(LEAST_CONFIDENCE, high)))
        self._sinks = tuple(sinks)
        self.watch = ObjectWatch(
            stream,
            lines={f"line {number}": LineCounter(start, end, margin_px=margin_px) for number, (start, end) in enumerate(lines, 1)},
            zones={f"zone {number}": ZoneCounter(corners) for number, corners in enumerate(zones, 1)},
        )

    def __call__(self, prediction: Prediction, frame: Frame) -> Prediction:
        """The prediction with ids.

        Raises:
            UsageError: it is not of a detector.
        """
        if not isinstance(prediction, Detections):
            raise UsageError("--track, --line and --zone follow objects; give a detection model")
        tracked = self._tracker.update(prediction, frame.pts_s)
        for event in self.watch.update(tracked, frame.pts_s):
            for sink in self._sinks:
                sink.send(event)
        return tracked

    def summary(self) -> list[str]:
        """What was counted, a line each."""
        lines = [f"{name}: {c.forward.total()} forward, {c.backward.total()} backward" for name, c in self.watch.lines.items()]
        return lines + [f"{name}: {c.entered.total()} entered, {c.inside.total()} inside" for name, c in self.watch.zones.items()]


class StreamStates:
    """Tells once when a camera stalls and once when it is back.

    Args:
        tell: takes a line for people.
    """

    def __init__(self, sinks: Sequence[EventSink], tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks, self._tell, self._clock = tuple(sinks), tell, clock
        self._watches: dict[str, StreamWatch] = {}
        self._states: dict[str, str] = {}

    def update(self, status: LiveStatus) -> None:
        """Looks at a snapshot."""
        for stream in status.streams:
            if not stream.live:
                continue
            before = self._states.get(stream.name)
            # A camera that never gave a frame stays in one state, whatever goes wrong.
            now = stream.state if stream.state == "running" or not stream.reason else f"{stream.state}: {stream.why}"
            if now != before and not (before is None and now in ("opening", "running")):
                self._tell(f"{stream.name}: {now}")
            self._states[stream.name] = now
            watch = self._watches.setdefault(stream.name, StreamWatch(stream.name))
            event = watch.update(stream.state, self._clock(), status.uptime_s, stream.reason)
            if event is not None:
                for sink in self._sinks:
                    sink.send(event)
