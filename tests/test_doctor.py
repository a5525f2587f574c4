"""The doctor finds what is there and what is missing, and survives packages that break at their import."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jetlens import doctor, predictor
from jetlens.cli import main
from jetlens.device import Gpu, Jetson, Machine
from jetlens.doctor import Check, diagnose
from tiny_graphs import color_graph, write_pair


def _by_name() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def test_every_line_says_what_it_means_and_what_is_missing_says_how_to_get_it() -> None:
    checks = _by_name()
    assert {"system", "processor", "memory", "GPU", "backend onnxruntime", "backend openvino", "backend pytorch", "OpenCV"} <= checks.keys()
    for check in checks.values():
        assert check.found
        assert check.means
        assert check.ok or check.remedy, check.name
    assert checks["backend onnxruntime"].ok
    assert "CPU" in checks["backend onnxruntime"].found
    assert "GStreamer" in checks["OpenCV"].found


def test_what_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino", "torch", "cv2", "av", "onnx", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, package, None)
    checks = _by_name()
    for name, command in {
        "backend onnxruntime": "jetlens[cpu]",
        "backend openvino": "jetlens[openvino]",
        "backend pytorch": "jetlens[",
        "OpenCV": "jetlens[cpu]",
        "PyAV": "jetlens[video]",
        "onnx": "jetlens[export]",
        "TensorRT-RTX": "jetlens[trt-rtx]",
    }.items():
        assert not checks[name].ok, name
        assert command in checks[name].remedy, name


def test_a_package_that_breaks_is_a_line_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: asking such a package anything raises."""
    broken = ModuleType("cv2")
    monkeypatch.setitem(sys.modules, "cv2", broken)
    with pytest.raises(AttributeError):
        _ = broken.getBuildInformation
    check = _by_name()["OpenCV"]
    assert not check.ok
    assert "does not work" in check.found


def test_a_jetson_and_its_gpu_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Machine(
        "Cortex-A78AE", 6, ("asimd",), 7619, 900, "Ubuntu 22.04.5 LTS", "5.15.148-tegra", "aarch64", "3.10.12",
        Jetson("NVIDIA Jetson Orin Nano", "36.4.3", "6"), (Gpu("Orin (nvgpu)", None, "540.5.0", ""),),
    )  # fmt: skip
    monkeypatch.setattr(doctor, "machine", lambda: board)
    checks = _by_name()
    assert "L4T 36.4.3 (JetPack 6)" in checks["Jetson"].found
    assert checks["GPU"].ok
    assert not checks["memory"].ok


def test_every_backend_proves_itself_on_a_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a shipped file that was damaged is found by its hash."""
    write_pair(tmp_path, color_graph())
    monkeypatch.setattr(predictor, "_SHIPPED", tmp_path)
    checks = _by_name()
    for name in ("onnxruntime", "openvino", "pytorch"):
        assert "ran colors on" in checks[f"backend {name}"].found, checks[f"backend {name}"]
    assert checks["shipped models"].found == "colors: every hash matches"
    (tmp_path / "colors.onnx").write_bytes(b"damaged")
    checks = _by_name()
    assert not checks["shipped models"].ok
    assert "another file" in checks["shipped models"].found


def test_the_command_exits_with_0_and_prints_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main(["doctor", *flags])
        assert caught.value.code == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert "onnxruntime" in captured.out
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert all(row.keys() == {"name", "ok", "found", "means", "remedy"} for row in rows)
