"""What a measurement keeps: every single time and the facts of the run; percentiles are methods, never stored instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jetlens.atomic import write_atomic
from jetlens.backends.base import Precision, RunFacts

__all__ = ["Case", "Measurement", "write_records"]


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked to run: a model (file or name) on a backend at a precision (None is the backend's own for that graph)."""

    model: str
    backend: str
    precision: Precision | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One case after it ran.

    Attributes:
        facts: what really ran.
        first_ms: the first call, kept apart from the steady state.
        stages_ms: for each stage (preprocess, infer, postprocess) the time of every image, all of one length.
        deviation: from the reference, on identical input.
        accuracy: metric name to value.
        failed: why the case could not run; all else is empty then.
    """

    case: Case
    facts: RunFacts | None = None
    first_ms: float = 0.0
    stages_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    deviation: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""

    def latency_ms(self, percentile: float) -> float:
        """A percentile of the whole time of one image, all stages together."""
        return float(np.percentile(np.sum(list(self.stages_ms.values()), axis=0), percentile))

    def images_per_s(self) -> float:
        """Images over the time they took, one after the other, all stages together."""
        times = np.sum(list(self.stages_ms.values()), axis=0)
        return float(1000 * len(times) / times.sum())


def write_records(path: Path, measurements: Sequence[Measurement], machine: Mapping[str, Any]) -> None:
    """Writes the raw values and the machine as JSON."""
    content = {"machine": dict(machine), "measurements": [asdict(m) for m in measurements]}
    write_atomic(path, json.dumps(content, indent=1).encode())
