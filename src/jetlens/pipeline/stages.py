"""run_stages: items through functions in order, one thread a function, with bounded queues between them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jetlens.errors import InputError
from jetlens.pipeline.statistics import StageTimes, StreamStats

__all__ = ["DEPTH", "Stage", "run_stages"]

DEPTH: Final = 2
"""Items that may wait before each stage: enough to even out unequal frames, few enough to keep memory small."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: what comes in goes through ``run``, and what it returns goes to the next step."""

    name: str
    run: Callable[[Any], Any]


class _End:
    """Comes out of a channel when there is nothing more."""


_END: Final = _End()


class _Channel:
    """A bounded queue between two threads whose both sides wake up at once when the run stops."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def put(self, item: Any) -> bool:
        """Waits for room; False where the run has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._depth or self._stopped)
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self) -> Any:
        """Waits for an item; the end where none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._stopped)
            if self._stopped or not self._items:
                return _END
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """No more items will be put; those inside can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops what is inside and wakes both sides."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


class _Clock:
    """Adds up the time that a stage works."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.cpu_s = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.busy_s += time.perf_counter() - self._start[0]
        self.cpu_s += time.thread_time() - self._start[1]

    def times(self) -> StageTimes:
        return StageTimes(self.busy_s, self.cpu_s)


class _Run:
    """What the threads of one run share: channels, clocks, and the first error."""

    def __init__(self, names: Sequence[str], depth: int) -> None:
        self.channels = [_Channel(depth) for _ in names[1:]]
        self.clocks = {name: _Clock() for name in names}
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.source_error: InputError | None = None

    def fail(self, error: BaseException) -> None:
        """Keeps the first error and stops every stage."""
        with self._lock:
            self.error = self.error or error
        for channel in self.channels:
            channel.stop()

    def feed(self, items: Iterable[Any], clock: _Clock) -> None:
        """The first thread: takes items from the source."""
        outlet = self.channels[0]
        try:
            for item in _timed(items, clock):
                if not outlet.put(item):
                    return
                del item  # waiting for the next one must not hold this one's memory
        except InputError as error:
            # The source's own end: what it delivered before is still good.
            self.source_error = error
        except BaseException as error:
            self.fail(error)
        outlet.end()

    def work(self, stage: Stage, inlet: _Channel, outlet: _Channel, clock: _Clock) -> None:
        """A middle thread: one stage."""
        try:
            while (item := inlet.get()) is not _END:
                with clock:
                    item = stage.run(item)
                if not outlet.put(item):
                    return
                del item
        except BaseException as error:
            self.fail(error)
        outlet.end()


def run_stages(
    source: Iterable[Any], stages: Sequence[Stage], *, depth: int = DEPTH, threaded: bool = True, name: str = "decode"
) -> StreamStats:
    """Takes every item of the source through every stage, in order and without dropping any.

    The source and each stage but the last have a thread of their own; the last runs in the caller's. At most ``depth`` items wait before
    each stage, so at most ``(depth + 1) * stages + 1`` exist at a time, whatever the length. An ``InputError`` of the source ends the stream
    like its end, what came before goes through, and the statistics carry it as ``ended_by``. Any other error, and Ctrl-C, stops every
    stage after the item that it is working on and is raised once. When this returns or raises, its threads are gone.

    Args:
        threaded: False runs everything in the caller's thread, one item at a time.
        name: what the source is called in the statistics.

    Raises:
        ValueError: there is no stage, the depth is below 1, or two stages have one name.
    """
    names = [name, *(stage.name for stage in stages)]
    if not stages or depth < 1 or len(set(names)) < len(names):
        raise ValueError(f"stages {names} with depth {depth}: there must be at least one stage, names must differ, and depth be 1 or more")
    start = time.perf_counter()
    run = _Run(names, depth)
    frames = _run_threaded(run, source, stages, names) if threaded else _run_plain(run, source, stages, names)
    if run.error is not None:
        raise run.error
    times = {key: clock.times() for key, clock in run.clocks.items()}
    return StreamStats(frames, time.perf_counter() - start, times, run.source_error)


def _run_threaded(run: _Run, source: Iterable[Any], stages: Sequence[Stage], names: Sequence[str]) -> int:
    clocks = [run.clocks[name] for name in names]
    threads = [threading.Thread(target=run.feed, args=(source, clocks[0]), name=f"jetlens-{names[0]}", daemon=True)]
    for index, stage in enumerate(stages[:-1]):
        work = (stage, run.channels[index], run.channels[index + 1], clocks[index + 1])
        threads.append(threading.Thread(target=run.work, args=work, name=f"jetlens-{stage.name}", daemon=True))
    started: list[threading.Thread] = []
    count = 0
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        while (item := run.channels[-1].get()) is not _END:
            with clocks[-1]:
                stages[-1].run(item)
            count += 1
            del item
    except BaseException as error:  # Ctrl-C arrives here, in the caller's thread
        run.fail(error)
    finally:
        for thread in started:
            thread.join()
    return count


def _run_plain(run: _Run, source: Iterable[Any], stages: Sequence[Stage], names: Sequence[str]) -> int:
    items = _timed(source, run.clocks[names[0]])
    count = 0
    while True:
        try:
            item = next(items, _END)
        except InputError as error:
            run.source_error = error
            return count
        if item is _END:
            return count
        for stage in stages:
            with run.clocks[stage.name]:
                item = stage.run(item)
        count += 1
        del item


def _timed(items: Iterable[Any], clock: _Clock) -> Iterator[Any]:
    """The items, with the time it takes to get each on the clock."""
    iterator = iter(items)
    while True:
        with clock:
            item = next(iterator, _END)
        if item is _END:
            return
        yield item
        del item
