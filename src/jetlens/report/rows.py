"""Rows: each measured case as words and numbers, ready for a page; what a gate refused shows why in place of its speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jetlens.bench import figures
from jetlens.bench.records import Measurement, Run

__all__ = ["NOT_KNOWN", "Row", "number", "rows"]

NOT_KNOWN = "n/a"
"""Stands where a machine cannot say; a zero there would be a lie."""

_AGREEMENT = ("top1_agreement", "matched_boxes", "mask_agreement")
_SCORES = ("top1", "map50_95", "map50", "miou")


@dataclass(frozen=True, slots=True)
class Row:
    """One case of a run.

    Attributes:
        title: names the case in tables and charts, the same everywhere.
        rank: 1 the fastest, shared by ties; None where its speed may not be shown.
        figures: see ``jetlens.bench.figures.summary``.
        agreement: with the reference on identical input, 0 to 1, and what agrees; None where nothing was compared.
        score: the task's accuracy, its name and its interval; None where there were no labels.
    """

    title: str
    measurement: Measurement
    rank: int | None
    tied: bool
    figures: Mapping[str, Any]
    agreement: tuple[str, float] | None
    score: tuple[str, float, tuple[float, float] | None] | None

    @property
    def refused(self) -> str:
        """Why its speed is not shown; empty where it is."""
        return self.measurement.refused

    @property
    def runs_on(self) -> str:
        """What really ran, as the runtime said."""
        facts = self.measurement.facts
        return f"{facts.provider}, {facts.precision}, {facts.backend} {facts.version}" if facts else NOT_KNOWN

    @property
    def p50_ms(self) -> float | None:
        """The median latency, or None where it is not known or may not be shown."""
        value: float | None = None if self.refused else self.figures["p50"]
        return value


def rows(run: Run) -> tuple[Row, ...]:
    """The cases of a run, the fastest first, then those whose speed is refused."""
    ranks = figures.ties(run)
    shared = [rank for rank in ranks.values() if list(ranks.values()).count(rank) > 1]
    titles = _titles(run)
    found = [
        Row(
            titles[index],
            row,
            ranks.get(index),
            ranks.get(index) in shared,
            figures.summary(run, row),
            _first(row.deviation, _AGREEMENT),
            _score(row),
        )
        for index, row in enumerate(run.measurements)
    ]
    return tuple(sorted(found, key=lambda row: (bool(row.refused), row.rank or len(found), row.p50_ms or math.inf)))


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A figure with so many significant digits and its unit; ``n/a`` for None and for what is not finite."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    if value == 0:
        text = "0"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(places, 6)}f}"
    return f"{text} {unit}".rstrip()


def _titles(run: Run) -> list[str]:
    """The cases' titles, with the model where there is more than one."""
    several = len({row.case.model for row in run.measurements}) > 1
    titles = []
    for row in run.measurements:
        ran = row.facts.precision if row.facts and row.case.precision is None else ""
        title = " ".join(part for part in (row.case.title, ran) if part)
        titles.append(f"{row.case.model} {title}" if several else title)
    return titles


def _first(values: Mapping[str, float], names: tuple[str, ...]) -> tuple[str, float] | None:
    return next(((name.replace("_", " "), values[name]) for name in names if name in values), None)


def _score(row: Measurement) -> tuple[str, float, tuple[float, float] | None] | None:
    name = next((name for name in _SCORES if name in row.accuracy), None)
    return None if name is None else (name, row.accuracy[name], row.intervals.get(name))
