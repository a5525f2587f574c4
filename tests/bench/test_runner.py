from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from jetlens.bench.checks import Checks, Labelled
from jetlens.bench.inputs import Pictures, find_pictures
from jetlens.bench.process import WorkerProcess
from jetlens.bench.records import Case, Run
from jetlens.bench.runner import InProcess, Plan, measure
from jetlens.errors import BackendError, ModelError
from jetlens.predictor import model_path
from jetlens.spec import read_model

ONE, TWO = Case("m", "onnxruntime", "fp32"), Case("m", "openvino", "fp32")
PICTURES = Pictures(("a", "b"), (b"a", b"b"))
SPEC = read_model(model_path("orange-grade"))[1]


class Scripted:
    """A worker that answers at once, and fails where the script says so."""

    log: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, fail: Callable[[str, str, int], Exception | None] = lambda name, do, count: None, outputs: Any = None) -> None:
        self._fail = fail
        self._outputs = outputs or {"logits": np.eye(2, 4, dtype=np.float32)}
        self._counts: dict[str, int] = {}
        self._name = ""
        self.closed = False

    def ask(self, do: str, **arguments: Any) -> Any:
        if do == "open":
            self._name = arguments["case"]["backend"]
        Scripted.log.append((self._name, do))
        self._counts[do] = self._counts.get(do, 0) + 1
        error = self._fail(self._name, do, self._counts[do])
        if error is not None:
            raise error
        answer = getattr(self, f"_{do}")
        return answer(**arguments)

    def close(self) -> None:
        self.closed = True

    def _open(self, **_: Any) -> dict[str, Any]:
        facts = {"backend": self._name, "version": "1", "provider": "CPU", "device": "x", "precision": "fp32", "notes": []}
        return {"facts": facts, "model_sha256": "m", "load_ms": 1.0, "first_ms": 2.0, "engine": {}}

    def _warm_up(self, scenario: str) -> dict[str, Any]:
        return {"calls_ms": [1.0], "windows_ms": [1.0, 1.0, 1.0], "settled": True}

    def _memory(self) -> dict[str, Any]:
        return {"before": 1.0, "peak": 2.0, "device": None, "model": 0.1, "engine": None}

    def _outputs_of(self) -> dict[str, Any]:
        return self._outputs.get(self._name, self._outputs)

    def _score(self, **_: Any) -> list[Any]:
        return [{"top1": 0.9, "pictures": 100}, {"top1": [0.8, 0.95]}]

    def _drawings(self, count: int) -> list[Any]:
        return [[], []]

    def _block(self, **_: Any) -> dict[str, Any]:
        return {
            "started_s": 0.0, "wall_s": 0.01, "items": 2, "calls_ms": [5.0, 5.0], "stages_ms": {"compute": [5.0, 5.0]},
            "device_ms": {}, "dropped": 0, "yardstick_ms": [0.2],
        }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _write_outputs(self: Scripted, file: str, taps: bool, gain: float) -> str:
    with open(file, "wb") as stream:
        np.savez(stream, **{name: array * gain for name, array in Scripted._outputs_of(self).items()})
    return "hash"


def plan(**changed: Any) -> Plan:
    fields: dict[str, Any] = {"cases": (ONE, TWO), "paths": {ONE: Path("m"), TWO: Path("m")}, "pictures": PICTURES, "blocks": 4}
    return Plan(**{**fields, "worker": Scripted, **changed})


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.log = []
    real = Scripted.ask

    def ask(self: Scripted, do: str, **arguments: Any) -> Any:
        if do == "outputs":
            return _write_outputs(self, **arguments)
        return real(self, do, **arguments)

    monkeypatch.setattr(Scripted, "ask", ask)


def test_cases_take_turns_and_none_always_goes_first() -> None:
    measure(plan())
    blocks = [name for name, do in Scripted.log if do == "block"]
    assert blocks == ["onnxruntime", "openvino", "openvino", "onnxruntime"] * 2


def test_the_record_is_saved_after_every_turn_and_is_incomplete_until_the_end() -> None:
    saved: list[Run] = []
    run = measure(plan(), save=saved.append)
    assert [made.counts for made in saved] == [(2, 8), (4, 8), (6, 8), (8, 8), (8, 8)]
    assert [made.complete for made in saved] == [False] * 4 + [True]
    assert run.complete


@pytest.mark.parametrize("step", ["open", "warm_up", "block"])
def test_a_case_that_dies_is_a_row_that_says_so_and_the_others_go_on(step: str) -> None:
    def fail(name: str, do: str, count: int) -> Exception | None:
        return BackendError("its process died: SIGKILL") if (name, do) == ("openvino", step) and count == 1 else None

    run = measure(plan(worker=lambda: Scripted(fail)))
    first, second = run.measurements
    assert first.complete
    assert "SIGKILL" in second.failed
    assert run.complete


def test_a_precision_that_cannot_be_made_is_a_row() -> None:
    run = measure(plan(paths={ONE: Path("m"), TWO: ModelError("no int8 graph")}))
    assert run.measurements[1].failed == "no int8 graph"
    assert run.measurements[0].complete


def test_an_interrupted_run_is_saved_as_such() -> None:
    saved: list[Run] = []

    def fail(name: str, do: str, count: int) -> Exception | None:
        if do == "block" and count == 3:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        measure(plan(worker=lambda: Scripted(fail)), save=saved.append)
    assert saved[-1].ended == "interrupted"
    assert not saved[-1].complete
    assert saved[-1].counts == (4, 8)


def checks(**changed: Any) -> Checks:
    return Checks(SPEC, PICTURES.names, ONE, **changed)


def test_a_row_whose_outputs_are_wrong_is_refused_and_not_timed() -> None:
    right = {"logits": np.array([[9.0, 1, 2, 3], [1, 2, 9, 0]], np.float32)}
    outputs = {"onnxruntime": right, "openvino": {"logits": right["logits"][:, ::-1]}}
    run = measure(plan(worker=lambda: Scripted(outputs=outputs), checks=checks()))
    good, wrong = run.measurements
    assert good.complete
    assert not good.refused
    assert wrong.refused.startswith("numeric gate: output 'logits' is off by")
    assert wrong.blocks == ()
    assert ("openvino", "block") not in Scripted.log


def test_a_row_that_loses_accuracy_is_refused() -> None:
    class Worse(Scripted):
        def _score(self, **_: Any) -> list[Any]:
            return [{"top1": 0.9 if self._name == "onnxruntime" else 0.6, "pictures": 100}, {}]

    run = measure(plan(worker=Worse, checks=checks(labelled=Labelled("orange-line", 4))))
    assert [bool(row.refused) for row in run.measurements] == [False, True]
    assert "top1 0.6000 on 100 pictures is 0.3000 below the reference's 0.9000" in run.measurements[1].refused


def test_accuracy_below_the_sidecars_refuses_every_row() -> None:
    """A preprocessing that is wrong for all runtimes agrees with itself everywhere; only labels show it."""
    run = measure(plan(checks=checks(labelled=Labelled("orange-line", 4), recorded={"top1": 1.0}), worker=lambda: Broken()))
    assert all("below the sidecar's 1.0000" in row.refused for row in run.measurements)


class Broken(Scripted):
    def _score(self, **_: Any) -> list[Any]:
        return [{"top1": 0.4, "pictures": 100}, {}]


def test_one_picture_that_flips_is_no_loss() -> None:
    class Flipped(Scripted):
        def _score(self, **_: Any) -> list[Any]:
            return [{"top1": 0.95 if self._name == "onnxruntime" else 0.90, "pictures": 20}, {}]

    run = measure(plan(worker=Flipped, checks=checks(labelled=Labelled("orange-line", 4))))
    assert not run.measurements[1].refused


def test_a_real_model_in_this_process() -> None:
    pytest.importorskip("onnxruntime")
    path = model_path("orange-grade")
    case = Case("orange-grade", "onnxruntime", "fp32")
    pictures = find_pictures(SPEC, None, None, 4)
    run = measure(
        Plan((case,), {case: path}, pictures, blocks=2, block_s=0.01, checks=Checks(SPEC, pictures.names, case), worker=InProcess)
    )
    row = run.measurements[0]
    assert row.complete
    assert len(row.blocks[0].calls_ms) >= 3
    assert row.deviation["max_abs"] == 0
    assert len(row.overlays) == len(row.differences) == 3
    assert row.memory.peak is None  # of this process, and not of the case alone


def test_a_process_of_its_own_reports_its_memory_and_its_death() -> None:
    pytest.importorskip("onnxruntime")
    case = Case("orange-grade", "onnxruntime", "fp32")
    pictures = find_pictures(SPEC, None, None, 2)
    workers: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        workers.append(WorkerProcess())
        return workers[-1]

    def kill_at_the_second_turn(run: Run) -> None:
        if run.counts[0] == 2:
            os.kill(workers[0].pid, signal.SIGKILL)

    run = measure(
        Plan((case,), {case: model_path("orange-grade")}, pictures, blocks=5, block_s=0.01, worker=start), save=kill_at_the_second_turn
    )
    row = run.measurements[0]
    assert "its process died during block: SIGKILL (out of memory, or ended by hand)" in row.failed
    assert len(row.blocks) == 2
    assert row.memory.peak is not None
    assert row.memory.before is not None
    assert 20 < row.memory.before < row.memory.peak


def test_what_a_library_prints_is_no_answer_and_an_unknown_request_is_refused() -> None:
    worker = WorkerProcess()
    try:
        with pytest.raises(BackendError, match="worker knows open"):
            worker.ask("close")
        with pytest.raises(BackendError, match="before a model was opened"):
            worker.ask("warm_up", scenario="single")
    finally:
        worker.close()


def test_an_answer_that_never_comes_ends_the_process() -> None:
    worker = WorkerProcess(timeout_s=0.0)
    try:
        with pytest.raises(BackendError, match="no answer to warm_up within 0 s"):
            worker.ask("warm_up", scenario="single")
    finally:
        worker.close()
