"""How calls come: one at a time, in batches, from a camera, or several at once; each scenario times one turn of a case."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import DeviceTimings, Lane, Pending, Session
from jetlens.bench.records import Block
from jetlens.frame import Image
from jetlens.tasks.base import Batch, Task

__all__ = ["SCENARIOS", "Calls", "overhead_ms", "time_block", "yardstick_ms"]

_DIGITS = 4  # of milliseconds: the clock ticks in 0.1 microseconds
_OVERHEAD_CALLS = 500
_OVERHEAD_TRIES = 8
_YARDSTICKS = 5
_YARDSTICK_SIDE = 128
_YARDSTICK_STEPS = 60


@dataclass(frozen=True, slots=True)
class Calls:
    """What one call of a case does, step by step.

    Attributes:
        decode: a picture's number to its pixels.
        lane: lends the input arrays of one call.
        images: the decoded pictures, for scenarios in which pixels come from elsewhere.
        fps: of the camera.
    """

    task: Task[Any]
    session: Session
    decode: Callable[[int], Image]
    lane: Callable[[], Lane]
    draw: Callable[[Image, Any], object]
    images: Sequence[Image]
    batch: int = 1
    lanes: int = 1
    fps: float = 30.0

    @property
    def input_name(self) -> str:
        """The graph's only input."""
        return self.session.inputs[0].name

    def prepare(self, images: Sequence[Image]) -> tuple[Lane, Batch]:
        """Preprocesses into a lane."""
        lane = self.lane()
        return lane, self.task.preprocess(images, out=lane.inputs[self.input_name])


@dataclass
class _Times:
    """The raw values of one turn, in seconds."""

    calls: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    device: dict[str, list[float]] = field(default_factory=dict)
    items: int = 0
    dropped: int = 0

    def stage(self, **times: float) -> None:
        for name, value in times.items():
            self.stages.setdefault(name, []).append(value)

    def infer(self, host_s: float, timings: DeviceTimings | None) -> None:
        """The network's time on the host's clock, with the copies taken out where the device measured them."""
        if timings is None:
            self.stage(compute=host_s)
            return
        copy_in, copy_out = timings.copy_in_ms / 1e3, timings.copy_out_ms / 1e3
        self.stage(copy_in=copy_in, compute=host_s - copy_in - copy_out, copy_out=copy_out)
        for name in ("copy_in", "compute", "copy_out"):
            self.device.setdefault(name, []).append(getattr(timings, f"{name}_ms") / 1e3)

    def block(self, begin: float, wall_s: float) -> Block:
        return Block(begin, wall_s, self.items, _ms(self.calls), _all_ms(self.stages), _all_ms(self.device), self.dropped)


class Scenario(Protocol):
    """Runs the pictures of the given numbers and keeps what it took."""

    def __call__(self, calls: Calls, numbers: Sequence[int], times: _Times) -> None: ...


def yardstick_ms() -> tuple[float, ...]:
    """Times of a fixed piece of arithmetic: how fast the machine is right now, whatever is measured on it."""
    times = []
    for _ in range(_YARDSTICKS):
        begin = time.perf_counter()
        values = np.full((_YARDSTICK_SIDE, _YARDSTICK_SIDE), 0.5, np.float32)
        for _ in range(_YARDSTICK_STEPS):
            # Sums and products by element: one thread, whatever the library that NumPy was built with.
            values = values * values + 0.25
        times.append(time.perf_counter() - begin)
    return _ms(times)


def time_block(scenario: str, calls: Calls, numbers: Sequence[int]) -> Block:
    """One turn over the pictures of the given numbers; ``started_s`` is the reading of ``time.perf_counter()``."""
    times = _Times()
    begin = time.perf_counter()
    SCENARIOS[scenario](calls, numbers, times)
    return times.block(begin, time.perf_counter() - begin)


def _single(calls: Calls, numbers: Sequence[int], times: _Times) -> None:
    clock = time.perf_counter
    for first in range(0, len(numbers), calls.batch):
        chosen = numbers[first : first + calls.batch]
        start = clock()
        images = [calls.decode(number) for number in chosen]
        decoded = clock()
        lane, batch = calls.prepare(images)
        ready = clock()
        pending = calls.session.submit(lane)
        outputs = pending.view()
        inferred = clock()
        predictions = calls.task.postprocess(outputs, batch)
        answered = clock()
        for image, prediction in zip(images, predictions, strict=True):
            calls.draw(image, prediction)
        end = clock()
        times.calls.append(end - start)
        times.stage(decode=decoded - start, preprocess=ready - decoded)
        times.infer(inferred - ready, pending.timings)
        times.stage(postprocess=answered - inferred, draw=end - answered)
        times.items += len(chosen)
        pending.release()


@dataclass(frozen=True, slots=True)
class _Flight:
    began: float
    pending: Pending
    batch: Batch
    count: int
    submit_s: float


def _in_flight(calls: Calls, numbers: Sequence[int], times: _Times) -> None:
    """Batches of decoded pictures, as many at once as there are lanes."""
    clock = time.perf_counter
    flights: deque[_Flight] = deque()

    def land() -> None:
        flight = flights.popleft()
        start = clock()
        outputs = flight.pending.view()
        inferred = clock()
        calls.task.postprocess(outputs, flight.batch)
        end = clock()
        times.infer(flight.submit_s + inferred - start, flight.pending.timings)
        flight.pending.release()
        times.stage(postprocess=end - inferred)
        times.calls.append(end - flight.began)
        times.items += flight.count

    for first in range(0, len(numbers), calls.batch):
        if len(flights) == calls.lanes:
            land()
        chosen = numbers[first : first + calls.batch]
        began = clock()
        lane, batch = calls.prepare([calls.images[number] for number in chosen])
        ready = clock()
        pending = calls.session.submit(lane)
        flights.append(_Flight(began, pending, batch, len(chosen), clock() - ready))
        times.stage(preprocess=ready - began)
    while flights:
        land()


def _camera(calls: Calls, numbers: Sequence[int], times: _Times) -> None:
    """Frames arrive on a clock; the newest is taken and those before it are dropped; the latency counts from the arrival."""
    clock = time.perf_counter
    start = clock()
    following = 0
    while following < len(numbers):
        arrived = int((clock() - start) * calls.fps)
        if arrived < following:
            time.sleep(max(0.0, start + following / calls.fps - clock()))
            continue
        newest = min(arrived, len(numbers) - 1)
        times.dropped += newest - following
        began = clock()
        lane, batch = calls.prepare([calls.images[numbers[newest]]])
        ready = clock()
        pending = calls.session.submit(lane)
        outputs = pending.view()
        inferred = clock()
        calls.task.postprocess(outputs, batch)
        end = clock()
        times.calls.append(end - (start + newest / calls.fps))
        times.stage(preprocess=ready - began)
        times.infer(inferred - ready, pending.timings)
        times.stage(postprocess=end - inferred)
        times.items += 1
        pending.release()
        following = newest + 1


SCENARIOS: dict[str, Scenario] = {"single": _single, "offline": _in_flight, "camera": _camera, "multi": _in_flight}


class _Nothing:
    """Stands for a task, a session, a lane and an answer that take no time, to see what the timing itself takes."""

    inputs: Any = (type("Tensor", (), {"name": "images"}),)
    timings = DeviceTimings(0, 0, 0)
    lent: Mapping[str, Any] = {"images": None}

    def preprocess(self, images: Sequence[Any], out: Any = None) -> Any:
        return images

    def submit(self, lane: Any) -> Any:
        return self

    def view(self) -> Mapping[str, NDArray[Any]]:
        return {}

    def postprocess(self, outputs: Any, batch: Any) -> Any:
        return batch

    def release(self) -> None:
        """Holds nothing."""


def overhead_ms() -> float:
    """What one call of the single scenario takes when everything in it takes no time: the clock readings and the list appends."""
    nothing: Any = _Nothing()
    lent: Any = type("Lent", (), {"inputs": _Nothing.lent})()
    calls = Calls(nothing, nothing, lambda number: nothing, lambda: lent, lambda image, prediction: None, ())
    # The quickest of several: what other processes take is no part of it.
    return min(1000 * time_block("single", calls, range(_OVERHEAD_CALLS)).wall_s / _OVERHEAD_CALLS for _ in range(_OVERHEAD_TRIES))


def _ms(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(1000 * value, _DIGITS) for value in seconds)


def _all_ms(table: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: _ms(values) for name, values in table.items()}
