"""Two runs side by side: change or noise, and why some may not be compared.

What is compared is the undisturbed latency of ``figures.undisturbed``, which repeats from run to run where medians move by tens of percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jetlens.bench.figures import BUSY, calls_ms, undisturbed
from jetlens.bench.records import Measurement, Run, Scope
from jetlens.device.state import State, comparable

__all__ = ["Comparison", "RowComparison", "compare", "compare_rows", "run_differences"]

_YARDSTICK = 1.20
_MACHINE = ("cpu", "cores", "cpu_features", "architecture", "jetson", "gpus")


@dataclass(frozen=True, slots=True)
class RowComparison:
    """One case in both runs.

    Attributes:
        ratio: latency of the second over the first; 1.1 is 10 % slower.
        interval: 95 % of the ratio.
        median_ms: of all calls, disturbed or not, in the first and in the second.
        refused: why the two do not compare; the figures mean nothing then.
        notes: what differs and does not forbid it, such as a runtime's version.
    """

    title: str
    ratio: float = 1.0
    interval: tuple[float, float] = (1.0, 1.0)
    median_ms: tuple[float, float] = (0.0, 0.0)
    refused: str = ""
    notes: tuple[str, ...] = ()

    @property
    def change(self) -> Literal["slower", "faster", "no change", "not comparable"]:
        """Slower or faster where the interval leaves 1 out."""
        if self.refused:
            return "not comparable"
        if self.interval[0] > 1:
            return "slower"
        return "faster" if self.interval[1] < 1 else "no change"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs.

    Attributes:
        refused: why no row of the two compares.
    """

    rows: tuple[RowComparison, ...]
    refused: tuple[str, ...] = ()


def compare(first: Run, second: Run, *, force: bool = False) -> Comparison:
    """Every case that is in both runs.

    Args:
        force: compare in spite of what forbids it; the reasons are still given.
    """
    refused = tuple(run_differences(first, second))
    if refused and not force:
        return Comparison((), refused)
    others = {row.case: row for row in second.measurements}
    pairs = [(row, others[row.case]) for row in first.measurements if row.case in others]
    rows = tuple(compare_rows(a, b, first.scope, first.scenario, len(first.images), force=force) for a, b in pairs)
    if not rows:
        return Comparison((), (*refused, "no case is in both runs"))
    return Comparison(rows, refused)


def compare_rows(
    first: Measurement, second: Measurement, scope: Scope, scenario: str, pictures: int, *, force: bool = False
) -> RowComparison:
    """One case in both runs."""
    title = first.case.title
    unusable = next((row.refused or "it is incomplete" for row in (first, second) if row.refused or not row.complete or not row.blocks), "")
    if unusable:
        return RowComparison(title, refused=unusable)
    reasons = list(_row_differences(first, second))
    if reasons and not force:
        return RowComparison(title, refused="; ".join(reasons))
    a, b = (undisturbed(row, scope, scenario, pictures) for row in (first, second))
    if not force and max(a.above, b.above) > BUSY:
        which, above = ("first", a.above) if a.above >= b.above else ("second", b.above)
        why = f"the machine was too busy in the {which} run: the median is {math.exp(above) - 1:.0%} above the fastest calls"
        return RowComparison(title, refused=why)
    half = 1.96 * math.hypot(a.deviation, b.deviation)
    middle = b.log_ms - a.log_ms
    medians = tuple(float(np.median(calls_ms(row, scope, scenario))) for row in (first, second))
    return RowComparison(
        title,
        math.exp(middle),
        (math.exp(middle - half), math.exp(middle + half)),
        (medians[0], medians[1]),
        notes=(*reasons, *_notes(first, second)),
    )


def run_differences(first: Run, second: Run) -> Iterator[str]:
    """Why no row of one run may stand beside one of the other: other work, another machine or state, or a run that did not end."""
    for name, words in (("scenario", "scenario"), ("scope", "scope"), ("fps", "camera's rate"), ("images_sha256", "pictures")):
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            yield f"other {words}: {_short(a)} and {_short(b)}"
    for key in _MACHINE:
        a, b = _comparable(first.machine.get(key)), _comparable(second.machine.get(key))
        if a != b:
            yield f"another machine: {key} {_short(a)} and {_short(b)}"
    for a_state, b_state in ((first.state_before, second.state_before), (first.state_after, second.state_after)):
        if a_state and b_state:
            found = comparable(State.from_dict(a_state), State.from_dict(b_state))
            if found:
                yield from found
                break
    for run, which in ((first, "first"), (second, "second")):
        if not run.complete:
            done, planned = run.counts
            yield f"the {which} run is incomplete: {done} of {planned} blocks"


def _row_differences(first: Measurement, second: Measurement) -> Iterator[str]:
    if first.model_sha256 != second.model_sha256:
        yield f"another model file: {first.model_sha256[:12]} and {second.model_sha256[:12]}"
    if first.input_sha256 != second.input_sha256:
        yield f"other input: batch {first.input_sha256[:12]} and {second.input_sha256[:12]}"
    for name in ("provider", "precision", "device"):
        a, b = getattr(first.facts, name, ""), getattr(second.facts, name, "")
        if a != b:
            yield f"other {name} that ran: {a} and {b}"
    sticks = [min((min(block.yardstick_ms) for block in row.blocks if block.yardstick_ms), default=0.0) for row in (first, second)]
    if all(sticks) and not 1 / _YARDSTICK < sticks[1] / sticks[0] < _YARDSTICK:
        yield f"other clocks: a fixed piece of arithmetic took {sticks[0]:.3f} and {sticks[1]:.3f} ms at best"


def _notes(first: Measurement, second: Measurement) -> Iterator[str]:
    a, b = getattr(first.facts, "version", ""), getattr(second.facts, "version", "")
    if a != b:
        yield f"{first.case.backend} {a} and {b}"


def _comparable(value: Any) -> Any:
    """A machine's fact in the form that JSON gives it back, without what changes by itself."""
    if isinstance(value, (list, tuple)):
        return [_comparable(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _comparable(part) for key, part in value.items()}
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
