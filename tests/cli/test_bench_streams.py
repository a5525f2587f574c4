"""The table of a stream's modes: a row a runtime and mode, a reason in place of a rate, and wrong usage in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jetlens.backends.base import RunFacts
from jetlens.bench.files import read_run
from jetlens.bench.modes import orange_video
from jetlens.bench.records import Block, Case, Measurement, Run
from jetlens.cli import main
from jetlens.cli.bench_streams import show_streams

pytest.importorskip("onnxruntime")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def made(live: bool = False, **gpu: Any) -> Run:
    """A board on which ONNX Runtime and DeepStream run and threads find no memory; the figures are made up."""
    cpu, trt = "CPUExecutionProvider", "nvinfer (TensorRT)"
    single = Measurement(
        Case("seg", "onnxruntime", "fp32", mode="single"),
        RunFacts("onnxruntime", "1", cpu, "a processor", "fp32"),
        blocks=tuple(Block(float(turn), 5.0, 50, tuple(range(80, 130)), busy_s={"infer": 4.0}) for turn in range(3)),
        planned=3,
    )
    threads = Measurement(Case("seg", "onnxruntime", "fp32", mode="threads"), failed="memory is short: frames may take 90 MiB", planned=3)
    deepstream = Measurement(
        Case("seg", "deepstream", "fp16", mode="deepstream"),
        RunFacts("deepstream", "6.0.1", trt, "a board", "fp16"),
        blocks=(Block(0.0, 4.0, 92, ()),),
        planned=1,
    )
    stream = {
        "name": "line.mp4", "live": live, "size_hw": (512, 512), "fps": 30.0, "frames": None if live else 50, "sha256": "", "task": "segmentation",
        "network_hw": (224, 224), "gpu": gpu,
    }  # fmt: skip
    return Run("now", (single, threads, deepstream), "done", scenario="live" if live else "video", scope="full", stream=stream)


def printed(run: Run, width: int = 170) -> str:
    console = Console(width=width, file=io.StringIO())
    show_streams(run, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_the_columns_of_source_004_and_reasons_where_nothing_ran() -> None:
    text = printed(made(cores=128, name="a board", highest_mhz=921.0, fp32=0.2358, fp16=0.4716))
    single, threads, deepstream = (line for line in text.splitlines() if line.startswith("segmentation"))
    for word in ("512x512", "224x224", "ONNX Runtime CPU", "n/a", "fp32", "single frame", "10.0", "infer 80%"):
        assert word in single
    assert "cannot run (1)" in threads
    assert "(1) memory is short: frames may take 90 MiB" in text
    for word in ("DeepStream", "0.4716", "fp16", "23.0"):
        assert word in deepstream
    assert "128 cores of a board at 921 MHz" in text


def test_without_a_gpu_that_tells_there_is_no_figure_and_no_zero() -> None:
    text = printed(made())
    assert "on paper" not in text
    assert not any(line.split().count("0") for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 100, 200])
def test_at_any_width_runtime_mode_and_rate_stay(width: int) -> None:
    text = printed(made(live=True), width)
    assert "…" not in text
    for word in ("23.0", "10.0", "single", "precision"):
        assert word in text
    assert "the camera gives 30 frames a second" in text


def test_a_video_is_measured_and_its_record_is_refused_by_what_takes_calls(tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "modes.json"
    with orange_video(tmp_path, frames=8, size_hw=(96, 128)) as video:
        words = ["--video", str(video), "--backends", "onnxruntime", "--blocks", "1", "--threads", "1", "--json", "--output", str(output)]
        code, out, err = call(capsys, "bench", "orange-grade", "--scenario", "video", *words, "--target-fps", "0.1")
    assert (code, err) == (0, "")
    single, threads, deepstream, verdict = (json.loads(line) for line in out.splitlines())
    assert [row["mode"] for row in (single, threads, deepstream)] == ["single", "threads", "deepstream"]
    assert single["frames"] == threads["frames"] == 8
    assert single["fps"] > 0
    assert "DeepStream is not installed" in deepstream["cannot_run"]
    assert verdict["verdict"]
    assert read_run(output, streams=True).complete
    for words in (["compare", str(output), str(output)], ["report", str(output), "--output", str(tmp_path / "r.md")]):
        code, _, err = call(capsys, *words)
        assert code == 1
        assert "holds whole streams (--scenario video)" in err


def test_a_target_that_no_mode_reaches_is_exit_code_3(tmp_path: Path, capsys: Any) -> None:
    with orange_video(tmp_path, frames=4, size_hw=(96, 128)) as video:
        words = ["--video", str(video), "--backends", "onnxruntime", "--modes", "single", "--blocks", "1", "--target-fps", "100000"]
        code, out, err = call(capsys, "bench", "orange-grade", "--scenario", "video", *words)
    assert code == 3
    assert "100000 fps: NO, onnxruntime fp32 single gives" in out
    assert "the target of 100000 fps is missed" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--scenario", "video", "--camera", "0"], 2, "--camera goes with --scenario live, not with video"),
        (["--scenario", "live", "--video", "x.mp4"], 2, "--video goes with --scenario video, not with live"),
        (["--camera", "0"], 2, "--camera goes with --scenario live, not with single"),
        (["--scenario", "camera@30", "--camera", "0"], 2, "--camera goes with --scenario live"),
        (["--modes", "single"], 2, "--modes goes with --scenario video or live"),
        (["--scenario", "video", "--modes", "fast"], 2, "--modes 'fast'"),
        (["--scenario", "video", "--batch", "2"], 2, "--batch goes with single calls"),
        (["--scenario", "live", "--choose"], 2, "--choose goes with single calls"),
        (["--scenario", "video", "--scope", "network"], 2, "--scope goes with single calls"),
        (["--scenario", "video", "--video", "absent.mp4"], 1, "absent.mp4: no such file"),
        (["--scenario", "video", "--video", "test://orange-line?live=1&size=64x64"], 1, "is a camera: --scenario live --camera takes it"),
        (["--scenario", "camera", "--camera", "77"], 1, "/dev/video77"),
    ],
)
def test_wrong_usage_of_streams_is_one_line(words: list[str], code: int, message: str, capsys: Any) -> None:
    found, _, err = call(capsys, "bench", "orange-grade", *words)
    assert found == code
    assert message in err
    assert err.count("\n") == 1


def test_a_password_in_a_cameras_address_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from jetlens.bench.modes import Stream
    from jetlens.cli import bench_streams

    secret = "rtsp://admin:hunter2@127.0.0.1:1/x"
    monkeypatch.setattr(bench_streams, "find_stream", lambda uri, **_: Stream(uri, "rtsp://127.0.0.1:1/x", True, (8, 8), 30.0))
    monkeypatch.setattr("sys.argv", ["jetlens", "bench", "orange-grade", f"--camera={secret}", secret])
    words = [
        "--scenario",
        "live",
        "--camera",
        secret,
        "--backends",
        "tensorrt",
        "--modes",
        "deepstream",
        "--output",
        str(tmp_path / "r.json"),
    ]
    code, out, err = call(capsys, "bench", "orange-grade", *words)
    assert code == 1
    assert "hunter2" not in out + err + (tmp_path / "r.json").read_text()
