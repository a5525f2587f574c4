"""predict_stream: decode, prepare, infer, draw and encode, each frame in turn and the five of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jetlens.frame import Frame
from jetlens.ops.buffers import BufferPool
from jetlens.pipeline.stages import DEPTH, Stage, run_stages
from jetlens.pipeline.statistics import StreamStats
from jetlens.predictor import Predictor
from jetlens.results import Prediction
from jetlens.tasks.base import Arrays, Batch

__all__ = ["Result", "predict_stream"]

Render = Callable[["Result"], Frame]
Deliver = Callable[["Result", Frame], Any]


@dataclass(frozen=True, slots=True)
class Result:
    """A frame and what the model says of it.

    Attributes:
        latency_ms: time that preprocessing, the model and postprocessing took for it, waiting left out.
        fps: results of its stream in a second, over the last seconds; None where nobody counts them.
        inferred: whether the model saw this very frame; otherwise the prediction is carried over from an earlier one.
    """

    frame: Frame
    prediction: Prediction
    latency_ms: float
    fps: float | None = field(default=None, kw_only=True)
    inferred: bool = field(default=True, kw_only=True)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A frame between preprocessing and the model."""

    frame: Frame
    batch: Batch
    latency_ms: float


@dataclass(frozen=True, slots=True)
class _Inferred:
    """A frame between the model and postprocessing."""

    frame: Frame
    batch: Batch
    outputs: Arrays
    latency_ms: float


class _Preprocessing:
    """Pictures into arrays of the model's input, which come from a pool."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._pool = BufferPool()
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __call__(self, frame: Frame) -> _Prepared:
        start = time.perf_counter()
        # The first array tells the shape and type of the others.
        out = self._pool.take(self._shape, self._dtype) if self._shape else None
        batch = self._predictor.task.preprocess([frame.image_rgb], out=out)
        self._shape, self._dtype = batch.array.shape, batch.array.dtype
        return _Prepared(frame, batch, _since_ms(start))


def predict_stream(
    source: Iterable[Frame], predictor: Predictor, render: Render, deliver: Deliver, *, depth: int = DEPTH, threaded: bool = True
) -> StreamStats:
    """Runs every frame of a source through a model, in order; ``render`` draws it and ``deliver`` takes it, in the caller's thread.

    The stages ``decode``, ``prepare`` (preprocessing), ``infer`` (the model alone), ``draw`` (with postprocessing) and ``encode`` have a
    thread each. At most ``4 * depth + 5`` frames exist at a time. The answers are the same, frame by frame, as without threads.
    """

    def infer(prepared: _Prepared) -> _Inferred:
        start = time.perf_counter()
        outputs = predictor.infer(prepared.batch)
        return _Inferred(prepared.frame, prepared.batch, outputs, prepared.latency_ms + _since_ms(start))

    def draw(inferred: _Inferred) -> tuple[Result, Frame]:
        start = time.perf_counter()
        prediction = predictor.task.postprocess(inferred.outputs, inferred.batch)[0]
        result = Result(inferred.frame, prediction, inferred.latency_ms + _since_ms(start))
        return result, render(result)

    stages = (
        Stage("prepare", _Preprocessing(predictor)),
        Stage("infer", infer),
        Stage("draw", draw),
        Stage("encode", lambda pair: deliver(*pair)),
    )
    return run_stages(source, stages, depth=depth, threaded=threaded)


def _since_ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
