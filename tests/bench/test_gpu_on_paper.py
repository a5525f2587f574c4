"""The GPU's TFLOPS on paper: right for boards that are known, absent for others, never 0."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from jetlens.bench import gpu
from jetlens.bench.gpu import peak_tflops
from jetlens.device import Jetson, machine

HERE = replace(machine(), jetson=None, memory_mib=8000)


def board(name: str, memory_mib: int, mhz: float) -> dict[str, Any]:
    return peak_tflops(replace(HERE, jetson=Jetson(name, "32.6.1", "4"), memory_mib=memory_mib), mhz)


def test_the_nano_of_source_004_has_the_figure_that_it_states() -> None:
    found = board("NVIDIA Jetson Nano Developer Kit", 3956, 921.0)
    assert found["fp16"] == pytest.approx(0.4716, abs=5e-5)
    assert found["fp32"] == pytest.approx(0.2358, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "memory_mib", "cores"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 7620, 1024),
        ("NVIDIA Jetson Orin Nano 4GB", 3600, 512),
        ("NVIDIA Jetson Xavier NX Developer Kit", 7770, 384),
        ("NVIDIA Jetson AGX Orin Developer Kit", 62_800, 2048),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30_500, 1792),
    ],
)
def test_boards_that_share_a_word_are_told_apart(name: str, memory_mib: int, cores: int) -> None:
    assert board(name, memory_mib, 1000.0)["cores"] == cores


def test_what_is_not_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert board("NVIDIA Jetson of tomorrow", 8000, 1000.0) == {}
    monkeypatch.setattr(gpu, "installed", lambda name: False)
    assert peak_tflops(HERE) == {}


def nvml(**answers: Any) -> Any:
    """NVML of one GPU; what is not given, this driver does not support."""

    class NVMLError(Exception):
        pass

    def ask(name: str) -> Any:
        def answer(*_: Any) -> Any:
            if name not in answers:
                raise NVMLError(name)
            return answers[name]

        return answer

    names = ("NumGpuCores", "MaxClockInfo", "CudaComputeCapability", "Name")
    functions = {f"nvmlDeviceGet{name}": ask(name) for name in names}
    more: dict[str, Any] = {"nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetHandleByIndex": lambda index: index}
    return SimpleNamespace(NVMLError=NVMLError, NVML_CLOCK_SM=1, **functions, **more)


def with_nvml(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> dict[str, Any]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(**answers))
    monkeypatch.setattr(gpu, "installed", lambda name: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return peak_tflops(HERE)


def test_nvml_tells_cores_and_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_nvml(monkeypatch, NumGpuCores=3584, MaxClockInfo=1777, CudaComputeCapability=(8, 6), Name=b"RTX 3060")
    assert found["name"] == "RTX 3060"
    assert found["fp32"] == pytest.approx(12.74, abs=0.01)
    assert found["fp16"] == found["fp32"]


def test_a_capability_that_is_not_known_has_no_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_nvml(monkeypatch, NumGpuCores=1000, MaxClockInfo=1000, CudaComputeCapability=(42, 0), Name="next")
    assert found["fp32"] == pytest.approx(2.0)
    assert "fp16" not in found


@pytest.mark.parametrize("cores", [None, 0])
def test_a_driver_that_does_not_tell_gives_nothing(cores: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {} if cores is None else {"NumGpuCores": cores}
    assert with_nvml(monkeypatch, MaxClockInfo=1000, CudaComputeCapability=(8, 6), Name="x", **answers) == {}
