"""The best row of a run: the one to run the model with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jetlens.bench.figures import calls_ms, doubt, images_per_s
from jetlens.bench.records import Case, Measurement, Run
from jetlens.bench.verdict import row_verdict
from jetlens.choice import Choice, machine_name
from jetlens.errors import GateError, JetlensError

__all__ = ["choose"]


def choose(
    run: Run, path: Path, files: Mapping[Case, Path | JetlensError], *, fps: float | None = None, p99_ms: float | None = None
) -> Choice:
    """With a target the row that keeps it with the most images a second, without one the row with the lowest median latency.

    Args:
        path: the model's file.
        files: what each case ran, which for fp16 and int8 is a file of its own.

    Raises:
        GateError: no row may be shown, none was checked, or none keeps the target.
    """
    rows = [row for row in run.measurements if not row.refused and row.complete and row.blocks]
    doubts = [doubt(run, row) for row in rows]
    if rows and all(doubts):
        raise GateError(f"nothing to choose: {doubts[0]}{f': {run.unscored}' if run.unscored else ''}")
    rows = [row for row, words in zip(rows, doubts, strict=True) if not words]
    why = {}
    if fps is not None:
        verdicts = {row.case: row_verdict(run, row, fps, p99_ms) for row in rows}
        rows = [row for row in rows if verdicts[row.case].passed]
        why = {row.case: verdicts[row.case].line for row in rows}
    if not rows:
        target = "" if fps is None else f" and keeps {fps:g} fps"
        raise GateError(f"nothing to choose: no row passed its gates{target}; see the table")

    def cost(row: Measurement) -> float:
        if fps is not None:
            return -(images_per_s(row, run.scope, run.scenario) or 0.0)
        return float(np.median(calls_ms(row, run.scope, run.scenario)))

    best = min(rows, key=cost)
    reason = why.get(best.case) or f"{best.case.title}: p50 {cost(best):.2f} ms, the lowest of {len(rows)} rows that passed their gates"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    case = best.case
    file = files.get(case, path)
    return Choice(digest, machine_name(), str(file), case.backend, case.precision, case.device, case.batch, case.lanes, reason, run.created)
