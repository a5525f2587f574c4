"""The environment: read from whatever knows it, empty where nothing does, never an error."""

from __future__ import annotations

import ctypes
import types
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from jetlens.device import Gpu
from jetlens.engines import environment as module
from jetlens.engines.environment import Environment, read_environment


class Libcuda:
    """The driver's library with these devices: name, major, minor."""

    def __init__(self, *devices: tuple[str, int, int], status: int = 0, fails: str = "") -> None:
        self.calls: list[str] = []
        self._fails = fails
        self._answers: dict[str, Any] = {
            "cuInit": lambda flags: status,
            "cuDriverGetVersion": lambda version: self._set(version, 12080),
            "cuDeviceGetCount": lambda count: self._set(count, len(devices)),
            "cuDeviceGet": lambda device, index: self._set(device, index),
            "cuDeviceGetName": lambda buffer, size, device: setattr(buffer, "value", devices[device.value][0].encode()) or 0,
            "cuDeviceGetAttribute": lambda value, attribute, device: self._set(value, devices[device.value][attribute - 74]),
        }

    def __getattr__(self, name: str) -> Any:
        if name not in self._answers:
            raise AttributeError(name)
        self.calls.append(name)
        return (lambda *given: 999) if name == self._fails else self._answers[name]

    def _set(self, target: Any, value: int) -> int:
        target._obj.value = value
        return 0


SMI = (Gpu("NVIDIA L4", 24000, "550.54.15", "8.9"),)


def device(monkeypatch: pytest.MonkeyPatch, library: Libcuda | None, gpus: tuple[Gpu, ...] = SMI) -> tuple[str, str, str]:
    def load(name: str) -> Libcuda:
        if library is None:
            raise OSError(f"{name}: cannot open shared object file")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(module, "find_gpus", lambda: gpus)
    return module._device()


def test_the_driver_names_its_first_visible_device_without_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Libcuda(("NVIDIA H200", 9, 0), ("NVIDIA T4", 7, 5))
    assert device(monkeypatch, library) == ("NVIDIA H200", "9.0", "12.8")
    assert not [name for name in library.calls if "Ctx" in name or "Context" in name or "Alloc" in name]


@pytest.mark.parametrize("library", [Libcuda(status=100), Libcuda()])
def test_hidden_devices_are_no_device(monkeypatch: pytest.MonkeyPatch, library: Libcuda) -> None:
    assert device(monkeypatch, library)[:2] == ("", "")


@pytest.mark.parametrize(
    "library", [None, Libcuda(status=3), Libcuda(("x", 9, 0), fails="cuDeviceGetName"), Libcuda(("x", 9, 0), fails="cuDeviceGetAttribute")]
)
def test_nvidia_smi_answers_where_the_driver_does_not(monkeypatch: pytest.MonkeyPatch, library: Libcuda | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device(monkeypatch, library) == ("NVIDIA L4", "8.9", "")
    assert device(monkeypatch, library, SMI * 4) == ("NVIDIA L4", "8.9", "")
    assert device(monkeypatch, library, (*SMI, Gpu("NVIDIA T4", None, "", "7.5"))) == ("", "", "")
    assert device(monkeypatch, library, ()) == ("", "", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert device(monkeypatch, library) == ("", "", "")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:06:29 UTC 2025\nGCC version:  gcc version 12.3.0",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)", "540.4.0"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54 Mon\n", "535.54"),
        ("no driver 1.2.3", "550.54.15"),
    ],
)
def test_the_drivers_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str) -> None:
    monkeypatch.setattr(module, "find_gpus", lambda: SMI)
    (tmp_path / "version").write_text(text)
    assert module._driver(tmp_path / "version") == version
    monkeypatch.setattr(module, "find_gpus", lambda: (Gpu("Orin (nvgpu)", None, "N/A", ""),))
    assert module._driver(tmp_path / "absent") == ""


def test_a_jetsons_release(tmp_path: Path) -> None:
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert (module._l4t(tmp_path / "release"), module._l4t(tmp_path / "absent")) == ("36.4.3", "none")


def tensorrt(**registry: Any) -> types.SimpleNamespace:
    names = types.SimpleNamespace(**registry)
    return types.SimpleNamespace(__version__="10.3.0", init_libnvinfer_plugins=lambda *_: True, get_plugin_registry=lambda: names)


def creators(*names: str) -> list[types.SimpleNamespace]:
    return [types.SimpleNamespace(name=name, plugin_version="1", plugin_namespace="") for name in names]


def test_plugins_are_counted_and_hashed_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(module, "_imported", lambda name: found.get(name))
    assert (module._tensorrt(), module._plugins()) == ("", "")
    answers = []
    for names in (("a", "b"), ("b", "a"), ("a", "c")):
        found["tensorrt"] = tensorrt(plugin_creator_list=creators(*names))
        answers.append(module._plugins())
    found["tensorrt"] = tensorrt(all_creators=creators("a", "b"), plugin_creator_list=creators("a"))
    assert module._tensorrt() == "10.3.0"
    assert answers[0] == answers[1] == module._plugins() != answers[2]
    assert answers[0].startswith("2-")
    found["tensorrt"] = tensorrt()
    assert module._plugins() == ""


def test_the_runtime_is_asked_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[int, int]:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    found: dict[str, Any] = {"cuda.bindings.runtime": types.SimpleNamespace(cudaRuntimeGetVersion=lambda: (0, 12060))}
    monkeypatch.setattr(module, "_imported", lambda name: found.get(name))
    assert module._cuda_runtime() == "12.6"
    found["cuda.bindings.runtime"].cudaRuntimeGetVersion = broken
    found["cuda.cudart"] = types.SimpleNamespace(cudaRuntimeGetVersion=lambda: (35, 0))
    monkeypatch.setattr(module, "_RUNTIME_PACKAGES", ("no-such-package", "pytest"))
    assert module._cuda_runtime() == pytest.__version__
    monkeypatch.setattr(module, "_RUNTIME_PACKAGES", ())
    monkeypatch.setattr(module, "_text", lambda path: '{"cuda": {"version": "12.4.131"}}')
    assert module._cuda_runtime() == "12.4.131"
    monkeypatch.setattr(module, "_text", lambda path: "[1]")
    assert module._cuda_runtime() == ""


def test_a_package_that_does_not_import_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_package_e2.py").write_text("raise OSError('libnvinfer.so.10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module._imported("broken_package_e2") is None
    assert module._imported("no_such_package_e2.inside") is None


def test_this_machine_has_an_environment_of_texts() -> None:
    read_environment.cache_clear()
    assert all(isinstance(value, str) for value in astuple(read_environment()))
    assert astuple(Environment()) == ("",) * 8
