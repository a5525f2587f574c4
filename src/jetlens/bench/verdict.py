"""Real time or not: one line with its evidence and the stage that limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jetlens.bench.figures import calls_ms, doubt, drop_rate, images_per_s, scope_medians
from jetlens.bench.records import Measurement, Run
from jetlens.errors import UsageError

__all__ = ["Verdict", "row_verdict", "verdict"]

_FEWEST_CALLS = 100  # of which the 99th percentile is one


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes or no, and the line that says why."""

    passed: bool
    line: str
    p99_ms: float = float("inf")


def verdict(run: Run, fps: float, p99_ms: float | None = None) -> Verdict:
    """The best row's verdict: the one that passes with the lowest p99, else the one that comes nearest.

    Args:
        p99_ms: the latency that 99 of 100 calls must keep; the time between two frames if not given.

    Raises:
        UsageError: a target is not above 0.
    """
    if not fps > 0 or (p99_ms is not None and not p99_ms > 0):
        raise UsageError("--target-fps and --target-p99 must be above 0")
    shown = [row_verdict(run, row, fps, p99_ms) for row in run.measurements if not row.refused and row.blocks]
    if not shown:
        return Verdict(False, f"{fps:g} fps: NO, nothing ran that may be shown")
    return min(shown, key=lambda found: (not found.passed, found.p99_ms))


def row_verdict(run: Run, row: Measurement, fps: float, p99_ms: float | None = None) -> Verdict:
    """Whether one row keeps up."""
    allowed = 1000 / fps if p99_ms is None else p99_ms
    times = calls_ms(row, run.scope, run.scenario)
    enough = len(times) >= _FEWEST_CALLS
    p99 = float(np.percentile(times, 99) if enough else times.max())
    rate = images_per_s(row, run.scope, run.scenario) or 0.0
    dropped = drop_rate(row)
    # A camera gives no more than its rate, so that there drops decide and not the rate.
    keeps_up = dropped == 0 if run.scenario == "camera" else rate >= fps
    passed = p99 <= allowed and keeps_up and row.complete
    stages = scope_medians(run, row)
    limit, time = max(stages.items(), key=lambda pair: pair[1], default=("compute", 0.0))
    name = "p99" if enough else f"slowest of {len(times)}:"
    parts = [
        f"{fps:g} fps: {'YES' if passed else 'NO'}, {row.case.title}",
        f"{name} {p99:.2f} ms (allowed {allowed:.2f})",
        f"{rate:.1f} images/s",
        f"dropped {dropped:.1%}" if run.scenario == "camera" else "",
        f"most time in {limit}: {time:.2f} of {sum(stages.values()):.2f} ms",
        doubt(run, row),
        "" if row.complete else f"incomplete: {len(row.blocks)} of {row.planned} blocks",
    ]
    return Verdict(passed, ", ".join(part for part in parts if part), p99)
