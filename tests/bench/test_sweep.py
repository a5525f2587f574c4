from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_runs import block, measurement, run

import jetlens.bench.sweep as module
from jetlens.bench.inputs import Pictures
from jetlens.bench.records import Case, Memory
from jetlens.bench.runner import Plan
from jetlens.bench.sweep import sweep
from jetlens.device import machine
from jetlens.errors import UsageError
from jetlens.predictor import model_path
from jetlens.spec import TensorSpec, read_model

SPEC = read_model(model_path("orange-grade"))[1]
CASE = Case("m", "onnxruntime", "fp32")
PLAN = Plan((CASE,), {CASE: Path("m")}, Pictures(("a",), (b"a",)))
FREE = TensorSpec("images", "uint8", ("N", "H", "W", 3))


def runs_until(limit: int, peak_mib: float = 100.0) -> Any:
    """In place of a measurement: cases up to a batch or height fit, larger ones die."""

    def measure(plan: Plan) -> Any:
        case = plan.cases[0]
        size = case.batch if case.size_hw is None else case.size_hw[0]
        failed = "" if size <= limit else "its process died during warm_up: SIGKILL (out of memory, or ended by hand)"
        return run(measurement(block(1.0), case=case, failed=failed, memory=Memory(peak=peak_mib * size)))

    return measure


def test_the_largest_batch_that_fits_and_what_stopped_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", runs_until(8, peak_mib=1.0))
    said: list[str] = []
    found = sweep(PLAN, "batch", SPEC, FREE, said.append)
    assert found.largest == "batch 8"
    assert [row.case.batch for row in found.run.measurements] == [1, 2, 4, 8, 16]
    assert "SIGKILL" in found.run.measurements[-1].failed
    assert said[0] == "batch 1: fits"


def test_the_largest_input_keeps_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", runs_until(256, peak_mib=0.1))
    found = sweep(PLAN, "size", SPEC, FREE, lambda message: None)
    assert found.largest == "256x256 pixels"
    sizes = [row.case.size_hw for row in found.run.measurements]
    assert all(size is not None and size[0] % 32 == 0 for size in sizes)


def test_a_step_that_would_take_more_memory_than_is_free_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    free = machine().memory_available_mib
    assert free is not None
    monkeypatch.setattr(module, "measure", runs_until(10_000, peak_mib=free / 8))
    found = sweep(PLAN, "batch", SPEC, FREE, lambda message: None)
    assert "not tried: it would take about" in found.run.measurements[-1].failed
    assert len(found.run.measurements) <= 5


def test_nothing_may_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", runs_until(0))
    assert sweep(PLAN, "batch", SPEC, FREE, lambda message: None).largest == ""


@pytest.mark.parametrize(
    ("over", "shape", "message"),
    [("batch", (4, 64, 64, 3), "batch axis is fixed at 4"), ("size", ("N", 64, 64, 3), "input is fixed")],
)
def test_fixed_axes_cannot_be_swept(over: Any, shape: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep(PLAN, over, SPEC, TensorSpec("images", "uint8", shape), lambda message: None)
