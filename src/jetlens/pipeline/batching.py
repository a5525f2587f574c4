"""Batcher: which frames of which streams go through the model together, and when."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from jetlens.frame import Frame
from jetlens.pipeline.capture import Capture

__all__ = ["LONGEST_WAIT_S", "Batcher", "Pacer", "Taken", "Way"]

LONGEST_WAIT_S: Final = 0.040
"""No stream waits longer for another one's frame."""
_LATE: Final = 1.5
"""A stream whose next frame is later than so many of its usual intervals is waited for no more."""
_MARGIN: Final = 0.06
"""Share of the slowest stage's time that frames are taken early: no two runs take the same time, and handing over takes some too."""
_EARLY_S: Final = 0.003
"""A camera's next frame may come so much before it is due."""
_CREDIT: Final = 4
"""Turns that a stream may catch up: the frames of cameras do not come when it is their turn."""

Taken = list[tuple[Capture, Frame]]
"""The frames of one run of the model, each with the stream that it came from."""


@dataclass(slots=True, eq=False)
class Way:
    """One batch on its way: where it is, and since when it is worked on there (None while it waits)."""

    stage: int = 0
    started_s: float | None = None


@dataclass(slots=True)
class Pacer:
    """Says when to take the next frames of cameras: as late as possible, yet so early that no stage stands still.

    A frame that is taken while the model is busy only grows old in a queue, so it is better taken when it will be wanted; until then a newer
    one may come. From how long each stage usually takes and where each batch is now follows the moment from which a new one meets no queue.

    Args:
        stages: names of the stages, in order.
        workers: batches that each stage works on at once; one if not given.
    """

    stages: Sequence[str]
    workers: Sequence[int] = ()
    usual_s: list[float] = field(init=False)
    busy_s: list[float] = field(init=False)
    _ways: deque[Way] = field(init=False, default_factory=deque)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.workers = self.workers or [1] * len(self.stages)
        self.usual_s = [0.0] * len(self.stages)
        self.busy_s = [0.0] * len(self.stages)

    @property
    def under_way(self) -> int:
        """How many batches are between the first stage and the last."""
        return len(self._ways)

    def admit(self) -> None:
        """A batch was taken."""
        with self._lock:
            self._ways.append(Way())

    def begin(self, stage: int, now_s: float) -> Way:
        """The stage starts on the batch that has waited longest for it."""
        with self._lock:
            way = next(way for way in self._ways if way.stage == stage and way.started_s is None)
            way.started_s = now_s
            return way

    def end(self, way: Way, now_s: float) -> None:
        """The stage that this batch is in is done with it."""
        with self._lock:
            stage = way.stage
            took_s = now_s - (way.started_s or now_s)
            self.busy_s[stage] += took_s / self.workers[stage]
            usual_s = self.usual_s[stage]
            # The first run of a model also prepares it: it weighs little once others follow.
            self.usual_s[stage] = took_s if not usual_s else usual_s + 0.2 * (min(took_s, 3 * usual_s) - usual_s)
            way.stage, way.started_s = stage + 1, None
            if way.stage == len(self.stages):
                self._ways.remove(way)

    def best_s(self, now_s: float) -> float:
        """From when on a batch that is taken meets no queue; in the past where that is now."""
        with self._lock:
            # When each worker of each stage will be free, the first of them first.
            free = [[0.0] * count for count in self.workers]
            for way in self._ways:
                ready = now_s
                for stage in range(way.stage, len(free)):
                    usual_s = self.usual_s[stage]
                    if stage == way.stage and way.started_s is not None:
                        # One that takes longer than usual will take longer still.
                        left = max(way.started_s + usual_s - now_s, 0.25 * (now_s - way.started_s - usual_s), 0.0)
                        ready = now_s + left
                    else:
                        ready = max(ready, free[stage][0]) + usual_s
                    # A batch leaves a stage after those that came before it.
                    ready = max(ready, free[stage][-1])
                    free[stage] = [*free[stage][1:], ready]
            before, best = 0.0, 0.0
            for stage, usual_s in enumerate(self.usual_s):
                best = max(best, free[stage][0] - before)
                before += usual_s
            return best - _MARGIN * max(usual_s / count for usual_s, count in zip(self.usual_s, self.workers, strict=True))


class Batcher:
    """Gathers frames that wait in the streams to batches; iterating ends when every stream has.

    Streams give their next frames up to ``largest``, first the one that was served least; one that had nothing to give when its turn came may
    catch up a few turns. While no other batch is on its way, one that is not full waits for those streams whose next frame is due within
    ``wait_s``, unless one of its own frames would be replaced by then, and for no other stream: a camera that is slow or dead costs the others
    nothing more.

    Args:
        changed: the lock that the streams share.
        largest: pictures in one run at most.
        wait_s: at most ``LONGEST_WAIT_S``.
        pacer: is told of every batch.
        paced: whether the pacer says when; otherwise frames are taken as soon as they are there, which suits files.
    """

    def __init__(
        self,
        captures: Sequence[Capture],
        changed: threading.Condition,
        *,
        largest: int = 1,
        wait_s: float = 0.010,
        pacer: Pacer | None = None,
        paced: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if largest < 1 or not 0 <= wait_s <= LONGEST_WAIT_S:
            raise ValueError(f"batches of {largest} after {wait_s} s: give at least 1 picture and 0 to {LONGEST_WAIT_S} s")
        self._captures = tuple(captures)
        self._changed = changed
        self._largest = largest
        self._wait_s = wait_s
        self._pacer = pacer
        self.paced = paced
        self._clock = clock
        self._opened_s: float | None = None
        # Turns that each stream has had, as if all had always had their share; the highest of those served.
        self._served = [0] * len(self._captures)
        self._turn = 0
        self.stopped = False

    def stop(self) -> None:
        """Ends the iteration."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def __iter__(self) -> Batcher:
        return self

    def __next__(self) -> Taken:
        """Waits for the next batch."""
        with self._changed:
            while True:
                if self.stopped or all(capture.ended and not capture.waiting for capture in self._captures):
                    raise StopIteration
                now_s = self._clock()
                due_s = self._due_s(now_s)
                if due_s is not None and due_s <= now_s:
                    return self._take()
                self._changed.wait(None if due_s is None else due_s - now_s)

    def poll(self) -> Taken | None:
        """The next batch if it is due now; never waits."""
        with self._changed:
            now_s = self._clock()
            due_s = self._due_s(now_s)
            return self._take() if due_s is not None and due_s <= now_s else None

    def _due_s(self, now_s: float) -> float | None:
        """When the frames that wait now are to be taken if nothing else comes; None where none waits."""
        waiting = [capture for capture in self._captures if capture.waiting and not capture.paused]
        if not waiting:
            self._opened_s = None
            return None
        best_s = self._pacer.best_s(now_s) if self._pacer is not None and self.paced else now_s
        if best_s > now_s:
            return best_s
        if self._opened_s is None:
            self._opened_s = now_s
        # While the model works frames gather by themselves, and who waits longer leaves it idle.
        working = self.paced and self._pacer is not None and self._pacer.under_way > 0
        if working or sum(capture.waiting for capture in waiting) >= self._largest:
            return now_s
        # No longer than until a frame that waits would be replaced by the next of its own camera.
        replaced = (when - _EARLY_S for capture in waiting if capture.live and (when := _next_s(capture, now_s)) is not None)
        until_s = min((self._opened_s + self._wait_s, *replaced))
        others = (capture for capture in self._captures if not (capture.waiting or capture.paused or capture.ended))
        expected = [when for capture in others if (when := _next_s(capture, now_s)) is not None and when <= until_s]
        return max(now_s, min(until_s, max(max(expected), now_s + 0.001))) if expected else now_s

    def _take(self) -> Taken:
        """The frames that wait, in turn."""
        taken: Taken = []
        while len(taken) < self._largest:
            ready = [number for number, capture in enumerate(self._captures) if capture.waiting and not capture.paused]
            if not ready:
                break
            number = min(ready, key=self._served.__getitem__)
            self._turn = max(self._turn, self._served[number])
            self._served[number] = max(self._served[number], self._turn - _CREDIT) + 1
            taken.append((self._captures[number], self._captures[number].take()))
        self._opened_s = None
        if self._pacer is not None:
            self._pacer.admit()
        return taken


def _next_s(capture: Capture, now_s: float) -> float | None:
    """When the next frame of a stream is due; None where that cannot be told, or it is overdue."""
    interval_s = capture.arrivals.interval_s
    late_s = now_s - capture.arrivals.last_s
    if not interval_s or late_s > _LATE * interval_s:
        return None
    return capture.arrivals.last_s + interval_s
