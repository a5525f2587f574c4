"""The doctor finds what is there and what is missing, on this machine and on boards made of recorded files, and survives packages that break."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from boards import agx_xavier, orin_nano, write_files, write_program
from jetlens import doctor, predictor
from jetlens.cli import COMMANDS
from jetlens.device.machine import Gpu, machine
from jetlens.doctor import Check, abilities, diagnose, hardware, media, packages, probes, runtimes, toolkit
from jetlens.doctor.check import Host, guarded
from jetlens.doctor.probes import PROBES, ProbeError, probe
from tiny_graphs import color_graph, write_pair

GPU_WORKS = {"CPU": "", "CUDA": "", "Tensorrt": ""}


def _by_name(checks: Iterable[Check] | Check) -> dict[str, Check]:
    return {check.name: check for check in ([checks] if isinstance(checks, Check) else checks)}


def _answers(monkeypatch: pytest.MonkeyPatch, answers: dict[str, dict[str, Any] | str]) -> None:
    """Probes that answer what they are told to, a text being the reason of a failure."""

    def answer(name: str, model: str = "", backend: str = "") -> dict[str, Any]:
        given = answers[name]
        if isinstance(given, str):
            raise ProbeError(given)
        return given

    for module in (toolkit, runtimes, media):
        monkeypatch.setattr(module, "probe", answer)


@pytest.fixture(scope="module")
def here() -> dict[str, Check]:
    """This machine's diagnosis, with every probe in a process of its own."""
    return _by_name(diagnose())


def test_every_line_says_what_it_means_and_what_is_missing_says_how_to_get_it(here: dict[str, Check]) -> None:
    assert {"system", "processor", "memory", "disk", "clocks", "GPU", "nvcc", "TensorRT", "trtexec", "OpenCV", "NumPy"} <= here.keys()
    for check in here.values():
        assert check.found
        assert check.means
        assert check.ok or check.remedy or not check.applies, check.name
        assert len(check.remedy) < 260, check.name
    assert here["backend onnxruntime"].ok
    assert "CPU ran a node" in here["backend onnxruntime"].found


def test_every_backend_proves_itself_on_a_shipped_model(here: dict[str, Check]) -> None:
    shipped = predictor.shipped_names()[0]
    for name in ("onnxruntime", "openvino", "pytorch"):
        assert f"ran {shipped} on" in here[f"backend {name}"].found, here[f"backend {name}"]
    assert "every hash matches" in here["shipped models"].found


def test_what_each_command_can_do(here: dict[str, Check]) -> None:
    rows = {row.command: row for row in abilities(here.values())}
    assert set(COMMANDS) <= rows.keys()
    assert rows["predict"].status == "ready"
    if not here["TensorRT"].ok:
        assert rows["build"].status == "not"
        assert rows["build"].why
        assert rows["build"].remedy


def test_a_damaged_shipped_model_is_found_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path, color_graph())
    monkeypatch.setattr(predictor, "_SHIPPED", tmp_path)
    host = Host.at(tmp_path)
    assert _by_name(guarded("shipped models", packages.models, host))["shipped models"].found == "colors: every hash matches"
    assert "ran colors on CPU" in _by_name(runtimes.backend("onnxruntime", host))["backend onnxruntime"].found
    (tmp_path / "colors.onnx").write_bytes(b"damaged")
    check = _by_name(guarded("shipped models", packages.models, host))["shipped models"]
    assert not check.ok
    assert "another file" in check.found
    assert not _by_name(runtimes.backend("onnxruntime", host))["backend onnxruntime"].ok


def test_what_is_not_installed_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino", "torch", "cv2", "av", "onnx", "tensorrt"):
        monkeypatch.setitem(sys.modules, package, None)
    checks = _by_name(diagnose(tmp_path))
    for name, command in {
        "backend onnxruntime": "jetlens[cpu]",
        "backend openvino": "jetlens[openvino]",
        "backend pytorch": "jetlens[",
        "OpenCV": "jetlens[cpu]",
        "PyAV": "jetlens[video]",
        "onnx": "jetlens[export]",
        "TensorRT": "pip install tensorrt",
    }.items():
        assert not checks[name].ok, name
        assert command in checks[name].remedy, name
    rows = {row.command: row for row in abilities(checks.values())}
    assert {rows[name].status for name in ("predict", "train", "export", "adopt", "bench", "demo", "evaluate", "build")} == {"not"}
    assert "jetlens[cpu]" in rows["predict"].remedy
    assert {rows[name].status for name in ("inspect", "data", "monitor", "doctor", "compare", "cache")} == {"ready"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1", "no attribute"),
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "libfoo.so.1"),
        ("raise SystemError('odd')", "odd"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("import os; os._exit(3)", "ended without an answer"),
        ("import sys; sys.exit('no licence')", "no licence"),
        (
            "import sys; print('A module that was compiled using NumPy 1.x cannot be run in NumPy 2.0', file=sys.stderr); raise ImportError('x')",
            "numpy<2",
        ),
    ],
)
def test_a_package_that_breaks_is_a_line_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str) -> None:
    write_files(tmp_path, {"broken/cv2.py": content})
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    check = _by_name(guarded("OpenCV", media.opencv, Host.at(tmp_path)))["OpenCV"]
    assert not check.ok
    assert "does not work" in check.found
    assert said in check.found
    assert check.remedy


def test_a_package_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"broken/cv2.py": "import time; time.sleep(60)"})
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    with pytest.raises(ProbeError, match=r"did not answer within 1\.5 s"):
        probe("cv2", timeout_s=1.5)


def test_asking_such_a_package_in_this_process_would_raise() -> None:
    """Negative control."""
    with pytest.raises(AttributeError):
        _ = ModuleType("cv2").getBuildInformation


def test_a_check_that_fails_itself_is_a_line() -> None:
    def fails(host: Host) -> Check:
        raise ZeroDivisionError("mine")

    (check,) = guarded("odd", fails, Host())
    assert (check.ok, "mine" in check.found) == (False, True)


def test_an_orin_nano_whose_packages_work(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same Python packages answer as JetPack's do."""
    torch = {"version": "2.5.0", "cuda": "Orin", "built_for": "12.6", "nms": {"cpu": "", "cuda": "no kernel image is available"}}
    _answers(
        monkeypatch,
        {
            "tensorrt": {"version": "10.3.0", "builder": True},
            "onnxruntime": {"version": "1.19.0", "providers": GPU_WORKS},
            "pytorch": torch,
            "cv2": {"version": "4.8.0"},
            "gi": {"version": "GStreamer 1.20.3"},
        },
    )
    monkeypatch.setattr(toolkit, "installed", lambda name: True)
    monkeypatch.setattr(toolkit, "version", lambda name: {"cuda-python": "12.6.2"}.get(name, ""))
    monkeypatch.setattr(runtimes, "version", lambda name: {"onnxruntime-gpu": "1.19.0"}.get(name, ""))
    host = Host.at(orin_nano(tmp_path, shared_data / "logs"))
    rows = [
        *hardware.jetson(host),
        *hardware.power_mode(host),
        *hardware.gpu(host),
        hardware.swap(host),
        hardware.cameras(host),
        toolkit.cuda(host),
    ]
    rows += [toolkit.nvcc(host), toolkit.cudnn(host), *toolkit.tensorrt(host), *toolkit.python_cuda(host), *runtimes.providers(host)]
    rows += [*runtimes._torch(torch, host), media.opencv(host), *media.gstreamer(host), media.encoder(host)]
    checks = _by_name(rows)
    assert checks["Jetson"].found == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super, L4T 36.4.3 (JetPack 6)"
    assert checks["JetPack"].found == "nvidia-jetpack 6.2+b77"
    assert checks["power mode"].found == "MAXN_SUPER"
    assert "CUDA up to 12.6" in checks["GPU"].means
    assert checks["CUDA"].found == "CUDA 12.6 in /usr/local/cuda"
    assert "not on the path" in checks["nvcc"].found
    assert "export PATH" in checks["nvcc"].remedy
    assert checks["cuDNN"].found == "libcudnn9-cuda-12 9.3.0.75-1"
    assert "10.3.0" in checks["TensorRT"].found
    assert checks["trtexec"].found.endswith("/usr/src/tensorrt/bin/trtexec")
    assert checks["cuda-python"].ok
    assert checks["ONNX Runtime on the GPU"].found == "CUDA and TensorRT ran a node"
    assert checks["torch on the GPU"].ok
    assert checks["torchvision on cpu"].ok
    assert not checks["torchvision on cuda"].ok
    assert "torchvision of the same release as torch 2.5.0" in checks["torchvision on cuda"].remedy
    assert checks["GStreamer in Python"].found == "GStreamer 1.20.3"
    assert checks["GStreamer nvarguscamerasrc"].ok
    assert checks["NVENC"].found == "this chip has none"
    assert checks["cameras"].found == "video0 vi-output, imx219 9-0010"
    assert {row.command: row.status for row in abilities(rows)}["build"] == "ready"


def test_an_orin_nano_with_packages_of_pip(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What new users of a Jetson have after ``pip install``: each line says the next command."""
    _answers(
        monkeypatch,
        {
            "onnxruntime": {"version": "1.23.2", "providers": {"CPU": ""}},
            "cv2": {"version": "4.10.0"},
            "gi": "reading CSI cameras needs GStreamer for Python (gi), which is not installed",
        },
    )
    monkeypatch.setattr(runtimes, "version", lambda name: {"onnxruntime": "1.23.2"}.get(name, ""))
    monkeypatch.setattr(toolkit, "installed", lambda name: False)
    monkeypatch.setattr(sys, "prefix", "/home/user/.venv")
    host = Host.at(orin_nano(tmp_path, shared_data / "logs"))
    checks = _by_name([*runtimes.providers(host), media.opencv(host), *media.gstreamer(host), *toolkit.tensorrt(host)])
    wheel = checks["ONNX Runtime on the GPU"].remedy
    assert f"cp{sys.version_info.major}{sys.version_info.minor}-linux_aarch64.whl built for jp6/cu126" in wheel
    assert "python3-gi" in checks["GStreamer in Python"].remedy
    assert checks["OpenCV"].ok
    assert "--system-site-packages" in checks["TensorRT"].remedy


def test_a_board_without_jetpack(tmp_path: Path, shared_data: Path) -> None:
    host = Host.at(agx_xavier(tmp_path, shared_data / "logs"))
    checks = _by_name([*hardware.jetson(host), *hardware.power_mode(host), *media.gstreamer(host), media.encoder(host), toolkit.nvcc(host)])
    assert checks["Jetson"].found == "Jetson-AGX, L4T 35.1.0 (JetPack 5)"
    assert checks["JetPack"].remedy == "sudo apt update && sudo apt install nvidia-jetpack"
    assert checks["power mode"].found == "MODE_15W_DESKTOP"
    assert "gstreamer1.0-tools" in checks["GStreamer"].remedy
    assert not checks["NVENC"].ok


def test_the_decoder_that_decoded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    desktop = Host(facts=replace(machine(), gpus=(Gpu("NVIDIA H200", 143_771, "570.0", "9.0"),), jetson=None))
    answers = {"nvv4l2decoder": "it needs GStreamer", "nvdec": "", "nvcodec": "it needs GStreamer"}
    _answers(monkeypatch, {"decoders": answers})
    assert (media.decoder(desktop).ok, media.decoder(desktop).found) == (True, "nvdec")
    assert media.decoder(desktop).means == "H.264 and H.265 are decoded in hardware"
    answers["nvdec"] = "invalid data"
    assert (media.decoder(desktop).ok, media.decoder(desktop).found) == (False, "nvdec: invalid data")
    assert "NVIDIA_DRIVER_CAPABILITIES" in media.decoder(desktop).remedy
    _answers(monkeypatch, {"decoders": "crashed with SIGSEGV at its import or first use"})
    assert "crashed with SIGSEGV" in media.decoder(desktop).found
    assert not media.decoder(Host(facts=replace(machine(), gpus=(), jetson=None))).applies


def test_each_decoder_is_asked_to_decode() -> None:
    pytest.importorskip("av")
    answers = probe("decoders")
    assert list(answers) == ["nvv4l2decoder", "nvdec", "nvcodec"]
    assert all(isinstance(why, str) and "\n" not in why for why in answers.values())


def test_a_release_that_no_table_knows(tmp_path: Path) -> None:
    """JetPack 8 will come: its packages are asked, not a table of L4T."""
    write_files(
        tmp_path,
        {
            "etc/nv_tegra_release": "# R42 (release), REVISION: 1.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2027\n",
            "var/lib/dpkg/status": "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 8.0-b1\n",
        },
    )
    host = Host.at(tmp_path)
    checks = _by_name(hardware.jetson(host))
    assert checks["Jetson"].found == "unknown board, L4T 42.1.0"
    assert checks["JetPack"].found == "nvidia-jetpack 8.0-b1"
    assert "JetPack 8" in runtimes.gpu_wheel(host)


def _with_gpu(root: Path) -> Host:
    write_program(root, "nvidia-smi", "case \"$*\" in *query*) echo 'NVIDIA H200, 143771, 580.65, 9.0';; esac")
    return Host.at(root)


@pytest.mark.parametrize(
    ("answer", "installed", "ok", "found", "remedy"),
    [
        (GPU_WORKS, ["onnxruntime-gpu"], True, "CUDA and TensorRT ran a node", ""),
        ({"CPU": "", "CUDA": ""}, ["onnxruntime-gpu"], True, "CUDA ran a node", ""),
        ({"CPU": ""}, ["onnxruntime"], False, "without a CUDA provider", "pip install onnxruntime-gpu"),
        ({"CPU": "", "CUDA": "it did not start"}, ["onnxruntime-gpu"], False, "does not run: it did not start", "CUDA and cuDNN"),
        ({"CPU": ""}, ["onnxruntime", "onnxruntime-gpu"], False, "both onnxruntime and onnxruntime-gpu", "pip uninstall"),
        ({}, [], False, "not installed", "pip install onnxruntime-gpu"),
        ("crashed with SIGSEGV", ["onnxruntime-gpu"], False, "SIGSEGV", "onnxruntime-gpu"),
    ],
)
def test_the_gpu_provider_of_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, str] | str, installed: list[str], ok: bool, found: str, remedy: str
) -> None:
    _answers(monkeypatch, {"onnxruntime": answer if isinstance(answer, str) else {"version": "1.20.0", "providers": answer}})
    monkeypatch.setattr(runtimes, "version", lambda name: "1.20.0" if name in installed else "")
    check = _by_name(runtimes.providers(_with_gpu(tmp_path)))["ONNX Runtime on the GPU"]
    assert check.ok is ok
    assert found in check.found
    assert remedy in check.remedy


def test_a_laptop_without_a_gpu_has_no_use_for_cuda(tmp_path: Path) -> None:
    host = Host.at(tmp_path)
    rows = [*hardware.gpu(host), toolkit.cudnn(host), *toolkit.tensorrt(host), media.encoder(host), *runtimes.backend("tensorrt", host)]
    assert not any(check.applies for check in rows if not check.ok)
    assert list(runtimes.providers(host)) == []


def test_too_little_memory_swap_and_a_hot_machine_on_battery(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit",
            "proc/meminfo": "MemTotal: 4059000 kB\nMemAvailable: 900000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
            "sys/class/thermal/thermal_zone0/type": "CPU-therm",
            "sys/class/thermal/thermal_zone0/temp": "96000",
        },
    )
    host = Host.at(tmp_path)
    assert not hardware.memory(host).ok
    assert "fallocate" in hardware.swap(host).remedy
    assert "slows itself down (96 C)" in hardware.clocks(host).means


def test_packages_that_want_numpy_1(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"torch": ["numpy<2", "sympy"], "onnx": ["numpy>=1.20"], "openvino": ["numpy<3"], "matplotlib": ['numpy<2; extra == "dev"']}
    monkeypatch.setattr(packages.metadata, "requires", lambda name: rows.get(name, []))
    monkeypatch.setattr(packages.np, "__version__", "2.1.0")
    check = packages.numpy(Host())
    assert not check.ok
    assert "torch" in check.found
    assert not any(name in check.found for name in ("onnx", "openvino", "matplotlib"))
    assert check.remedy == "pip install 'numpy<2'"
    monkeypatch.setattr(packages.np, "__version__", "1.26.4")
    assert packages.numpy(Host()).ok


def test_cuda_python_must_not_be_newer_than_cuda(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.at(orin_nano(tmp_path, shared_data / "logs"))
    for found, ok in (("12.9.1", True), ("13.0.0", False), ("", False)):
        monkeypatch.setattr(toolkit, "version", lambda name, found=found: found if name == "cuda-bindings" else "")
        check = _by_name(toolkit.python_cuda(host))["cuda-python"]
        assert (check.ok, check.remedy) == (ok, "" if ok else "pip install 'cuda-python==12.*'")


def test_the_table_of_checks_has_every_backend_and_every_probe_is_known() -> None:
    assert {f"backend {name}" for name in runtimes.BACKENDS} <= doctor._CHECKS.keys()
    assert set(runtimes._PACKAGES.values()) <= PROBES.keys()


class _Torch:
    """A torch whose operators come from libraries that exist as files alone."""

    def __init__(self, cuda: str, torchvision_cuda: int) -> None:
        self.loaded: list[str] = []
        self.version = SimpleNamespace(cuda=cuda)
        self.ops = SimpleNamespace(
            load_library=self.loaded.append, torchvision=SimpleNamespace(_cuda_version=lambda: torchvision_cuda, nms=self._nms)
        )

    def tensor(self, values: object, device: str = "cpu") -> object:
        return values

    def _nms(self, *_: object) -> object:
        assert self.loaded, "nms was asked for before its library was there"
        return SimpleNamespace(tolist=lambda: [0, 2])


@pytest.mark.parametrize(
    ("cuda", "torchvision_cuda", "said"),
    [("12.6", 12060, ""), ("", -1, ""), ("13.0", -1, ""), ("13.0", 12060, "built for CUDA 12 and torch for CUDA 13.0")],
)
def test_operators_of_torchvision_are_tried_without_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str, torchvision_cuda: int, said: str
) -> None:
    write_files(tmp_path, {"torchvision/__init__.py": "raise SystemError('all of it')", "torchvision/_C.so": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    torch = _Torch(cuda, torchvision_cuda)
    assert said in probes._nms(torch, "cpu")
    assert bool(probes._nms(torch, "cpu")) == bool(said)
    assert torch.loaded[0] == str(tmp_path / "torchvision" / "_C.so")
    # Without a compiled library the package itself must say what is wrong with it.
    (tmp_path / "torchvision" / "_C.so").unlink()
    assert "all of it" in probes._nms(_Torch(cuda, torchvision_cuda), "cpu")
