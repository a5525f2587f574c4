"""Inference: the stages between pictures and predictions, on sessions that answer at once and on those with runs in flight."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from jetlens.backends.base import Lane, Pending
from jetlens.backends.breaker import Breaker, RunFailedError
from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.ops.buffers import BufferPool
from jetlens.ops.images import place_frames
from jetlens.predictor import Predictor
from jetlens.results import Prediction
from jetlens.tasks.base import Arrays, Batch

__all__ = [
    "InFlight",
    "Inference",
    "LanedInference",
    "PlainInference",
    "Part",
    "gpu_lanes",
    "largest_batch",
    "may_run_at_once",
    "open_alike",
    "open_inference",
    "usual_lanes",
]

_LEAST_GPU_LANES: Final = 4
"""Two threads, each with a run ahead."""
_MOST_GPU_LANES: Final = 8
"""Each fills its input on a core: with antialiasing one resizes about 200 frames of 720p a second, and a GPU answers more."""
_ONE_THREAD: Final = (1, 3)
"""Threads, and runs that each begins before it waits, where the graph resizes the frames: a second thread made the first wait for the GIL, and all
that both did took half as long again on an H200."""
_TWO_THREADS: Final = (2, 1)
"""Where a picture is resized in under a millisecond, or a mask of its size comes back, most of which is done without the GIL; and for cameras, whose
frames would wait for the end of the runs before them while a GPU has room for more."""
_READY_BATCHES: Final = 8
"""Sizes of batches that are made ready for cameras; others are filled up to the next one."""
_MOST_LANES: Final = 4
"""On a processor: more would only hold more frames, since what comes after the model is one thread each."""


@dataclass(frozen=True, slots=True)
class Part:
    """Steps of inference that have threads of their own.

    Attributes:
        workers: threads, each of which takes an item through all steps.
        steps: names and functions, in order.
        ahead: further items that a thread takes up to the last step before it does that for the oldest.
    """

    workers: int
    steps: Sequence[tuple[str, Callable[[InFlight], None]]]
    ahead: int = 0

    @property
    def holds(self) -> int:
        """Items that it works on at once."""
        return self.workers * (1 + self.ahead)


@dataclass(slots=True)
class InFlight:
    """Pictures on their way through a model.

    Attributes:
        images: uint8 RGB [height, width, 3] of any sizes; empty once they are prepared.
        latency_ms: time that was worked on them; where runs are in flight, from the first step to the end of the last.
        started_s: when the first step began, on the clock of ``time.perf_counter``.
    """

    images: Sequence[Image]
    latency_ms: float = 0.0
    started_s: float = 0.0
    batch: Batch | None = None
    lane: Lane | None = None
    pending: Pending | None = None
    outputs: Arrays | None = None
    predictions: Sequence[Prediction] | None = None


class Inference(Protocol):
    """How pictures come to predictions, in steps."""

    def warm(self, largest: int) -> None:
        """Makes ready what the first batches of up to so many pictures would be held up by."""
        ...

    def parts(self) -> Sequence[Part]:
        """What has threads of its own, in order."""
        ...

    def begun(self, flight: InFlight) -> bool:
        """Whether the model has it already, so that it is quicker to wait for its answer than to drop it."""
        ...

    def answers(self, flight: InFlight) -> Sequence[Prediction]:
        """One prediction a picture, after all steps."""
        ...

    def release(self, flight: InFlight) -> None:
        """Gives back what one holds that will not go on."""
        ...


def _timed(step: Callable[[InFlight], None]) -> Callable[[InFlight], None]:
    def timed(flight: InFlight) -> None:
        start = time.perf_counter()
        step(flight)
        flight.latency_ms += (time.perf_counter() - start) * 1e3

    return timed


@contextmanager
def _borne(breaker: Breaker) -> Iterator[None]:
    """Makes the failure of a run one that costs only this run, while failures are rare."""
    try:
        yield
    except RunFailedError:
        raise
    except Exception as error:
        raise breaker.failed(error) from error


class PlainInference:
    """On a session that answers at once: ``prepare`` and ``infer``, which several threads may call where the session allows it.

    Args:
        lanes: runs at once, where the session allows several.
    """

    def __init__(self, predictor: Predictor, lanes: int = 1) -> None:
        self._predictor = predictor
        self._lanes = lanes if may_run_at_once(predictor) else 1
        self._breaker = Breaker()
        self._pool = BufferPool()
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def warm(self, largest: int) -> None:
        """Nothing is kept by batch."""

    def parts(self) -> Sequence[Part]:
        """Both in every thread where the model may run in several, else preprocessing while it runs on earlier ones."""
        prepare, infer = ("prepare", _timed(self._prepare)), ("infer", _timed(self._infer))
        return (Part(self._lanes, (prepare, infer)),) if self._lanes > 1 else (Part(1, (prepare,)), Part(1, (infer,)))

    def begun(self, flight: InFlight) -> bool:
        """Whether the model has answered."""
        return flight.outputs is not None

    def answers(self, flight: InFlight) -> Sequence[Prediction]:
        """One prediction a picture."""
        assert flight.outputs is not None
        assert flight.batch is not None
        return self._predictor.task.postprocess(flight.outputs, flight.batch)

    def release(self, flight: InFlight) -> None:
        """Nothing is held."""

    def _prepare(self, flight: InFlight) -> None:
        # The first array tells the shape and type of the others.
        out = self._pool.take((len(flight.images), *self._shape), self._dtype) if self._shape else None
        flight.batch = batch = self._predictor.task.preprocess(flight.images, out=out)
        self._shape, self._dtype = batch.array.shape[1:], batch.array.dtype
        flight.images = ()

    def _infer(self, flight: InFlight) -> None:
        assert flight.batch is not None
        with _borne(self._breaker):
            flight.outputs = self._predictor.infer(flight.batch)


def may_run_at_once(predictor: Predictor) -> bool:
    """Whether several threads may run the model at once on a processor."""
    return getattr(predictor.session, "at_once", 1) > 1 and "CPU" in predictor.facts.provider.upper()


def usual_lanes(predictor: Predictor, threads: int | None, cameras: int, files: int) -> int:
    """How many runs at once suit a predictor.

    On a processor as many as its cores hold, of so many threads each, or of all cores' threads in turn, and one more for several files. Cameras alone get no
    more runs than cores hold and than there are of them: a second run on the next frame of the same camera would take the cores from the first, and
    its answer would only grow older.

    Args:
        threads: inside one run, as the session was opened; None for the runtime's own choice.
    """
    if not isinstance(predictor.session, ImmediateLanes):
        return gpu_lanes()
    if not may_run_at_once(predictor):
        return 1
    fit = max(1, _cores() // (threads or 1))
    # One more for several files: each waits for room at times, and the cores then have another.
    return min(fit + (fit > 1 and files > 1), _MOST_LANES) if files else min(fit, _MOST_LANES, cameras)


def gpu_lanes() -> int:
    """How many lanes a session on a GPU is opened with: as many as half of the cores, in reason."""
    return max(_LEAST_GPU_LANES, min(_MOST_GPU_LANES, _cores() // 2))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LanedInference:
    """On a session with runs in flight: ``prepare`` into a lane, ``submit``, and ``infer``, which waits for the answer and reads it.

    A thread does all three: handing over between threads would cost more than small models take. As many as lanes do so where preparing takes
    long; else one or two, each of which fills further lanes before it waits for the oldest. Frames that the graph resizes are not copied here.

    Args:
        lanes: as many as the session was opened with.
        live: whether a camera is among the sources.
    """

    def __init__(self, predictor: Predictor, lanes: int, *, live: bool = False) -> None:
        self._predictor = predictor
        self._breaker = Breaker()
        self._session = predictor.session
        tensor = predictor.session.inputs[0]
        self._input = tensor.name
        self._fixed = tensor.shape[0] if isinstance(tensor.shape[0], int) else None
        preprocess = predictor.spec.preprocess
        quick = preprocess.frame_hw is not None or preprocess.filter == "linear"
        one = preprocess.frame_hw is not None and not live and predictor.spec.task != "segmentation"
        workers, ahead = (lanes, 0) if not quick else _ONE_THREAD if one else _TWO_THREADS
        workers = min(lanes, workers)
        steps = (("prepare", self._prepare), ("submit", self._submit), ("infer", self._infer))
        self._part = Part(workers, steps, min(ahead, lanes // workers - 1))
        self._batches: Sequence[int] = ()

    def warm(self, largest: int) -> None:
        """Makes batches of a few sizes ready in every lane: done between frames it would hold up those of all cameras."""
        step = -(-largest // _READY_BATCHES)
        self._batches = (self._fixed,) if self._fixed else (*range(step, largest, step), largest)
        for batch in self._batches:
            for lane in [self._session.lane(batch) for _ in range(self._part.holds)]:
                lane.release()

    def parts(self) -> Sequence[Part]:
        """All of it in each thread, which prepares the next item while the GPU has one."""
        return (self._part,)

    def begun(self, flight: InFlight) -> bool:
        """Whether the run was started."""
        return flight.pending is not None or flight.predictions is not None

    def answers(self, flight: InFlight) -> Sequence[Prediction]:
        """One prediction a picture."""
        assert flight.predictions is not None
        return flight.predictions

    def release(self, flight: InFlight) -> None:
        """Gives the lane back."""
        held: Lane | Pending | None = flight.lane or flight.pending
        if held is not None:
            flight.lane = flight.pending = None
            held.release()

    def _prepare(self, flight: InFlight) -> None:
        flight.started_s = time.perf_counter()
        count = self._fixed or len(flight.images)
        flight.lane = self._session.lane(next((size for size in self._batches if size >= count), count))
        preprocess = self._predictor.spec.preprocess
        if preprocess.frame_hw is None:
            flight.batch = self._predictor.task.preprocess(flight.images, out=flight.lane.inputs[self._input])
        else:
            placements = place_frames(flight.images, preprocess)
            flight.lane.borrow(self._input, flight.images)
            flight.batch = Batch(flight.lane.inputs[self._input], placements)
        flight.images = ()

    def _submit(self, flight: InFlight) -> None:
        assert flight.lane is not None
        with _borne(self._breaker):
            flight.pending = self._session.submit(flight.lane)
        flight.lane = None

    def _infer(self, flight: InFlight) -> None:
        assert flight.pending is not None
        assert flight.batch is not None
        with _borne(self._breaker):
            outputs = flight.pending.result()
        flight.pending = None
        count = len(flight.batch.placements)
        flight.predictions = self._predictor.task.postprocess({name: array[:count] for name, array in outputs.items()}, flight.batch)
        flight.latency_ms = (time.perf_counter() - flight.started_s) * 1e3


def open_inference(predictor: Predictor, lanes: int, *, live: bool = False) -> Inference:
    """How a predictor is run: with runs in flight where its session was opened for several; ``live`` where a camera is among the sources."""
    laned = lanes > 1 and not isinstance(predictor.session, ImmediateLanes) and hasattr(predictor.session, "lane")
    return LanedInference(predictor, lanes, live=live) if laned else PlainInference(predictor, lanes)


def open_alike(predictors: Sequence[Predictor], lanes: int, *, live: bool = False) -> tuple[Sequence[Inference], Sequence[Part]]:
    """One for each predictor, and the parts that all of them can take: the same threads run the one or the other.

    Raises:
        UsageError: they go through different steps.
    """
    found = [open_inference(one, lanes, live=live) for one in predictors]
    parts = [one.parts() for one in found]
    if len({tuple(name for part in each for name, _ in part.steps) for each in parts}) > 1:
        raise UsageError(f"the models run on {' and '.join(one.facts.backend for one in predictors)}; load all of them on one backend")
    if len({len(each) for each in parts}) > 1:
        return open_alike(predictors, 1, live=live)
    alike = zip(*parts, strict=True)
    return found, [Part(min(p.workers for p in each), each[0].steps, min(p.ahead for p in each)) for each in alike]


def largest_batch(predictor: Predictor, wanted: int | None, streams: int) -> int:
    """Pictures in one run.

    Raises:
        UsageError: more are wanted than the model takes.
    """
    axis = predictor.session.inputs[0].shape[0]
    most = axis if isinstance(axis, int) else predictor.facts.largest_batch
    if wanted is not None and wanted > (most or wanted):
        raise UsageError(f"--max-batch {wanted}: {predictor.spec.name} takes at most {most} pictures in one run here; give that or fewer")
    usual = 1 if "CPU" in predictor.facts.provider.upper() else streams
    return wanted or min(usual, most or usual)
