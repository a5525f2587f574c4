"""trtexec: the command that equals a build, and its logs of several versions."""

from __future__ import annotations

import shlex
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.engines.options import BuildOptions
from jetlens.engines.trtexec import Summary, arguments, command_line, find_trtexec, read_log, run_trtexec, version_of_trtexec
from jetlens.errors import BackendError
from jetlens.spec import TensorSpec

FREE = (TensorSpec("images", "uint8", ("N", 360, 640, 3)),)
FIXED = (TensorSpec("images", "uint8", (1, 360, 640, 3)),)
MODEL, PLAN = Path("my net.onnx"), Path("my net.plan")


def test_the_command_of_each_version() -> None:
    common = ["--onnx=my net.onnx", "--saveEngine=my net.plan", "--memPoolSize=workspace:1024"]
    end = ["--profilingVerbosity=detailed"]
    for major, flags in ((8, ["--fp16", "--preview=+profileSharing0806"]), (10, ["--stronglyTyped"]), (11, [])):
        assert arguments(MODEL, PLAN, BuildOptions(), inputs=FIXED, precisions=["fp16"], major=major) == [*common, *flags, *end]
    both = arguments(MODEL, PLAN, BuildOptions(), inputs=FIXED, precisions=["int8"], major=8)
    assert both == [*common, "--fp16", "--int8", "--preview=+profileSharing0806", *end]
    assert not any("explicitBatch" in row for row in both)


def test_every_option_has_its_flag() -> None:
    options = BuildOptions((1, 4, 8), 256, optimization_level=2, dla_core=1, version_compatible=True)
    rows = arguments(MODEL, PLAN, options, inputs=FREE, precisions=[], major=10, timing_cache=Path("t/layers.cache"), tactics="conv")
    assert rows == [
        "--onnx=my net.onnx",
        "--saveEngine=my net.plan",
        "--minShapes=images:1x360x640x3",
        "--optShapes=images:4x360x640x3",
        "--maxShapes=images:8x360x640x3",
        "--memPoolSize=workspace:256",
        "--stronglyTyped",
        "--builderOptimizationLevel=2",
        "--timingCacheFile=t/layers.cache",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--versionCompatible",
        "--excludeLeanRuntime",
        "--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN,+EDGE_MASK_CONVOLUTIONS,+JIT_CONVOLUTIONS",
        "--profilingVerbosity=detailed",
    ]
    line = command_line(None, rows)
    assert shlex.split(line) == ["trtexec", *rows]
    assert line.startswith("trtexec '--onnx=my net.onnx'")


def test_real_log_of_a_jetson_nano(shared_data: Path) -> None:
    summary = read_log((shared_data / "logs/trtexec_nano_trt8001_fp16.txt").read_text())
    assert (summary.version, summary.device, summary.passed) == ("8.0.1", "NVIDIA Tegra X1", True)
    assert summary.throughput_per_s == 24.5583
    assert summary.latency_ms == {"min": 40.5005, "max": 40.8591, "mean": 40.6326, "median": 40.6337, "p99": 40.8591}
    assert summary.gpu_compute_ms == {"min": 39.8569, "max": 40.1931, "mean": 40.0027, "median": 39.9982, "p99": 40.1931}
    assert (summary.host_walltime_s, summary.build_s) == (4.07195, None)
    assert summary.upload_ms["median"] == 0.543213
    assert summary.download_ms["max"] == 0.150146


def test_real_log_of_a_build(shared_data: Path) -> None:
    summary = read_log((shared_data / "logs/trtexec_rtx2080ti_trt8500_fp16_build.txt").read_text())
    assert (summary.version, summary.device, summary.passed) == ("8.5.0", "NVIDIA GeForce RTX 2080 Ti", True)
    assert (summary.throughput_per_s, summary.build_s, summary.host_walltime_s) == (135.689, 318.021, 3.02161)
    assert summary.latency_ms["p90"] == 9.88892
    assert summary.latency_ms["p95"] == 9.9043
    assert summary.latency_ms["p99"] == 9.96838
    assert summary.gpu_compute_ms["median"] == 7.32544
    assert summary.enqueue_ms["mean"] == 1.31506


def test_real_log_that_was_cut(shared_data: Path) -> None:
    summary = read_log((shared_data / "logs/trtexec_orin_trt8412_device_info.txt").read_text())
    assert summary == Summary(version="8.4.12", device="Orin")


def test_version_ten_is_read() -> None:
    assert read_log("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b46] # trtexec --help").version == "10.3.0"
    assert read_log("&&&& FAILED TensorRT.trtexec [TensorRT v101301] # trtexec").passed is False


@given(st.text(max_size=300), st.integers(0, 7000), st.integers(0, 7000))
def test_no_text_crashes_the_reader(text: str, start: int, length: int) -> None:
    log = "[I] Throughput: 24.5583 qps\n[04/14/2026-01:43:16] [I] Latency: min = 4.5 ms, max = nan ms, percentile(99%) = 5 ms\n" * 60
    summary = read_log(log[start : start + length] + text + log[:start])
    assert summary.throughput_per_s in (None, 24.5583)


def script(folder: Path, text: str) -> Path:
    """A trtexec that prints a text and does as it is told."""
    path = folder / "trtexec"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_is_found_on_the_path_and_where_jetpack_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_trtexec((str(tmp_path / "trtexec"),)) is None
    path = script(tmp_path, "exit 0")
    assert find_trtexec((str(path),)) == path
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_trtexec(()) == path


def test_a_run_keeps_the_log_and_reads_it(tmp_path: Path, shared_data: Path) -> None:
    real = shared_data / "logs/trtexec_rtx2080ti_trt8500_fp16_build.txt"
    said: list[str] = []
    summary = run_trtexec(script(tmp_path, f"cat {real}"), ["--onnx=a b"], log=tmp_path / "log", timeout_s=20, report=said.append)
    assert summary.throughput_per_s == 135.689
    assert (tmp_path / "log").read_bytes() == real.read_bytes()
    assert said == [f"running {tmp_path}/trtexec '--onnx=a b'"]
    assert version_of_trtexec(script(tmp_path, f"cat {real}")) == "8.5.0"


def test_a_run_that_fails_names_the_cause_and_the_log(tmp_path: Path) -> None:
    cases = {
        "echo '[01/01/2026-00:00:00] [E] Error Code 2: OutOfMemory'; exit 1": "ran out of memory: Error Code 2: OutOfMemory; its log: ",
        "echo '[01/01/2026-00:00:00] [E] Unknown option: --x'; exit 1": r"failed \(status 1\): Unknown option: --x",
        "echo '&&&& FAILED TensorRT.trtexec [TensorRT v100300]'": "failed",
        "kill -SEGV $$": r"failed \(SIGSEGV\)",
    }
    for text, words in cases.items():
        with pytest.raises(BackendError, match=words):
            run_trtexec(script(tmp_path, text), [], log=tmp_path / "log", timeout_s=20, report=print)
    start_s = time.monotonic()
    with pytest.raises(BackendError, match=r"did not end within 0\.5 s"):
        run_trtexec(script(tmp_path, "sleep 60"), [], log=tmp_path / "log", timeout_s=0.5, report=print)
    assert time.monotonic() - start_s < 5
    with pytest.raises(BackendError, match="cannot be started"):
        run_trtexec(tmp_path / "none", [], log=tmp_path / "log", timeout_s=1, report=print)
