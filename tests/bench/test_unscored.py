"""Where the package of a score is missing: times and agreement are measured, and nothing looks as if accuracy had been."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import block, measurement, run
from rich.console import Console

from jetlens.bench.checks import Checks, Labelled
from jetlens.bench.choose import choose
from jetlens.bench.files import read_run, write_run
from jetlens.bench.inputs import find_pictures
from jetlens.bench.records import Case, Run
from jetlens.bench.runner import InProcess, Plan, measure
from jetlens.bench.verdict import verdict
from jetlens.cli.bench_table import show
from jetlens.errors import GateError
from jetlens.predictor import model_path
from jetlens.report import findings
from jetlens.report.rows import rows
from jetlens.report.view import views
from jetlens.spec import read_model

WHY = "mAP needs faster_coco_eval, which is not installed: pip install 'jetlens[map]'"
ROW = measurement(*(block(*[5.0] * 50) for _ in range(4)))


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)


def printed(made: Run) -> str:
    console = Console(width=200, file=io.StringIO())
    show(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("model", "missing"), [("orange-detect", True), ("orange-grade", False), ("orange-segment", False)])
def test_a_score_that_cannot_be_had_is_found_before_anything_is_loaded(model: str, missing: bool, hidden: None) -> None:
    checks = Checks(read_model(model_path(model))[1], (), None, labelled=Labelled("orange-line", 2))
    assert checks.unscored.startswith(WHY) is missing
    assert (checks.labelled is None) is missing


def test_rows_keep_their_times_and_their_agreement(tmp_path: Path, hidden: None) -> None:
    pytest.importorskip("onnxruntime")
    path = model_path("orange-detect")
    spec = read_model(path)[1]
    one, two = Case("m", "onnxruntime", "fp32"), Case("m", "onnxruntime", "fp32", batch=2)
    pictures = find_pictures(spec, None, None, 2)
    checks = Checks(spec, pictures.names, one, labelled=Labelled("orange-line", 2))
    said: list[str] = []
    plan = Plan((one, two), {one: path, two: path}, pictures, blocks=1, block_s=0.01, threads=1, checks=checks, worker=InProcess)
    made = measure(plan, said=said.append)
    for row in made.measurements:
        assert not row.refused
        assert row.blocks
        assert row.deviation["matched_boxes"] == 1
        assert [gate.name for gate in row.gates] == ["numeric"]
        assert not row.accuracy
    assert made.unscored.startswith(WHY)
    assert not any("no reference" in line for line in said)
    write_run(tmp_path / "r.json", made)
    assert read_run(tmp_path / "r.json").unscored == made.unscored


def test_the_table_says_in_a_word_what_was_not_measured_and_below_why() -> None:
    text = printed(run(replace(ROW, deviation={"matched_boxes": 1.0}), unscored=WHY))
    assert "boxes 100.00%  not measured" in text
    assert f"accuracy not measured: {WHY}" in text
    assert "not measured" not in printed(run(replace(ROW, deviation={"matched_boxes": 1.0}, accuracy={"map50": 0.9, "pictures": 4})))


def test_a_row_that_nothing_was_checked_of_says_so() -> None:
    unchecked = run(replace(ROW, gates=()))
    assert "answers not checked" in printed(unchecked)
    assert "answers not checked" in verdict(unchecked, 30).line
    assert "not checked" not in printed(run(ROW)) + verdict(run(ROW), 30).line


def test_a_verdict_and_a_report_say_what_was_not_measured() -> None:
    made = run(ROW, unscored=WHY)
    assert verdict(made, 30).line.endswith("accuracy not measured")
    shown = views({"r.json": made})["r.json"]
    assert shown.rows[0].rest[0] == "not measured"
    assert shown.headline.startswith("Fastest (accuracy not measured): onnxruntime fp32")
    assert any(WHY in line for line in shown.warnings)
    checked = run(ROW)
    assert findings.headline(checked, rows(checked)).startswith("Fastest of those that passed")


@pytest.mark.parametrize(("made", "why"), [(run(ROW, unscored=WHY), WHY), (run(replace(ROW, gates=())), "answers not checked")])
def test_what_was_not_checked_is_not_chosen(made: Run, why: str, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    with pytest.raises(GateError) as caught:
        choose(made, model, {})
    assert why in str(caught.value)
    assert choose(run(ROW), model, {}).backend == "onnxruntime"


def test_turns_without_a_row_to_time_are_not_told() -> None:
    path = model_path("orange-grade")
    said: list[str] = []
    case = Case("m", "onnxruntime", "fp32")
    plan = Plan((case,), {case: GateError("no int8 graph")}, find_pictures(read_model(path)[1], None, None, 1), blocks=3, worker=InProcess)
    assert measure(plan, said=said.append).measurements[0].failed == "no int8 graph"
    assert not any("turn" in line for line in said)
