"""The accuracy guard: whether a graph of lower precision may take the place of its fp32 original, by paired scores of the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from jetlens.evaluate.bootstrap import interval_of
from jetlens.precision.tallies import Tally

__all__ = ["Budget", "ClassDrop", "Verdict", "judge"]

_RESAMPLES = 1000
_MOST_CLASSES = 5
_SEED = 31_000
_ROUNDING = 1e-9
"""Ten of 2,000 are half a point, whatever the last bits say."""
Status = Literal["accepted", "undecided", "refused"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What lower precision may cost; shares from 0 to 1.

    Attributes:
        drop: of the score, in absolute terms: 0.005 is half a point.
        kept: of the fp32 score that must remain.
        agreement: with the fp32 answers, where there is no truth or too little of it.
        class_drop: of one class's score; refused only where it is certain, over all classes together, to 95 %.
        class_images: pictures that a class needs to be judged.
        images: labelled pictures from which on the drop decides.
    """

    drop: float = 0.005
    kept: float = 0.99
    agreement: float = 0.99
    class_drop: float = 0.05
    class_images: int = 100
    images: int = 1000


@dataclass(frozen=True, slots=True)
class ClassDrop:
    """How much worse one class fares, and how much at least, to 95 % over all classes that are judged."""

    class_id: int
    label: str
    images: int
    drop: float
    at_least: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison with fp32 gave.

    Attributes:
        status: ``undecided`` passes too: few labelled pictures, whose answers agree.
        reasons: why it is refused, or cannot be decided.
        metric: the score; empty where there is no truth.
        drop: of the score from fp32, in absolute terms; negative where it rose.
        interval: 95 % of the drop, over pictures drawn again.
        agreement: of the answers.
        classes: those that were judged, worst first, at most five.
    """

    status: Status
    reasons: tuple[str, ...]
    images: int
    agreement: float
    metric: str = ""
    reference: float = 0.0
    score: float = 0.0
    drop: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    classes: tuple[ClassDrop, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the graph may be kept."""
        return self.status != "refused"

    def __str__(self) -> str:
        figures = f"agreement {self.agreement:.2%}"
        if self.metric:
            low, high = (100 * bound for bound in self.interval)
            drop = f"drop {100 * self.drop:.2f} points (95 %: {low:.2f} to {high:.2f})"
            figures = f"{self.metric} {self.reference:.4f} -> {self.score:.4f}, {drop}, {figures}"
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.status}, {figures} on {self.images} pictures{why}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rounded = {key: round(getattr(self, key), 6) for key in ("agreement", "reference", "score", "drop")}
        return {
            **asdict(self),
            **rounded,
            "interval": [round(bound, 6) for bound in self.interval],
            "reasons": list(self.reasons),
            "classes": [asdict(row) for row in self.classes],
        }


def judge(reference: Tally, candidate: Tally, images: int, budget: Budget, labels: Sequence[str] | None) -> Verdict:
    """Compares the answers of two graphs to the same pictures; ``labels`` is None where there is no truth."""
    agreement = reference.agreement(candidate)
    disagrees = []
    if not agreement >= budget.agreement - _ROUNDING:
        disagrees.append(f"{agreement:.2%} of the answers are those of fp32 (needed {budget.agreement:.2%})")
    if labels is None:
        return Verdict("refused" if disagrees else "accepted", tuple(disagrees), images, agreement)
    weights = np.random.default_rng(_SEED).multinomial(images, np.full(images, 1 / images), _RESAMPLES).astype(np.float64)
    weights = np.concatenate([np.ones((1, images)), weights])
    (before, classes_before), (after, classes_after) = reference.score(weights), candidate.score(weights)
    drops = before - after
    low, high = interval_of(drops[1:])
    rows = _class_drops(classes_before - classes_after, reference.images(), labels, budget)
    scored = (reference.metric, float(before[0]), float(after[0]), float(drops[0]), (low, high), tuple(rows[:_MOST_CLASSES]))
    return _decided(Verdict("accepted", (), images, agreement, *scored), rows, budget, disagrees)


def _decided(figures: Verdict, rows: Sequence[ClassDrop], budget: Budget, disagrees: list[str]) -> Verdict:
    few = figures.images < budget.images
    # Few pictures can prove a fall, and never that there is none.
    sure = figures.interval[0] if few else figures.drop
    reasons = []
    if not sure <= budget.drop + _ROUNDING:
        reasons.append(f"{figures.metric} falls by {100 * figures.drop:.2f} points (allowed {100 * budget.drop:.2f})")
    if not few and not figures.score >= budget.kept * figures.reference:
        reasons.append(
            f"{figures.score / max(figures.reference, 1e-12):.2%} of the fp32 {figures.metric} remain (needed {budget.kept:.2%})"
        )
    reasons += [
        f"class {row.label} falls by {100 * row.drop:.1f} points, {100 * row.at_least:.1f} at least (allowed {100 * budget.class_drop:.1f})"
        for row in rows
        if not row.at_least <= budget.class_drop
    ]
    if few:
        reasons += disagrees
    if reasons:
        return replace(figures, status="refused", reasons=tuple(reasons))
    if few:
        why = f"{figures.images} labelled pictures are too few to prove the drop (needed {budget.images}); the answers agree"
        return replace(figures, status="undecided", reasons=(why,))
    return figures


def _class_drops(drops: Any, images: Any, labels: Sequence[str], budget: Budget) -> list[ClassDrop]:
    """The classes with enough pictures, worst first; drops [1 + resamples, classes], the first row as it is."""
    judged = np.flatnonzero(images >= budget.class_images)
    if not len(judged):
        return []
    # Bonferroni: the more classes are looked at, the surer each must be.
    z = NormalDist().inv_cdf(1 - 0.05 / len(judged))
    spread = drops[1:, judged].std(axis=0)
    rows = [
        ClassDrop(k, labels[k] or f"class {k}", int(images[k]), round(float(drop), 6), round(float(drop - z * error), 6))
        for k, drop, error in zip(judged.tolist(), drops[0, judged], spread, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.at_least)
