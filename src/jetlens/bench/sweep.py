"""Limits: larger and larger batches or inputs, until one does not fit; what runs out of memory is a row and no end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jetlens.bench.records import Case, Measurement, Run
from jetlens.bench.runner import Plan, measure
from jetlens.device import machine
from jetlens.errors import BackendError, UsageError
from jetlens.spec import ModelSpec, TensorSpec

__all__ = ["Sweep", "sweep"]

_BLOCKS = 3
_BLOCK_S = 0.3
_MOST_BATCH = 1024
_MOST_SIDE = 8192
_SHARE = 0.9  # of the memory that is free


@dataclass(frozen=True, slots=True)
class Sweep:
    """The rows of all steps in one run, and the largest step that ran, in words; empty where none did."""

    run: Run
    largest: str


def sweep(plan: Plan, over: Literal["batch", "size"], spec: ModelSpec, tensor: TensorSpec, said: Callable[[str], None]) -> Sweep:
    """Runs the plan's first case with twice the batch, or twice the pixels, again and again.

    Args:
        tensor: the graph's input as it is in the file.

    Raises:
        UsageError: the graph's batch axis, or its height and width, are fixed.
    """
    if over == "batch" and isinstance(tensor.shape[0], int):
        raise UsageError(f"--sweep batch: the graph's batch axis is fixed at {tensor.shape[0]}; export it with a free one")
    if over == "size" and all(isinstance(axis, int) for axis in tensor.shape[1:]):
        raise UsageError(f"--sweep size: the graph's input is fixed at {list(tensor.shape)}; export it with free height and width")
    base = plan.cases[0]
    rows: list[Measurement] = []
    last: Run | None = None
    for case in _steps(base, over, spec):
        short = replace(
            plan, cases=(case,), paths={case: plan.paths[base]}, checks=None, blocks=_BLOCKS, block_s=_BLOCK_S, scenario="offline"
        )
        shortage = _shortage(rows)
        if shortage:
            rows.append(Measurement(case, failed=shortage))
            break
        last = measure(short)
        rows += last.measurements
        said(f"{_words(case)}: {last.measurements[0].failed or 'fits'}")
        if last.measurements[0].failed:
            break
    if last is None:
        raise BackendError("the sweep could not begin; see the first row")
    fitting = [row.case for row in rows if not row.failed]
    return Sweep(replace(last, measurements=tuple(rows)), _words(fitting[-1]) if fitting else "")


def _steps(base: Case, over: str, spec: ModelSpec) -> Sequence[Case]:
    if over == "batch":
        return [replace(base, batch=2**power) for power in range(_MOST_BATCH.bit_length())]
    height, width = spec.preprocess.size_hw
    # Every second step doubles both sides; sides stay multiples of 32, as strides need them.
    sizes = [(_rounded(height * 2 ** (step / 2)), _rounded(width * 2 ** (step / 2))) for step in range(40)]
    return [replace(base, size_hw=size) for size in sizes if max(size) <= _MOST_SIDE]


def _shortage(rows: Sequence[Measurement]) -> str:
    """Why the next step would not fit, by what the last two took: a kernel that runs out of memory may end any process."""
    peaks = [row.memory.peak for row in rows[-2:] if row.memory.peak is not None]
    free = machine().memory_available_mib
    if len(peaks) < 2 or free is None:
        return ""
    # Twice as much work takes what the last step took more than the one before, twice.
    needed = peaks[1] + 2 * max(0.0, peaks[1] - peaks[0])
    if needed <= _SHARE * free:
        return ""
    return f"not tried: it would take about {needed:.0f} MiB of memory, and {free} MiB are free"


def _words(case: Case) -> str:
    return f"batch {case.batch}" if case.size_hw is None else f"{case.size_hw[0]}x{case.size_hw[1]} pixels"


def _rounded(side: float) -> int:
    return max(32, round(side / 32) * 32)
