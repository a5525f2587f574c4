"""Evaluation: scores with the number of pictures, and beside every score how far other pictures of the same kind would move it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Evaluation", "Interval"]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes:
        metric: the name of the score that the task is judged by: top1, map50 or miou.
        score: 0 to 1.
        metrics: all scores by name.
        classes: a row a class; ``intervals`` in it are of its scores.
        count: pictures that were scored.
        skipped: what could not be read, with the reasons; these pictures are in no score.
        intervals: 95 % of each metric: Wilson's for shares of pictures, else over pictures drawn again.
    """

    metric: str
    score: float
    metrics: Mapping[str, float]
    classes: tuple[Mapping[str, Any], ...]
    count: int
    skipped: tuple[str, ...] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """Of the score."""
        return self.intervals.get(self.metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "metric": self.metric,
            "score": round(self.score, 6),
            "interval": None if self.interval is None else _rounded(self.interval),
            "images": self.count,
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
            "intervals": {name: _rounded(interval) for name, interval in self.intervals.items()},
            "classes": [_plain(row) for row in self.classes],
            "skipped": list(self.skipped),
        }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "intervals": {name: _rounded(interval) for name, interval in row.get("intervals", {}).items()}}


def _rounded(interval: Interval) -> list[float]:
    return [round(bound, 6) for bound in interval]
