"""Laboratory reports: the five sections, the five items of every model, answers from the rows alone, and a page that is safe to open."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="Jinja is not installed: pip install 'jetlens[report]'")

from made_runs import row, run
from test_page import HOSTILE, TAGS, Seen

from jetlens.backends.base import RunFacts
from jetlens.bench.files import write_run
from jetlens.bench.records import Case, Gate, Measurement, Memory
from jetlens.cli import main
from jetlens.report.lab import BuildLog
from jetlens.report.lab_page import lab_html, lab_markdown

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WRONG = Gate("numeric", False, "top-1 agrees on 71 %, 99 % needed")
ABSENT = "tensorrt is not installed: on a Jetson use JetPack's own"
SECTIONS = (
    "At a glance",
    "1. Pointers to the theory",
    "2. The system",
    "3. The results",
    "4. Conclusions",
    "5. Sources",
    "To measure this again",
)
ITEMS = (
    "Prediction",
    "Time and memory without optimisation",
    "Time and memory with TensorRT",
    "Change of the numeric outputs on identical input",
    "Use in real time",
    "Build log",
)
TAGS |= {"h4", "h5"}


def on(provider: str, backend: str, compute_ms: float, **others: object) -> Measurement:
    return row(backend, compute_ms, facts=RunFacts(backend, "1.0", provider, "a GPU", "fp32"), **others)


def markdown(*rows: Measurement, logs: dict[str, BuildLog] | None = None, **others: object) -> str:
    return lab_markdown({"run.json": run(*rows, **others)}, logs or {}, 30)


def answer(text: str, question: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"- {question}"))


def test_sections_and_items_stand_in_their_order() -> None:
    two = {"a.json": run(row("pytorch", 9)), "b.json": run(row("onnxruntime", 4))}
    for text in (lab_html(two, {}, 30), lab_markdown(two, {}, 30)):
        heads = re.findall(r"^#+ (.*)$|<h[2-5]>(.*?)</h[2-5]>", text, re.MULTILINE)
        names = [first or second for first, second in heads]
        assert [name for name in names if name in SECTIONS] == list(SECTIONS)
        assert [name for name in names if name in ITEMS] == [*ITEMS, *ITEMS]


def test_the_system_is_told_in_words_and_units() -> None:
    machine = {"memory_available_mib": 512, "python": "3.11.2", "gpus": ({"name": "A", "memory_mib": 8},), "jetson": None}
    state = {"cpu_mhz": 2596.4, "temperatures_c": {"c": 40}, "load_1m": 0.5, "on_battery": False}
    found = run(row("pytorch", 9), machine=machine, versions={"python": "3.11.2", "numpy": "2"}, state_before=state)
    text = lab_markdown({"a.json": found}, {}, 30)
    told = [line for line in text.partition("## 2.")[2].partition("## 3.")[0].splitlines() if line.startswith("- ")]
    assert told[:5] == [
        "- memory available: 512 MiB",
        "- python: 3.11.2",
        "- GPUs: name A, memory 8 MiB",
        "- numpy: 2",
        "- state before: CPU 2,596 MHz, temperatures c 40 °C, load 0.500 in the last minute, on battery no",
    ]


def test_without_tensorrt_it_is_said_why_and_no_gain_is_claimed() -> None:
    text = markdown(row("pytorch", 9), row("onnxruntime", 4), row("tensorrt", 1, blocks=0, facts=None, failed=ABSENT))
    told = answer(text, "How does TensorRT help?")
    assert ABSENT in told
    assert "says nothing about its gain" in told
    assert "times as fast" not in told
    assert "jetlens build cat --dry-run" in text
    assert "was not measured here" in answer(markdown(row("pytorch", 9)), "How does TensorRT help?")


def test_tensorrt_is_never_compared_with_a_processor() -> None:
    """What the laboratory's authors did: a network on the CPU beside TensorRT on the GPU."""
    processor = markdown(row("pytorch", 98.5), on("TensorRT", "tensorrt", 0.5))
    told = answer(processor, "How does TensorRT help?")
    assert "no other runtime was measured on the GPU" in told
    assert "times as fast" not in told
    same = markdown(
        row("pytorch", 98.5),
        on("torch cuda", "pytorch", 8.5, case=Case("cat", "pytorch", "fp32", "cuda"), memory=Memory(device=400.0)),
        on("TensorRT", "tensorrt", 0.5, engine={"build_s": 61.0}, memory=Memory(device=50.0)),
    )
    told = answer(same, "How does TensorRT help?")
    assert "5.0 times as fast as pytorch fp32 cuda, both on the GPU; GPU memory 50.0 MiB against 400 MiB" in told
    assert "61.0 s of building" in told
    assert "50 times" not in told


def test_a_gain_within_the_noise_is_none() -> None:
    rows = (on("torch cuda", "pytorch", 8.5), on("TensorRT", "tensorrt", 8.4))
    assert "no clear gain" in answer(markdown(*rows), "How does TensorRT help?")


def test_a_refused_row_has_no_time_and_its_failure_is_told() -> None:
    text = markdown(row("pytorch", 9), on("TensorRT", "tensorrt", 0.5, gates=[WRONG]))
    assert "2.00 ms" not in text  # its p50
    assert "top-1 agrees on 71 %" in answer(text, "Do the answers stay the same?")
    assert "top-1 agrees on 71 %" in text.split("Time and memory with TensorRT")[1].split("####")[0]


def test_a_row_without_figures_says_why() -> None:
    assert "waiting fp32 has no figures: it was not called often enough" in markdown(row("pytorch", 9), row("waiting", 2, blocks=0))


def test_answers_follow_the_figures() -> None:
    text = markdown(row("pytorch", 8.5, first_ms=100.0), row("onnxruntime", 3.5, first_ms=5.0))
    assert "pytorch fp32: 100 ms, 10 times its p50" in answer(text, "Why is the first call kept apart?")
    # 3.5 of 5 ms are the network's, so that without it 1.5 would be left.
    assert "3.3 times as fast and no more" in answer(text, "What would a faster network still gain?")
    assert "30 fps: YES" in answer(text, "Can it be used in real time (30 frames a second)?")
    assert "onnxruntime fp32: 100.00% top1 agreement" in answer(text, "Do the answers stay the same?")
    assert "pytorch fp32: 100.00%" not in answer(text, "Do the answers stay the same?")  # the reference agrees with itself


def test_the_prediction_has_its_class_and_its_picture() -> None:
    page = lab_html({"run.json": run(row("pytorch", 9))}, {}, 30)
    assert "tabby (class 1) 0.800" in page
    assert 'alt="one.jpg, by pytorch fp32" src="data:image/png;base64,' in page


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_texts(name: str) -> None:
    prediction = ({"top": [{"class_id": 0, "label": name, "confidence": 0.5}]},)
    measured = run(row(name, 3, predictions=prediction, engine={name: name, "log": name}), images=(name,), command=("jetlens", name))
    logs = {name: BuildLog({name: name}, name)}
    seen = Seen(lab_html({name: measured}, logs, 30))
    seen.check()
    text = lab_markdown({name: measured}, logs, 30)
    obeyed = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)\[x\]|(?<!\\)`|<script|<img|<b>|\x1b", obeyed)


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return int(ended.value.code or 0)


def test_records_and_logs_become_both_kinds_of_page(tmp_path: Path, shared_data: Path) -> None:
    record, log = tmp_path / "run.json", shared_data / "logs" / "trtexec_rtx2080ti_trt8500_fp16_build.txt"
    write_run(record, run(row("a", 3)))
    for name in ("lab.html", "lab.md"):
        assert command(record, "--lab", "--trtexec-log", log, "--output", tmp_path / name) == 0
        text = (tmp_path / name).read_text()
        assert "Engine built in 318.021 sec" in text
        assert "318 s" in text


@pytest.mark.parametrize(("words", "code", "said"), [
    (["model.onnx"], 2, "or add --lab"),
    (["run.json", "--lab", "--images", "x"], 2, "records are measured already"),
    (["run.json", "--lab", "--target-fps", "30", "--target-p99", "3"], 2, "not with --lab"),
    (["run.json", "--lab", "--trtexec-log", "run.json"], 1, "no line of it is one of trtexec's"),
    (["no.onnx", "--lab", "--images", "x"], 1, "no such model file"),
    (["cifar10-basic", "--lab"], 2, "give --images"),
])  # fmt: skip
def test_what_cannot_be_reported(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run.json", run(row("a", 3)))
    assert command(*words) == code
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_models_are_measured_and_reported_by_one_command(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    picture, page = tmp_path / "cat.png", tmp_path / "lab.html"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(picture)
    words = ["--image", picture, "--backends", "onnxruntime,tensorrt", "--blocks", "2", "--output", page]
    assert command("cifar10-basic", "orange-grade", "--lab", *words) == 0
    text = page.read_text()
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["lab-cifar10-basic.json", "lab-orange-grade.json"]
    assert text.count("<h4>Time and memory with TensorRT</h4>") == 2
    assert "onnxruntime fp32" in text
    # Where no row may be shown there is a page all the same.
    assert command("cifar10-basic", "--lab", "--image", picture, "--backends", "tensorrt", "--blocks", "1", "--output", page) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it_wide_and_narrow(tmp_path: Path, width: int) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(lab_html({"run.json": run(row("pytorch", 9), row("onnxruntime", 4))}, {}, 30))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}"]
    look = [f"--window-size={width},2600", f"--screenshot={shot}", page.as_uri()]
    subprocess.run([str(CHROMIUM), *flags, *look], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[1] == width
    assert (pixels[:, -8:] == pixels[0, -1]).all()  # nothing but scrolling tables is wider than the page
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
