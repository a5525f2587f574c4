"""Checks of a case before its speed counts: its outputs beside the reference's on the very same batch, and its accuracy."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageChops

from jetlens.bench.labelled import keep
from jetlens.bench.records import Case, Gate, Measurement
from jetlens.bench.taps import LOGITS
from jetlens.deviation import DARKER, judge
from jetlens.errors import MissingDependencyError
from jetlens.evaluate import ORANGE_LINE, dataset
from jetlens.metrics import require_map
from jetlens.spec import ModelSpec

__all__ = ["Checks", "Labelled", "Reference", "difference"]

HEADLINES = {"classification": "top1", "detection": "map50", "segmentation": "miou"}
_ONE_SIDED = 1.64  # 95 %


@dataclass(frozen=True, slots=True)
class Labelled:
    """What accuracy is measured on: the orange line or a folder, and how many pictures of it."""

    data: str
    count: int | None = None
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the others are held against.

    Attributes:
        outputs: raw outputs [pictures, ...] by name, the task's first, and the logits where they can be had.
        darker: the same for the pictures times DARKER.
    """

    case: Case
    precision: str
    input_sha256: str
    outputs: Mapping[str, NDArray[Any]]
    darker: Mapping[str, NDArray[Any]]
    accuracy: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    overlays: tuple[str, ...] = ()


@dataclass
class Checks:
    """The gates of one model.

    Attributes:
        budget: how much of the headline metric may be lost against the reference.
        labelled: None measures no accuracy, as where the package of the score is missing, and ``unscored`` says so.
        recorded: the accuracy that the sidecar promises on this data, by metric.
        case: the reference, None where no fp32 runtime is here.
    """

    spec: ModelSpec
    names: tuple[str, ...]
    case: Case | None
    budget: float = 0.01
    labelled: Labelled | None = None
    recorded: Mapping[str, float] = field(default_factory=dict)
    reference: Reference | None = None
    unscored: str = field(default="", init=False)
    _drawn: tuple[Path, str] | None = None  # a run's folder of drawn pictures, and their hash

    def __post_init__(self) -> None:
        if self.labelled is None or self.spec.task != "detection":
            return
        try:
            require_map()
        except MissingDependencyError as error:
            self.labelled, self.unscored = None, str(error)

    @property
    def title(self) -> str:
        """The reference in words."""
        return f"{self.reference.case.title} ({self.reference.precision})" if self.reference else ""

    def take_reference(self, row: Measurement, ask: Callable[..., Any], folder: Path) -> None:
        """Keeps the outputs and the accuracy of the reference."""
        outputs, digest = _outputs(ask, folder)
        darker, _ = _outputs(ask, folder, DARKER)
        accuracy, intervals = self._score(ask, folder)
        _, overlays = ask("drawings", count=DRAWN)
        precision = row.facts.precision if row.facts else ""
        self.reference = Reference(row.case, precision, digest, outputs, darker, accuracy, intervals, tuple(overlays))

    def check(self, row: Measurement, ask: Callable[..., Any], folder: Path) -> dict[str, Any]:
        """The fields of the row that its checks fill."""
        gates: list[Gate] = []
        deviation: dict[str, float] = {}
        reference = self.reference
        outputs, digest = _outputs(ask, folder)
        if reference is not None:
            # Logits are compared where both have them.
            expected = {name: array for name, array in reference.outputs.items() if name in outputs or name != LOGITS}
            precision = row.facts.precision if row.facts else "fp32"
            verdict = judge(self.spec.task, expected, outputs, precision, darker=reference.darker, names=self.names)
            same = reference.input_sha256 == digest
            deviation = dict(verdict.figures)
            gates.append(Gate("numeric", verdict.passed and same, verdict.why if same else "its input batch is not the reference's"))
        accuracy: Mapping[str, float] = {}
        intervals: Mapping[str, tuple[float, float]] = {}
        if self.labelled is not None and all(gate.passed for gate in gates):
            own = reference is not None and reference.case == row.case
            accuracy, intervals = (reference.accuracy, reference.intervals) if own and reference else self._score(ask, folder)
            gates.append(self._accuracy_gate(accuracy))
        return {"input_sha256": digest, "deviation": deviation, "accuracy": accuracy, "intervals": intervals, "gates": tuple(gates)}

    def _score(self, ask: Callable[..., Any], folder: Path) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        asked = self.labelled
        if asked is None:
            return {}, {}
        drawn = self._draw(asked, folder / "labelled") if asked.data == ORANGE_LINE else None
        metrics, intervals = ask("score", data=asked.data, count=asked.count, layout=asked.layout, drawn=drawn)
        return metrics, {name: (low, high) for name, (low, high) in intervals.items()}

    def _draw(self, asked: Labelled, folder: Path) -> tuple[str, str]:
        """The folder and the hash of the pictures; drawing takes each process longer than scoring them, so they are drawn once a run."""
        if self._drawn is None or self._drawn[0] != folder:
            self._drawn = folder, keep(dataset(asked.data, self.spec, asked.count, layout=asked.layout), folder)
        return str(folder), self._drawn[1]

    def _accuracy_gate(self, accuracy: Mapping[str, float]) -> Gate:
        metric = HEADLINES[self.spec.task]
        pictures = int(accuracy["pictures"])
        score = accuracy[metric]
        for whose, expected in (("the reference's", self.reference.accuracy if self.reference else {}), ("the sidecar's", self.recorded)):
            if metric not in expected:
                continue
            drop = expected[metric] - score
            # The lower end of what so few pictures say of the drop: one picture that flips is no proof.
            if drop - _ONE_SIDED * (max(drop, 0.0) / pictures) ** 0.5 > self.budget:
                why = f"{metric} {score:.4f} on {pictures} pictures is {drop:.4f} below {whose} {expected[metric]:.4f} (allowed {self.budget:g})"
                return Gate("accuracy", False, why)
        return Gate("accuracy", True, f"{metric} {score:.4f} on {pictures} pictures")


DRAWN = 3
"""How many pictures are drawn with their predictions."""


def difference(first: str, second: str) -> str:
    """How far two drawn pictures are apart, eight times as bright; all three are base64 of PNG files."""
    pictures = [PillowImage.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in (first, second)]
    stream = io.BytesIO()
    ImageChops.difference(*pictures).point(lambda level: min(255, 8 * level)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _outputs(ask: Callable[..., Any], folder: Path, gain: float = 1.0) -> tuple[dict[str, NDArray[Any]], str]:
    file = folder / "outputs.npz"
    digest = ask("outputs", file=str(file), taps=True, gain=gain)
    with np.load(file, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    file.unlink()
    return arrays, digest
