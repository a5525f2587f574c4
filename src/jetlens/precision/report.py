"""What a conversion to lower precision did and how it was judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetlens.precision.guard import Verdict

__all__ = ["Report", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One judgement.

    Attributes:
        group: the layers that went back to fp32 before it, in words; empty the first time.
        kept: the names of all layers that are fp32 by then.
    """

    group: str
    kept: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """A conversion.

    Attributes:
        recipe: of int8; empty for fp16.
        calibration: origin, number and hash of the pictures; empty for fp16.
        data: origin, number and hash of the pictures that judged, and whether they were labelled.
        layers: that could change their precision.
        overflowing: nodes that stay fp32 because fp16 cannot hold their numbers, with the largest magnitude.
        path: the file; None until it is written.
    """

    precision: str
    recipe: str
    method: str
    calibration: Mapping[str, Any]
    data: Mapping[str, Any]
    layers: int
    overflowing: Mapping[str, float]
    steps: tuple[Step, ...]
    budget: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None

    @property
    def verdict(self) -> str:
        """accepted, undecided or refused."""
        return self.steps[-1].verdict.status

    @property
    def put_back(self) -> tuple[str, ...]:
        """The layers that went back to fp32 for the guard."""
        return self.steps[-1].kept

    def summary(self) -> dict[str, Any]:
        """What the sidecar keeps: everything but the steps between."""
        last = self.steps[-1].verdict.to_dict()
        rows = {"recipe": self.recipe, "method": self.method, "layers": self.layers, "overflowing": list(self.overflowing)}
        return {**rows, "put_back": list(self.put_back), "judged_on": dict(self.data), "budget": dict(self.budget), "verdict": last}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        steps = [{"group": step.group, "kept": list(step.kept), **step.verdict.to_dict()} for step in self.steps]
        return {
            "path": None if self.path is None else str(self.path),
            "precision": self.precision,
            "status": self.verdict,
            "calibration": dict(self.calibration),
            **self.summary(),
            "overflowing": dict(self.overflowing),
            "steps": steps,
        }

    def lines(self) -> list[str]:
        """What there is now, in lines of text: its way here was said as it was made."""
        told = self.calibration
        how = f", calibrated on {told['pictures']} pictures, sha256 {told['sha256'][:12]}" if told else ""
        rows = [f"{self.path or 'nothing was written'}: {self.precision}{how}"]
        if self.put_back:
            rows.append(f"  {len(self.put_back)} of {self.layers} layers are fp32 for accuracy")
        return rows
