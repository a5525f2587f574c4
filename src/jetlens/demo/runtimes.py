"""The table: every runtime and precision that is there, on the three networks, with deviation and accuracy beside the speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from jetlens.backends import BACKENDS
from jetlens.bench.records import Case, Measurement
from jetlens.bench.runner import measure
from jetlens.data.samples import Sample, orange_line_samples
from jetlens.evaluate import evaluate
from jetlens.imagefile import load_image
from jetlens.predictor import Predictor
from jetlens.spec import TaskName
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

__all__ = ["NETWORKS", "cases", "measure_runtimes"]

NETWORKS: dict[str, TaskName] = {"orange-detect": "detection", "orange-grade": "classification", "orange-segment": "segmentation"}
TIMED = 16
BLOCKS = 6


def cases(available: Sequence[str]) -> list[Case]:
    """What is measured, the reference (fp32 on the first runtime) first."""
    asked: list[tuple[str, Literal["fp32", "bf16"]]] = [(backend, "fp32") for backend in available]
    if "openvino" in available:
        asked.append(("openvino", "bf16"))
    return [Case(network, backend, precision) for network in NETWORKS for backend, precision in asked]


def measure_runtimes(pictures: int, said: Callable[[str], None]) -> list[Measurement]:
    """Times, compares and scores the three networks on pictures of the orange line that no training has seen."""
    available = [name for name in BACKENDS if BACKENDS.load(name).unavailable() is None]
    samples: dict[str, list[Sample]] = {}
    for network, task in NETWORKS.items():
        samples[network] = list(orange_line_samples(task, pictures))
        said(f"drew {len(samples[network])} pictures with their truth for {network}")
    images = {
        name: [load_image(row.image) if isinstance(row.image, Path) else row.image for row in rows[:TIMED]]
        for name, rows in samples.items()
    }

    def score(predictor: Predictor) -> Mapping[str, float]:
        # Average precision looks at the whole curve, so boxes of low confidence must be seen.
        task = TASKS.load(predictor.spec.task)(predictor.spec, TaskOptions(confidence=0.01))
        result = evaluate(Predictor(task, predictor.session), samples[predictor.spec.name])
        return {**result.metrics, "pictures": result.count}

    return measure(cases(available), images, blocks=BLOCKS, score=score, done=said)
