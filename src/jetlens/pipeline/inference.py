"""Inference: the stages between pictures and predictions, on sessions that answer at once and on those with runs in flight."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from jetlens.backends.base import Lane, Pending
from jetlens.backends.breaker import Breaker, RunFailedError
from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import BackendError, UsageError
from jetlens.frame import Image
from jetlens.ops.buffers import BufferPool
from jetlens.predictor import Predictor
from jetlens.results import Prediction
from jetlens.tasks.base import Arrays, Batch

__all__ = [
    "GPU_LANES",
    "InFlight",
    "Inference",
    "LanedInference",
    "PlainInference",
    "largest_batch",
    "may_run_at_once",
    "open_inference",
    "usual_lanes",
]

_ASK_S: Final = 0.1
GPU_LANES: Final = 3
"""Runs in flight on runtimes that have them: one whose input is filled, one that computes, one whose answer is read."""
_MOST_LANES: Final = 4
"""On a processor: more would only hold more frames, since what comes before and after the model is one thread each."""


@dataclass(slots=True)
class InFlight:
    """Pictures on their way through a model.

    Attributes:
        images: uint8 RGB [height, width, 3] of any sizes; empty once they are prepared.
        latency_ms: time that was worked on them.
    """

    images: Sequence[Image]
    latency_ms: float = 0.0
    batch: Batch | None = None
    lane: Lane | None = None
    pending: Pending | None = None
    outputs: Arrays | None = None


class Inference(Protocol):
    """How pictures come to predictions, in steps that may have a thread each."""

    def steps(self) -> Sequence[tuple[str, Callable[[InFlight], None]]]:
        """Names and functions of the steps, in order."""
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

    def abandon(self, flight: InFlight) -> None:
        """Gives it back, and waits for no other one any more: a step has failed."""
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
    """On a session that answers at once: ``prepare`` and ``infer``, which several threads may call where the session allows it."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._breaker = Breaker()
        self._pool = BufferPool()
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def steps(self) -> Sequence[tuple[str, Callable[[InFlight], None]]]:
        """Names and functions of the steps, in order."""
        return (("prepare", _timed(self._prepare)), ("infer", _timed(self._infer)))

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

    def abandon(self, flight: InFlight) -> None:
        """Nothing is waited for."""

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

    On a processor as many as its cores hold, of so many threads each, or of all cores' threads in turn. Cameras alone get no more runs than there are of them: a second
    run on the next frame of the same camera would take the cores from the first, and its answer would only grow older.

    Args:
        threads: inside one run, as the session was opened; None for the runtime's own choice.
    """
    if not isinstance(predictor.session, ImmediateLanes):
        return GPU_LANES
    if not may_run_at_once(predictor):
        return 1
    fit = max(1, _cores() // (threads or 1))
    return min(fit, _MOST_LANES, fit if files else cameras)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LanedInference:
    """On a session with runs in flight: ``prepare`` into a lane, ``submit`` and ``infer``, which waits for the answer.

    Args:
        lanes: as many as the session was opened with.
    """

    def __init__(self, predictor: Predictor, lanes: int) -> None:
        self._predictor = predictor
        self._breaker = Breaker()
        self._session = predictor.session
        tensor = predictor.session.inputs[0]
        self._input = tensor.name
        self._fixed = tensor.shape[0] if isinstance(tensor.shape[0], int) else None
        self._free = threading.BoundedSemaphore(lanes)
        self._abandoned = False

    def steps(self) -> Sequence[tuple[str, Callable[[InFlight], None]]]:
        """Names and functions of the steps, in order."""
        return (("prepare", self._prepare), ("submit", _timed(self._submit)), ("infer", _timed(self._infer)))

    def begun(self, flight: InFlight) -> bool:
        """Whether the run was started."""
        return flight.pending is not None or flight.outputs is not None

    def answers(self, flight: InFlight) -> Sequence[Prediction]:
        """One prediction a picture."""
        assert flight.outputs is not None
        assert flight.batch is not None
        return self._predictor.task.postprocess(flight.outputs, flight.batch)

    def release(self, flight: InFlight) -> None:
        """Gives the lane back."""
        held: Lane | Pending | None = flight.lane or flight.pending
        if held is not None:
            flight.lane = flight.pending = None
            held.release()
            self._free.release()

    def abandon(self, flight: InFlight) -> None:
        """Gives the lane back, and waits for no other: those in flight are lost with the queues that held them."""
        self._abandoned = True
        self.release(flight)

    def _prepare(self, flight: InFlight) -> None:
        while not self._free.acquire(timeout=_ASK_S):
            if self._abandoned:
                raise BackendError("the run has ended while a frame waited for a lane")
        start = time.perf_counter()
        try:
            flight.lane = self._session.lane(self._fixed or len(flight.images))
        except BaseException:
            self._free.release()
            raise
        flight.batch = self._predictor.task.preprocess(flight.images, out=flight.lane.inputs[self._input])
        flight.images = ()
        flight.latency_ms += (time.perf_counter() - start) * 1e3

    def _submit(self, flight: InFlight) -> None:
        assert flight.lane is not None
        with _borne(self._breaker):
            flight.pending = self._session.submit(flight.lane)
        flight.lane = None

    def _infer(self, flight: InFlight) -> None:
        assert flight.pending is not None
        with _borne(self._breaker):
            outputs = flight.pending.result()
        flight.outputs = {name: array[: len(flight.batch.placements)] for name, array in outputs.items()} if flight.batch else outputs
        flight.pending = None
        self._free.release()


def open_inference(predictor: Predictor, lanes: int) -> Inference:
    """How a predictor is run: with runs in flight where its session was opened for several."""
    laned = lanes > 1 and not isinstance(predictor.session, ImmediateLanes) and hasattr(predictor.session, "lane")
    return LanedInference(predictor, lanes) if laned else PlainInference(predictor)


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
