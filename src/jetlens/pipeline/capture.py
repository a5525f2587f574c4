"""Capture: one source read in a thread of its own, the frames of it that wait, and the account of every one."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

import numpy as np

from jetlens.errors import InputError, JetlensError, one_line
from jetlens.frame import Frame
from jetlens.media.base import Source
from jetlens.pipeline.statistics import StageTimes
from jetlens.pipeline.status import StreamStatus
from jetlens.results import Prediction

if TYPE_CHECKING:
    from jetlens.media.live.status import SourceStatus

__all__ = ["Capture", "LiveSource", "Rate", "is_live", "stream_names"]

RATE_WINDOW_S: Final = 3.0
AGES_KEPT: Final = 1024
"""Results over which the percentiles of age are taken: at 30 frames a second the last half minute."""


class LiveSource(Source, Protocol):
    """A camera: it tells its state, comes back by itself and waits for nobody."""

    def status(self) -> SourceStatus:
        """Its state now."""
        ...


def is_live(source: Source) -> TypeGuard[LiveSource]:
    """Whether a source is a camera."""
    return callable(getattr(source, "status", None))


class Rate:
    """Events in a second over the last seconds, and the usual time between two."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=256)
        self.interval_s = 0.0

    @property
    def last_s(self) -> float:
        """When the last event was; minus infinity before the first."""
        return self._times[-1] if self._times else -float("inf")

    def add(self, now_s: float) -> None:
        """One event more."""
        if self._times:
            between = now_s - self._times[-1]
            # A pause is no interval: it would make the stream look slow long after.
            usual = self.interval_s or between
            self.interval_s = usual + 0.1 * (min(between, 4 * usual) - usual)
        self._times.append(now_s)

    def per_second(self, now_s: float) -> float:
        """How many a second; falls with every second that nothing comes."""
        recent = [t for t in self._times if t > now_s - RATE_WINDOW_S]
        if len(recent) < 2:
            return 0.0
        silent_s = max(0.0, now_s - recent[-1] - 2 * self.interval_s)
        return (len(recent) - 1) / max(recent[-1] - recent[0] + silent_s, 1e-6)


class Capture:
    """Reads a source; keeps the newest frame of a camera, and the next frames of a file, which waits for its reader.

    ``captured == delivered + dropped + under_way`` at every moment. All methods may be called from any thread; ``changed`` is the lock
    of the whole pipeline and is notified when a frame has come or a stream has ended.

    Args:
        name: of the stream, in every frame of it.
        depth: frames of a file that may wait; of a camera it is one, the newest.
        most_fps: frames of a camera that are taken in a second at most; None for all.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        changed: threading.Condition,
        *,
        depth: int = 2,
        most_fps: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.name = name
        self._camera: LiveSource | None = source if is_live(source) else None
        self.live = self._camera is not None
        self.ended = self.stopped = self.paused = False
        self.error: JetlensError | None = None
        self.arrivals = Rate()
        self._results = Rate()
        self._changed = changed
        self._depth = depth
        self._spacing_s = 1 / most_fps if most_fps and self.live else 0.0
        self._next_s = -float("inf")
        self._clock = clock
        self._frames: deque[Frame] = deque()
        self._taken = 0
        self._captured = self._delivered = 0
        self._dropped: Counter[str] = Counter()
        self._ages_ms: deque[float] = deque(maxlen=AGES_KEPT)
        self._size_hw = (0, 0)
        self._last: tuple[int, Prediction | None] = (-1, None)
        self._busy_s = self._cpu_s = 0.0
        self._thread = threading.Thread(target=self._read, name=f"jetlens-capture-{name}"[:60], daemon=True)

    def start(self) -> None:
        """Starts to read."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; what waits is dropped."""
        with self._changed:
            self.stopped = True
            self._drop_waiting("stopped")
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Waits for the thread to end; whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many frames can be taken now."""
        return len(self._frames)

    def offer(self, frame: Frame) -> bool:
        """Brings one frame of the source; a file's waits for room. False where the run is over."""
        with self._changed:
            if not self.live:
                self._changed.wait_for(lambda: len(self._frames) < self._depth or self.stopped)
            if self.stopped:
                return False
            self._captured += 1
            self._size_hw = frame.size_hw
            now_s = self._clock()
            self.arrivals.add(now_s)
            reason = self._unwanted(now_s)
            if reason:
                self._dropped[reason] += 1
            else:
                if self.live:
                    self._drop_waiting("newer frame")
                self._frames.append(frame if frame.stream == self.name else replace(frame, stream=self.name))
                self._changed.notify_all()
            return True

    def take(self) -> Frame:
        """The next frame, which is the newest of a camera; it is under way until ``deliver`` or ``drop``."""
        with self._changed:
            frame = self._frames.popleft()
            self._taken += 1
            self._changed.notify_all()
            return frame

    def answered(self, frame: Frame, prediction: Prediction) -> float:
        """Keeps the answer to a frame; its age in milliseconds, from capture until now."""
        now_s = self._clock()
        age_ms = max(0.0, now_s - frame.captured_s) * 1e3
        with self._changed:
            self._ages_ms.append(age_ms)
            self._last = (frame.index, prediction)
        return age_ms

    def fps(self) -> float:
        """Results that reached every sink, in a second."""
        with self._changed:
            return self._results.per_second(self._clock())

    def deliver(self) -> None:
        """One frame that was taken has reached every sink."""
        with self._changed:
            self._taken -= 1
            self._delivered += 1
            self._results.add(self._clock())

    def drop(self, reason: str) -> None:
        """One frame that was taken gets no result."""
        with self._changed:
            self._taken -= 1
            self._dropped[reason] += 1

    def pause(self, paused: bool) -> None:
        """Whether frames of a camera are dropped on arrival; a file is read on by nobody meanwhile."""
        with self._changed:
            self.paused = paused
            if paused and self.live:
                self._drop_waiting("paused")
            self._changed.notify_all()

    def status(self) -> StreamStatus:
        """The stream now."""
        told = self._camera.status() if self._camera is not None else None
        with self._changed:
            now_s = self._clock()
            ages = np.percentile(self._ages_ms, (50, 99)).tolist() if self._ages_ms else (None, None)
            missed = told.dropped if told else 0
            return StreamStatus(
                name=self.name,
                live=self.live,
                state=self._state(told),
                reason=one_line(str(self.error)) if self.error else told.reason if told else "",
                size_hw=self._size_hw,
                fps=self._results.per_second(now_s),
                captured_fps=self.arrivals.per_second(now_s),
                captured=self._captured + missed,
                delivered=self._delivered,
                dropped={**self._dropped, **({"before the pipeline": missed} if missed else {})},
                under_way=len(self._frames) + self._taken,
                corrupt=told.corrupt if told else 0,
                reconnects=told.reconnects if told else 0,
                age_p50_ms=ages[0],
                age_p99_ms=ages[1],
                index=self._last[0],
                prediction=self._last[1],
            )

    def _state(self, told: SourceStatus | None) -> str:
        if self.ended or self.paused:
            return "ended" if self.ended else "paused"
        return told.state if told else "running" if self._captured else "opening"

    def times(self) -> StageTimes:
        """Time spent on reading: all of it for a file, the processor's alone for a camera, whose thread mostly waits."""
        return StageTimes(self._cpu_s if self.live else self._busy_s, self._cpu_s)

    def settle(self, reason: str) -> None:
        """Counts everything that is still under way as dropped, once nothing moves any more."""
        with self._changed:
            self._drop_waiting(reason)
            if self._taken:
                self._dropped[reason] += self._taken
                self._taken = 0

    def _unwanted(self, now_s: float) -> str:
        """Why a frame that comes now is dropped at once; an empty text where it is not."""
        if self.live and self.paused:
            return "paused"
        # A quarter of a spacing early counts as in time: cameras are not exact.
        if now_s < self._next_s - self._spacing_s / 4:
            return "target rate"
        if self._spacing_s:
            self._next_s = max(self._next_s + self._spacing_s, now_s + self._spacing_s / 2)
        return ""

    def _drop_waiting(self, reason: str) -> None:
        if self._frames:
            self._dropped[reason] += len(self._frames)
            self._frames.clear()

    def _read(self) -> None:
        try:
            for frame in self._timed():
                if not self.offer(frame):
                    break
                del frame  # waiting for the next one must not hold this one's memory
        except JetlensError as error:
            self.error = error
        except Exception as error:  # one source's defect is not the others'
            self.error = InputError(f"{self.name}: reading failed: {type(error).__name__}: {error}")
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _timed(self) -> Iterator[Frame]:
        """The frames of the source, with the time that reading takes."""
        frames = iter(self.source)
        while not self.stopped:
            start_s, cpu_s = time.perf_counter(), time.thread_time()
            frame = next(frames, None)
            self._busy_s += time.perf_counter() - start_s
            self._cpu_s += time.thread_time() - cpu_s
            if frame is None:
                return
            yield frame
            del frame


def stream_names(sources: Sequence[Source]) -> list[str]:
    """The sources' names; one that comes again gets a number."""
    given: list[str] = []
    for source in sources:
        name, number = source.info.name, 1
        while name in given:
            number += 1
            name = f"{source.info.name} #{number}"
        given.append(name)
    return given
