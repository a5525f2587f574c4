"""Inference: the stages between pictures and predictions, on sessions that answer at once and on those with runs in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from jetlens.backends.base import Lane, Pending
from jetlens.errors import BackendError
from jetlens.frame import Image
from jetlens.ops.buffers import BufferPool
from jetlens.predictor import Predictor
from jetlens.results import Prediction
from jetlens.tasks.base import Arrays, Batch

__all__ = ["InFlight", "Inference", "LanedInference", "PlainInference"]

_ASK_S: Final = 0.1


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


class PlainInference:
    """On a session that answers at once: ``prepare`` and ``infer``."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
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
        flight.outputs = self._predictor.infer(flight.batch)


class LanedInference:
    """On a session with runs in flight: ``prepare`` into a lane, ``submit`` and ``infer``, which waits for the answer.

    Args:
        lanes: as many as the session was opened with.
    """

    def __init__(self, predictor: Predictor, lanes: int) -> None:
        self._predictor = predictor
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
        flight.pending = self._session.submit(flight.lane)
        flight.lane = None

    def _infer(self, flight: InFlight) -> None:
        assert flight.pending is not None
        outputs = flight.pending.result()
        flight.outputs = {name: array[: len(flight.batch.placements)] for name, array in outputs.items()} if flight.batch else outputs
        flight.pending = None
        self._free.release()
