from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.bench.files import read_run
from jetlens.choice import read_choice
from jetlens.cli import main
from jetlens.predictor import model_path
from jetlens.spec import read_model, write_sidecar

pytest.importorskip("onnxruntime")

QUICK = ["--blocks", "2", "--block-seconds", "0.02", "--count", "4", "--threads", "1"]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a shipped model that tests may spoil."""
    source = model_path("orange-grade")
    path = tmp_path / "grade.onnx"
    path.write_bytes(source.read_bytes())
    write_sidecar(path, read_model(source)[1])
    return path


def test_a_row_carries_speed_and_proof_and_the_file_compares_with_itself(model: Path, tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "run.json"
    words = ["bench", str(model), "--backends", "onnxruntime", "--pictures", "2", "--output", str(output), *QUICK]
    code, out, err = call(capsys, *words, "--json", "--target-fps", "0.1", "--choose")
    assert (code, err) == (0, "")
    row, verdict, choice = (json.loads(line) for line in out.splitlines())
    assert row["complete"]
    assert row["accuracy"]["pictures"] >= 2
    assert row["deviation"]["max_abs"] == 0
    assert row["mean_power_w"] is None or row["mean_power_w"] > 0
    assert row["stage_sum_error"] < 0.05
    assert verdict["verdict"]
    assert Path(choice["file"]) == model.with_name("grade.choice.json")
    chosen = read_choice(model)
    assert chosen is not None
    assert (chosen.backend, chosen.precision) == ("onnxruntime", "fp32")
    run = read_run(output)
    assert run.complete
    assert run.command[:2] == ("jetlens", "bench") or run.command[0] == "jetlens"
    # A run does not differ from itself, whatever the noise in it.
    code, out, _ = call(capsys, "compare", str(output), str(output), "--json", "--force")
    assert code == 0
    assert json.loads(out)["change"] == "no change"


def test_a_target_that_is_missed_is_exit_code_3(model: Path, capsys: Any) -> None:
    code, out, err = call(capsys, "bench", str(model), "--backends", "onnxruntime", "--pictures", "0", "--target-fps", "100000", *QUICK)
    assert code == 3
    assert "the target of 100000 fps is missed" in err
    assert "100000 fps: NO, onnxruntime fp32" in out
    assert "most time in" in out


def test_a_wrong_preprocessing_is_refused_by_its_accuracy(model: Path, capsys: Any) -> None:
    """Channels swapped in the graph: all runtimes agree, and only the labels show it."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(model))
    for row in graph.graph.initializer:
        if row.name == "jetlens.inverse_std":
            row.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(row) * np.float32(0.05), row.name))
    model.write_bytes(graph.SerializeToString())
    spec = read_model(model_path("orange-grade"))[1]
    write_sidecar(model, spec)
    code, out, err = call(capsys, "bench", str(model), "--backends", "onnxruntime", "--data", "orange-line", "--pictures", "10", *QUICK)
    assert code == 3
    assert "REFUSED" in out
    assert "below the sidecar's" in err


def test_an_int8_file_of_another_preprocessing_is_refused(model: Path, capsys: Any) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(model))
    mean = next(row for row in graph.graph.initializer if row.name == "jetlens.mean")
    mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) * np.float32(0), mean.name))
    wrong = model.with_name("other.onnx")
    wrong.write_bytes(graph.SerializeToString())
    write_sidecar(wrong, read_model(model)[1])

    from jetlens.bench.checks import Checks
    from jetlens.bench.inputs import find_pictures
    from jetlens.bench.records import Case
    from jetlens.bench.runner import InProcess, Plan, measure

    right, spoiled = Case("m", "onnxruntime", "fp32"), Case("m", "onnxruntime", None)
    spec = read_model(model)[1]
    pictures = find_pictures(spec, None, None, 4)
    plan = Plan((right, spoiled), {right: model, spoiled: wrong}, pictures, blocks=1, block_s=0.01, worker=InProcess)
    import dataclasses

    run = measure(dataclasses.replace(plan, checks=Checks(spec, pictures.names, right)))
    assert not run.measurements[0].refused
    assert run.measurements[1].refused.startswith("numeric gate")


DETECT = ["bench", "orange-detect", "--backends", "onnxruntime", *QUICK]


@pytest.fixture
def no_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))  # where a choice for a shipped model would go
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)


def test_without_the_package_of_a_score_times_and_agreement_are_kept(no_map: None, tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "run.json"
    code, out, err = call(capsys, *DETECT, "--output", str(output))
    assert code == 0
    assert "accuracy not measured: mAP needs faster_coco_eval" in err.splitlines()[0]
    assert "pip install 'jetlens[map]'" in out
    assert "numeric passed" in out
    assert "not measured" in out
    assert read_run(output).measurements[0].blocks
    code, out, _ = call(capsys, *DETECT, "--json")
    row = json.loads(out)
    assert code == 0
    assert (row["doubt"], row["accuracy"], row["deviation"]["matched_boxes"]) == ("accuracy not measured", {}, 1.0)
    assert "jetlens[map]" in row["unscored"]


@pytest.mark.parametrize("asked", [["--choose"], ["--data", "orange-line"]])
def test_what_needs_the_score_is_refused_before_anything_is_loaded(asked: list[str], no_map: None, capsys: Any) -> None:
    code, out, err = call(capsys, *DETECT, *asked)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "pip install 'jetlens[map]'" in err
    assert "--pictures 0" in err


def test_without_package_and_reference_nothing_could_be_checked(no_map: None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("jetlens.cli.bench.reference_case", lambda model, path: None)
    code, out, err = call(capsys, *DETECT)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--pictures 0" in err
    code, out, err = call(capsys, *DETECT, "--pictures", "0", "--choose")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--choose" in err
    code, out, _ = call(capsys, *DETECT, "--pictures", "0")
    assert code == 0
    assert "answers not checked" in out


def test_labelled_pictures_that_cannot_be_read_are_named_at_once(tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    code, out, err = call(capsys, *DETECT, "--images", str(tmp_path), "--data", str(tmp_path / "absent"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "absent" in err


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_a_report_of_nothing_but_failures_is_one_line_and_no_page(suffix: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("jinja2")
    record, page = tmp_path / "run.json", tmp_path / f"page.{suffix}"
    asked = ["--backends", "onnxruntime", "--precisions", "bf16", "--pictures", "0", "--output", str(record)]
    code, _, err = call(capsys, "bench", "orange-grade", *asked, *QUICK)
    assert code == 1
    assert "next: jetlens report" not in err
    code, out, err = call(capsys, "report", str(record), "--output", str(page))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "run.json" in err
    assert "every row failed" in err
    assert "precision bf16 was asked for" in err
    assert not page.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scenario", "fast"], "--scenario 'fast'; allowed: single"),
        (["--scenario", "camera@x"], "give frames a second"),
        (["--scenario", "single@30"], "allowed: single"),
        (["--batch", "0"], "--batch '0'"),
        (["--lanes", "2"], "--lanes goes with"),
        (["--scenario", "camera@30", "--batch", "2"], "takes one picture a call"),
        (["--scope", "all"], "--scope 'all'"),
        (["--backends", "onnxruntimee"], "unknown backend"),
        (["--precisions", "fp8"], "--precision is 'fp8'"),
        (["--devices", "tpu"], "--device is 'tpu'"),
        (["--target-p99", "10"], "--target-p99 goes with --target-fps"),
        (["--sweep", "width"], "--sweep 'width'"),
        (["--sweep", "batch", "--choose"], "--sweep finds what fits"),
        (["--target-fps", "nan"], "--target-fps nan: give a number above 0"),
        (["--target-fps", "30", "--target-p99", "-1"], "--target-p99 -1"),
        (["--backends", ","], "--backends ','"),
        (["--precisions", ""], "--precisions ''"),
        (["--output", "/"], "--output / is a folder"),
    ],
)
def test_wrong_usage_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    code, _, err = call(capsys, "bench", "orange-grade", *words, *QUICK)
    assert code == 2
    assert message in err
    assert err.count("\n") <= 2


def test_what_cannot_run_is_exit_code_1(capsys: Any) -> None:
    code, out, err = call(capsys, "bench", "orange-grade", "--backends", "onnxruntime", "--precisions", "bf16", "--pictures", "0", *QUICK)
    assert code == 1
    assert "FAILED" in out
    assert "precision bf16 was asked for" in err


def test_pictures_may_come_from_a_folder(tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (80, 60), (200, 120, 10 * number)).save(tmp_path / f"{number}.png")
    words = ["--images", str(tmp_path), "--backends", "onnxruntime", "--pictures", "0", "--scenario", "offline", "--batch", "2", "--json"]
    code, out, _ = call(capsys, "bench", "orange-grade", *words, *QUICK)
    assert code == 0
    assert json.loads(out)["images_per_s"] > 0


def test_compare_refuses_what_is_no_run(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.json").write_text("{}")
    code, _, err = call(capsys, "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"))
    assert code == 1
    assert "no run of jetlens bench" in err


def _interrupted(folder: Path, number: int, kind: signal.Signals, rng: random.Random) -> str:
    """Ends a bench at a random moment after its first turn; says what its file claims, empty where there is none."""
    output = folder / f"{number}.json"
    words = ["bench", "orange-grade", "--backends", "onnxruntime", "--pictures", "0", "--count", "2", "--threads", "1"]
    command = [sys.executable, "-m", "jetlens", *words, "--blocks", "500", "--block-seconds", "0.02", "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not output.exists() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.3))
    os.kill(process.pid, kind)
    process.wait(30)
    if not output.exists():
        return ""
    run = read_run(output)
    done, planned = run.counts
    return "complete" if run.complete else f"{run.ended or 'killed'} {done}/{planned}"


def test_a_run_that_was_ended_never_looks_complete(tmp_path: Path) -> None:
    rng = random.Random(5)
    assert _interrupted(tmp_path, 0, signal.SIGINT, rng).startswith("interrupted ")
    assert _interrupted(tmp_path, 1, signal.SIGKILL, rng).startswith("killed ")


@pytest.mark.release
def test_twenty_runs_that_were_ended(tmp_path: Path, record_property: Any) -> None:
    """C8."""
    rng = random.Random(6)
    kinds = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL] * 5
    found = [_interrupted(tmp_path, number, kind, rng) for number, kind in enumerate(kinds)]
    marked = sum(bool(words) and words != "complete" and "/500" in words for words in found)
    record_property("marked incomplete with counts", f"{marked}/{len(found)}")
    assert marked == len(found) == 20, found
