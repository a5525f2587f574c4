"""run_stages: items through functions in order, a thread or more for each function, with bounded queues between them."""

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
    """One step: what comes in goes through ``run``, and what it returns goes to the next step, in the order in which it came.

    Attributes:
        workers: threads that call ``run`` at once, each on an item of its own; one for the last step, and where nothing is threaded.
    """

    name: str
    run: Callable[[Any], Any]
    workers: int = 1


class _End:
    """Comes out of a channel when there is nothing more."""


_END: Final = _End()


class _Channel:
    """A bounded queue between stages, whose both sides wake up at once when the run stops; items go in by their numbers.

    Who comes before its turn waits: going on would put one more thread into the queue for the GIL, which costs more than it gains.

    Args:
        writers: threads that put items, each of which calls ``end``.
    """

    def __init__(self, depth: int, writers: int = 1) -> None:
        self._depth = depth
        self._writers = writers
        self._items: deque[Any] = deque()
        lock = threading.Lock()
        self._filled, self._taken = threading.Condition(lock), threading.Condition(lock)
        self._next = self._given = 0
        self._stopped = False

    def put(self, number: int, item: Any) -> bool:
        """Waits for its turn and for room; False where the run has stopped."""
        with self._taken:
            self._taken.wait_for(lambda: (number == self._next and len(self._items) < self._depth) or self._stopped)
            if self._stopped:
                return False
            self._items.append(item)
            self._next += 1
            self._filled.notify()
            # It may be another writer's turn.
            self._taken.notify_all()
            return True

    def get(self) -> tuple[int, Any]:
        """Waits for an item, and gives its number with it; the end where none will come."""
        with self._filled:
            self._filled.wait_for(lambda: self._items or not self._writers or self._stopped)
            if self._stopped or not self._items:
                return -1, _END
            item = self._items.popleft()
            self._given += 1
            self._taken.notify_all()
            return self._given - 1, item

    def end(self) -> None:
        """One writer puts no more; what is inside can still be taken."""
        with self._filled:
            self._writers -= 1
            self._filled.notify_all()

    def stop(self) -> None:
        """Drops what is inside and wakes both sides."""
        with self._filled:
            self._stopped = True
            self._items.clear()
            self._filled.notify_all()
            self._taken.notify_all()


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


class _Run:
    """What the threads of one run share: channels, clocks (one a thread), and the first error."""

    def __init__(self, name: str, stages: Sequence[Stage], depth: int) -> None:
        workers = [1, *(stage.workers for stage in stages)]
        self.channels = [_Channel(depth, writers) for writers in workers[:-1]]
        self.clocks = {key: [_Clock() for _ in range(count)] for key, count in zip((name, *(s.name for s in stages)), workers, strict=True)}
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
            for number, item in enumerate(_timed(items, clock)):
                if not outlet.put(number, item):
                    return
                del item  # waiting for the next one must not hold this one's memory
        except InputError as error:
            # The source's own end: what it delivered before is still good.
            self.source_error = error
        except BaseException as error:
            self.fail(error)
        outlet.end()

    def work(self, stage: Stage, inlet: _Channel, outlet: _Channel, clock: _Clock) -> None:
        """A middle thread: one worker of a stage."""
        try:
            while True:
                number, item = inlet.get()
                if item is _END:
                    break
                with clock:
                    item = stage.run(item)
                if not outlet.put(number, item):
                    return
                del item
        except BaseException as error:
            self.fail(error)
        outlet.end()


def run_stages(
    source: Iterable[Any], stages: Sequence[Stage], *, depth: int = DEPTH, threaded: bool = True, name: str = "decode"
) -> StreamStats:
    """Takes every item of the source through every stage, in order and without dropping any.

    The source and each stage but the last have threads of their own; the last runs in the caller's. At most ``depth`` items wait before
    each stage, so at most ``depth * stages + workers + 1`` exist at a time, whatever the length. An ``InputError`` of the source ends the stream
    like its end, what came before goes through, and the statistics carry it as ``ended_by``. Any other error, and Ctrl-C, stops every
    stage after the item that it is working on and is raised once. When this returns or raises, its threads are gone.

    Args:
        threaded: False runs everything in the caller's thread, one item at a time.
        name: what the source is called in the statistics.

    Raises:
        ValueError: there is no stage, the depth or a number of workers is below 1, the last has several, or two stages have one name.
    """
    names = [name, *(stage.name for stage in stages)]
    if not stages or depth < 1 or len(set(names)) < len(names):
        raise ValueError(f"stages {names} with depth {depth}: there must be at least one stage, names must differ, and depth be 1 or more")
    if stages[-1].workers != 1 or any(stage.workers < 1 for stage in stages):
        raise ValueError(f"workers {[stage.workers for stage in stages]}: each stage has at least one, and the last exactly one")
    start = time.perf_counter()
    run = _Run(name, stages, depth)
    frames = _run_threaded(run, source, stages, name) if threaded else _run_plain(run, source, stages, name)
    if run.error is not None:
        raise run.error
    times = {key: StageTimes(sum(c.busy_s for c in clocks), sum(c.cpu_s for c in clocks)) for key, clocks in run.clocks.items()}
    return StreamStats(frames, time.perf_counter() - start, times, run.source_error)


def _run_threaded(run: _Run, source: Iterable[Any], stages: Sequence[Stage], name: str) -> int:
    threads = [threading.Thread(target=run.feed, args=(source, run.clocks[name][0]), name=f"jetlens-{name}", daemon=True)]
    for index, stage in enumerate(stages[:-1]):
        for clock in run.clocks[stage.name]:
            work = (stage, run.channels[index], run.channels[index + 1], clock)
            threads.append(threading.Thread(target=run.work, args=work, name=f"jetlens-{stage.name}", daemon=True))
    last, clock = stages[-1], run.clocks[stages[-1].name][0]
    started: list[threading.Thread] = []
    count = 0
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        while (item := run.channels[-1].get()[1]) is not _END:
            with clock:
                last.run(item)
            count += 1
            del item
    except BaseException as error:  # Ctrl-C arrives here, in the caller's thread
        run.fail(error)
    finally:
        for thread in started:
            thread.join()
    return count


def _run_plain(run: _Run, source: Iterable[Any], stages: Sequence[Stage], name: str) -> int:
    items = _timed(source, run.clocks[name][0])
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
            with run.clocks[stage.name][0]:
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
