"""Runs cases by turns in one process, so that drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.bench.records import Case, Measurement
from jetlens.deviation import deviation
from jetlens.errors import JetlensError
from jetlens.frame import Image
from jetlens.predictor import Predictor, load

__all__ = ["measure"]

STAGES = ("preprocess", "infer", "postprocess")
WARM_UP = 3


@dataclass
class _Running:
    """A case whose model is loaded, with the times taken so far."""

    case: Case
    predictor: Predictor
    first_ms: float
    times: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def block(self, images: Sequence[Image]) -> None:
        for image in images:
            _, timings = self.predictor.timed(image)
            for stage in STAGES:
                self.times[stage].append(getattr(timings, f"{stage}_ms"))


def measure(
    cases: Sequence[Case],
    images: Mapping[str, Sequence[Image]],
    *,
    blocks: int = 6,
    score: Callable[[Predictor], Mapping[str, float]] | None = None,
    done: Callable[[str], None] = lambda message: None,
) -> list[Measurement]:
    """Times every case on the images of its model, in blocks that take turns, and compares raw outputs.

    The first case of each model is that model's reference. A case that cannot run gives a measurement that says why.

    Args:
        images: real pictures for each model's name; each block runs them all once.
        blocks: how many turns each case gets.
        score: accuracy figures of a loaded model.
        done: told what was finished, for a progress display.
    """
    results: dict[Case, Measurement] = {}
    with ExitStack() as stack:
        running: list[_Running] = []
        for case in cases:
            try:
                running.append(_start(case, images[case.model][0], stack))
            except JetlensError as error:
                results[case] = Measurement(case, failed=str(error))
        for turn in range(blocks):
            for run in running:
                run.block(images[run.case.model])
            done(f"timed block {turn + 1} of {blocks}")
        reference: dict[str, Mapping[str, NDArray[Any]]] = {}
        for run in running:
            results[run.case] = _finish(run, images[run.case.model], reference, score)
            done(f"checked {run.case.model} on {run.case.backend} {run.case.precision or ''}".rstrip())
    return [results[case] for case in cases]


def _start(case: Case, image: Image, stack: ExitStack) -> _Running:
    predictor = stack.enter_context(load(case.model, case.backend, precision=case.precision))
    began = time.perf_counter()
    predictor(image)
    first_ms = 1000 * (time.perf_counter() - began)
    for _ in range(WARM_UP):
        predictor(image)
    return _Running(case, predictor, first_ms)


def _finish(
    run: _Running,
    images: Sequence[Image],
    reference: dict[str, Mapping[str, NDArray[Any]]],
    score: Callable[[Predictor], Mapping[str, float]] | None,
) -> Measurement:
    predictor = run.predictor
    each = [predictor.infer(predictor.task.preprocess([image])) for image in images]
    outputs = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    expected = reference.setdefault(run.case.model, outputs)
    try:
        deviations = deviation(predictor.spec.task, expected, outputs)
        accuracy = dict(score(predictor)) if score else {}
    except JetlensError as error:
        return Measurement(run.case, predictor.facts, failed=str(error))
    stages = {stage: tuple(times) for stage, times in run.times.items()}
    return Measurement(run.case, predictor.facts, run.first_ms, stages, deviations, accuracy)
