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
        begin: called with each item before ``run``.
        ahead: further items that a worker begins, if they are there, before it runs the oldest: work that another device does meanwhile.
        leave: called with each item that was begun and will not be run, where the run has stopped.
    """

    name: str
    run: Callable[[Any], Any]
    workers: int = 1
    begin: Callable[[Any], object] | None = None
    ahead: int = 0
    leave: Callable[[Any], object] | None = None

    @property
    def holds(self) -> int:
        """Items that it works on at once."""
        return self.workers * (1 + self.ahead)

    def whole(self, item: Any) -> Any:
        """``begin`` and ``run``."""
        if self.begin is not None:
            self.begin(item)
        return self.run(item)


class _End:
    """Comes out of a channel when there is nothing more."""


_END: Final = _End()


class _Channel:
    """A bounded queue between stages, whose both sides wake up at once when the run stops; items come out in the order of their numbers.

    A writer whose item is early leaves it here and goes on; one that is too far ahead waits. Only the writer that has room now is woken: all
    of them would put more threads into the queue for the GIL.

    Args:
        depth: items that a single writer may have in here, and each further one may have one more.
        writers: threads that put items, each of which calls ``end``.
    """

    def __init__(self, depth: int, writers: int = 1) -> None:
        self._room = depth + writers - 1
        self._writers = writers
        self._items: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._waiting: dict[int, threading.Condition] = {}
        self._given = 0
        self._stopped = False

    def put(self, number: int, item: Any) -> bool:
        """Waits for room; False where the run has stopped."""
        with self._lock:
            if not self._may_put(number):
                waiting = self._waiting[number] = threading.Condition(self._lock)
                waiting.wait_for(lambda: self._may_put(number))
                del self._waiting[number]
            if self._stopped:
                return False
            self._items[number] = item
            if number == self._given:
                self._filled.notify()
            return True

    def get(self, *, wait: bool = True) -> tuple[int, Any] | None:
        """The next item with its number, or the end where none will come; None where it is not to wait and that is not there yet."""
        with self._lock:
            if wait:
                self._filled.wait_for(lambda: self._given in self._items or not self._writers or self._stopped)
            if self._given in self._items:
                number = self._given
                self._given += 1
                writer = self._waiting.get(number + self._room)
                if writer is not None:
                    writer.notify()
                # Another reader may wait for the next one, which came before this one.
                if self._given in self._items:
                    self._filled.notify()
                return number, self._items.pop(number)
            return None if self._writers and not self._stopped else (-1, _END)

    def end(self) -> None:
        """One writer puts no more; what is inside can still be taken."""
        with self._lock:
            self._writers -= 1
            self._filled.notify_all()

    def stop(self) -> None:
        """Drops what is inside and wakes both sides."""
        with self._lock:
            self._stopped = True
            self._items.clear()
            self._filled.notify_all()
            for waiting in self._waiting.values():
                waiting.notify()

    def _may_put(self, number: int) -> bool:
        return number < self._given + self._room or self._stopped


class _Direct:
    """A source whose items the workers of the first stage take themselves; one of them at a time may wait in it.

    Args:
        poll: gives the next item, or None where it would have to wait for it.
    """

    def __init__(self, items: Iterable[Any], poll: Callable[[], Any]) -> None:
        self._items, self._poll = iter(items), poll
        self._lock = threading.Lock()
        self._given = 0
        self._ended = False

    def get(self, *, wait: bool = True) -> tuple[int, Any] | None:
        """As of a channel; without waiting there is nothing while another worker waits."""
        if not self._lock.acquire(blocking=wait):
            return None
        try:
            item = _END if self._ended else next(self._items, _END) if wait else self._poll()
            if item is None:
                return None
            self._ended = item is _END
            self._given += 1
            return self._given - 1, item
        finally:
            self._lock.release()

    def stop(self) -> None:
        """Gives no more."""
        self._ended = True


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

    def __init__(self, name: str, stages: Sequence[Stage], depth: int, direct: _Direct | None) -> None:
        workers = [1, *(stage.workers for stage in stages)]
        self.channels = [_Channel(depth, writers) for writers in workers[:-1]]
        self.inlets: list[_Channel | _Direct] = [direct or self.channels[0], *self.channels[1:]]
        self.clocks = {key: [_Clock() for _ in range(count)] for key, count in zip((name, *(s.name for s in stages)), workers, strict=True)}
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.source_error: InputError | None = None

    def fail(self, error: BaseException) -> None:
        """Keeps the first error and stops every stage."""
        with self._lock:
            self.error = self.error or error
        for inlet in self.inlets:
            inlet.stop()

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

    def work(self, stage: Stage, inlet: _Channel | _Direct, outlet: _Channel, clock: _Clock) -> None:
        """A middle thread: one worker of a stage."""
        begun: deque[tuple[int, Any]] = deque()
        ended = False
        try:
            while begun or not ended:
                got = None if ended else inlet.get(wait=not begun)
                if got is not None:
                    if got[1] is _END:
                        ended = True
                        continue
                    if stage.begin is not None:
                        with clock:
                            stage.begin(got[1])
                    begun.append(got)
                    del got
                    if len(begun) <= stage.ahead:
                        continue
                number, item = begun.popleft()
                with clock:
                    item = stage.run(item)
                if not outlet.put(number, item):
                    break
                del item
        except BaseException as error:
            self.fail(error)
        if stage.leave is not None:
            for _, item in begun:
                stage.leave(item)
        outlet.end()


def run_stages(
    source: Iterable[Any],
    stages: Sequence[Stage],
    *,
    depth: int = DEPTH,
    threaded: bool = True,
    name: str = "decode",
    poll: Callable[[], Any] | None = None,
) -> StreamStats:
    """Takes every item of the source through every stage, in order and without dropping any.

    The source and each stage but the last have threads of their own; the last runs in the caller's. At most ``depth`` items wait before each stage,
    and one more for each worker but one of the stage before it; with ``holds`` of each stage and one more that is all that exists at a time,
    whatever the length. An ``InputError`` of the source ends the stream like its end, what came before goes through, and the statistics carry it
    as ``ended_by``. Any other error, and Ctrl-C, stops every stage after the item that it is working on and is raised once. When this returns or
    raises, its threads are gone.

    Args:
        threaded: False runs everything in the caller's thread, one item at a time.
        name: what the source is called in the statistics.
        poll: for a source that waits rather than works: the threads of the first stage take its items themselves. It gives the next item, or
            None where that is not there yet; what the source raises is raised.

    Raises:
        ValueError: there is no stage, the depth or a number of workers is below 1, the last has several, or two stages have one name.
    """
    names = [name, *(stage.name for stage in stages)]
    if not stages or depth < 1 or len(set(names)) < len(names):
        raise ValueError(f"stages {names} with depth {depth}: there must be at least one stage, names must differ, and depth be 1 or more")
    if stages[-1].holds != 1 or any(stage.workers < 1 or stage.ahead < 0 for stage in stages):
        raise ValueError(f"workers {[stage.workers for stage in stages]}: each stage has at least one, and the last exactly one")
    start = time.perf_counter()
    run = _Run(name, stages, depth, _Direct(source, poll) if poll is not None else None)
    frames = _run_threaded(run, source, stages, name) if threaded else _run_plain(run, source, stages, name)
    if run.error is not None:
        raise run.error
    times = {key: StageTimes(sum(c.busy_s for c in clocks), sum(c.cpu_s for c in clocks)) for key, clocks in run.clocks.items()}
    return StreamStats(frames, time.perf_counter() - start, times, run.source_error)


def _run_threaded(run: _Run, source: Iterable[Any], stages: Sequence[Stage], name: str) -> int:
    threads = []
    if run.inlets[0] is run.channels[0]:
        threads.append(threading.Thread(target=run.feed, args=(source, run.clocks[name][0]), name=f"jetlens-{name}", daemon=True))
    for index, stage in enumerate(stages[:-1]):
        for clock in run.clocks[stage.name]:
            work = (stage, run.inlets[index], run.channels[index + 1], clock)
            threads.append(threading.Thread(target=run.work, args=work, name=f"jetlens-{stage.name}", daemon=True))
    last, clock = stages[-1], run.clocks[stages[-1].name][0]
    started: list[threading.Thread] = []
    count = 0
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        while (got := run.inlets[-1].get()) is not None and got[1] is not _END:
            with clock:
                last.whole(got[1])
            count += 1
            del got
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
                item = stage.whole(item)
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
