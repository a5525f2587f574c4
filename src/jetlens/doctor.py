"""What this machine can run, what is missing, what that means and how to get it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from jetlens.backends import BACKENDS
from jetlens.backends.checks import reason
from jetlens.backends.openvino import import_openvino
from jetlens.device import Machine, machine
from jetlens.predictor import load, model_path, shipped_names
from jetlens.registry import installed, require
from jetlens.spec import read_model

__all__ = ["Check", "diagnose"]

_TRTEXEC_HOMES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
_LOW_MEMORY_MIB = 2048


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Attributes:
        ok: False where something is missing or broken.
        found: what is there, or what went wrong.
        means: the consequence for the user.
        remedy: the command or step that changes it; empty where nothing has to.
    """

    name: str
    ok: bool
    found: str
    means: str
    remedy: str = ""


def diagnose() -> Iterator[Check]:
    """The checks one by one, as each is done; a check that fails says so and raises nothing."""
    facts = machine()
    yield from _machine_checks(facts)
    for name in BACKENDS:
        yield _guarded(f"backend {name}", lambda name=name: _backend(name))  # type: ignore[misc]
    for title, check in _CHECKS.items():
        yield _guarded(title, check)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken package may raise anything at its import
        return Check(name, False, f"does not work: {reason(error)}", "what needs it fails", "reinstall it")


def _machine_checks(facts: Machine) -> Iterator[Check]:
    features = ", ".join(facts.cpu_features) or "no vector extensions known"
    yield Check("system", True, f"{facts.system}, {facts.architecture}, kernel {facts.kernel}", f"Python {facts.python}")
    yield Check("processor", True, f"{facts.cpu}, {facts.cores} cores for this process", features)
    total, free = facts.memory_mib, facts.memory_available_mib
    enough = free is None or free >= _LOW_MEMORY_MIB
    found = "unknown" if total is None else f"{total} MiB, {free} MiB available"
    means = "enough for every shipped model" if enough else f"less than {_LOW_MEMORY_MIB} MiB are available: large models may not load"
    yield Check("memory", enough, found, means, "" if enough else "close other programs, or give smaller inputs and batches")
    if facts.jetson is not None:
        board = facts.jetson
        release = f"L4T {board.l4t or 'unknown'}" + (f" (JetPack {board.jetpack})" if board.jetpack else "")
        yield Check("Jetson", True, f"{board.model or 'unknown board'}, {release}", "use JetPack's own cv2, torch and TensorRT")
    if facts.gpus:
        for gpu in facts.gpus:
            memory = f", {gpu.memory_mib} MiB" if gpu.memory_mib else ""
            found = f"{gpu.name}{memory}, driver {gpu.driver or 'unknown'}, compute capability {gpu.compute_capability or 'unknown'}"
            yield Check("GPU", True, found, "runtimes with CUDA can use it: --device cuda")
    else:
        why = "nvidia-smi lists none" if shutil.which("nvidia-smi") else "there is no nvidia-smi"
        yield Check("GPU", False, f"no NVIDIA GPU: {why}", "models run on the processor", "with a GPU: install its driver")


def _backend(name: str) -> Check:
    title = f"backend {name}"
    missing = BACKENDS.load(name).unavailable()
    if missing:
        what, _, remedy = missing.partition(": ")
        return Check(title, False, what, f"--backend {name} is refused", remedy)
    found, means = _RUNTIMES.get(name, lambda: ("installed", f"--backend {name} works"))()
    return Check(title, True, found + _proof(name), means)


def _proof(backend: str) -> str:
    """That a shipped model really runs on a backend; empty where none ships."""
    for model in shipped_names()[:1]:
        with load(model, backend, threads=1) as predictor:
            predictor(np.zeros((*predictor.spec.preprocess.size_hw, 3), np.uint8))
            return f", ran {model} on {predictor.facts.provider} in {predictor.facts.precision}"
    return ""


def _models() -> Check:
    name = "shipped models"
    names = shipped_names()
    if not names:
        return Check(name, False, "none", "demo and the names of the orange line do not work", "install jetlens again")
    for model in names:
        read_model(model_path(model))
    return Check(name, True, f"{', '.join(names)}: every hash matches", "jetlens predict IMAGE --model NAME")


def _onnxruntime() -> tuple[str, str]:
    ort = require("onnxruntime", extra="cpu", why="doctor")
    providers = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    means = (
        "runs on the CPU and on NVIDIA GPUs" if "CUDA" in providers else "runs on the CPU; for NVIDIA GPUs install onnxruntime-gpu instead"
    )
    return f"{ort.__version__}, providers {', '.join(providers)}", means


def _openvino() -> tuple[str, str]:
    core = import_openvino().Core()
    abilities = list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    means = "runs in bf16 unless --precision fp32 is given" if default == "bf16" else "runs in fp32"
    return f"{metadata.version('openvino')}, CPU has {', '.join(a for a in abilities if a in ('FP32', 'FP16', 'BF16', 'INT8'))}", means


def _pytorch() -> tuple[str, str]:
    torch = require("torch", extra="train", why="doctor")
    cuda = bool(torch.cuda.is_available())
    device = torch.cuda.get_device_name(0) if cuda else "no CUDA device"
    return f"torch {torch.__version__}, {device}", "runs on the GPU" if cuda else "runs on the CPU"


_RUNTIMES: dict[str, Callable[[], tuple[str, str]]] = {"onnxruntime": _onnxruntime, "openvino": _openvino, "pytorch": _pytorch}


def _cv2() -> Check:
    name = "OpenCV"
    if not installed("cv2"):
        return Check(
            name, False, "not installed", "no video and no linear resizing", "pip install 'jetlens[cpu]' (on a Jetson JetPack's own)"
        )
    cv2 = require("cv2", extra="cpu", why="doctor")
    gstreamer = re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None
    means = (
        "CSI cameras and GStreamer pipelines work"
        if gstreamer
        else "files, V4L2 and network cameras work; CSI cameras and pipelines do not"
    )
    remedy = "" if gstreamer else "for GStreamer use the system's cv2 (python3-opencv, JetPack)"
    return Check(name, True, f"{cv2.__version__}, GStreamer {'YES' if gstreamer else 'NO'}", means, remedy)


def _av() -> Check:
    name = "PyAV"
    if not installed("av"):
        return Check(name, False, "not installed", "videos are written as mp4v by OpenCV, not as H.264", "pip install 'jetlens[video]'")
    av = require("av", extra="video", why="doctor")
    h264 = "libx264" in av.codecs_available
    means = "videos are written as H.264" if h264 else "this build has no libx264: videos are written as mp4v"
    return Check(name, h264, str(av.__version__), means, "" if h264 else "pip install --force-reinstall av")


def _package(package: str, distribution: str, extra: str, use: str) -> Callable[[], Check]:
    def check() -> Check:
        if installed(package):
            return Check(package, True, metadata.version(distribution), f"for {use}")
        return Check(package, False, "not installed", f"needed for {use}", f"pip install 'jetlens[{extra}]'")

    return check


def _tensorrt() -> Check:
    name = "TensorRT"
    program = shutil.which("trtexec") or next((home for home in _TRTEXEC_HOMES if Path(home).is_file()), None)
    version = metadata.version("tensorrt") if installed("tensorrt") else ""
    found = ", ".join(part for part in (f"Python package {version}" if version else "", f"trtexec at {program}" if program else "") if part)
    if found:
        return Check(name, True, found, "engines can be built from the exported ONNX files")
    return Check(
        name,
        False,
        "no Python package and no trtexec",
        "engines cannot be built here",
        "JetPack brings it; elsewhere: pip install tensorrt",
    )


def _tensorrt_rtx() -> Check:
    name = "TensorRT-RTX"
    if installed("tensorrt_rtx"):
        return Check(name, True, metadata.version("tensorrt_rtx"), "exported graphs can be parsed and built without a GPU")
    return Check(
        name, False, "not installed", "exports are not checked against a TensorRT parser here", "pip install 'jetlens[trt-rtx]' (x86)"
    )


_CHECKS: dict[str, Callable[[], Check]] = {
    "shipped models": _models,
    "OpenCV": _cv2,
    "PyAV": _av,
    "onnx": _package("onnx", "onnx", "export", "export, adopt and bake"),
    "torchvision": _package("torchvision", "torchvision", "export", "models by torchvision's names"),
    "faster_coco_eval": _package("faster_coco_eval", "faster-coco-eval", "map", "mAP of detectors"),
    "TensorRT": _tensorrt,
    "TensorRT-RTX": _tensorrt_rtx,
}
