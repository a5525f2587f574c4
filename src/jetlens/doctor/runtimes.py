"""Runtimes: each backend, the providers of ONNX Runtime that really run a node, torch and torchvision on CUDA."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jetlens.backends import BACKENDS
from jetlens.doctor.check import Check, Host, version
from jetlens.doctor.probes import ProbeError, probe
from jetlens.doctor.toolkit import cuda_version
from jetlens.predictor import model_path, shipped_names

__all__ = ["backend", "gpu_wheel", "providers"]

_NEEDS_GPU = ("tensorrt", "onnxruntime-tensorrt")


def backend(name: str, host: Host) -> Iterator[Check]:
    """One row of BACKENDS: whether it can be used, and a shipped model run on it where that costs no build of an engine."""
    title = f"backend {name}"
    applies = host.has_gpu or name not in _NEEDS_GPU
    missing = BACKENDS.load(name).unavailable()
    if missing:
        what, _, remedy = missing.partition(": ")
        if name == "onnxruntime-tensorrt":
            remedy = gpu_wheel(host)
        yield Check(title, False, what, f"--backend {name} is refused", remedy or "see the lines on the GPU above", applies)
        return
    try:
        facts = probe(_PACKAGES[name], *_model(name)) if name in _PACKAGES else {}
        found, means = _DESCRIBED.get(name, _plain)(facts, host)
    except ProbeError as error:
        yield Check(title, False, f"does not work: {error}", f"--backend {name} fails", f"reinstall it: {_reinstall(name, host)}", applies)
        return
    ran = facts.get("ran")
    proof = f", ran {_model(name)[0].rpartition('/')[2].removesuffix('.onnx')} on {ran['provider']} in {ran['precision']}" if ran else ""
    yield Check(title, True, f"{found}{proof}", means, applies=applies)
    if name == "pytorch":
        yield from _torch(facts, host)


def providers(host: Host) -> Iterator[Check]:
    """Whether ONNX Runtime's GPU provider runs a node, and which wheel brings it."""
    name = "ONNX Runtime on the GPU"
    if not host.has_gpu:
        return
    both = [package for package in ("onnxruntime", "onnxruntime-gpu") if version(package)]
    if len(both) == 2:
        yield Check(
            name,
            False,
            "both onnxruntime and onnxruntime-gpu are installed",
            "they share one folder: whichever came last runs",
            f"pip uninstall -y onnxruntime onnxruntime-gpu, then: {gpu_wheel(host)}",
        )
        return
    try:
        runs = probe("onnxruntime")["providers"] if both else {}
    except ProbeError as error:
        yield Check(name, False, f"does not work: {error}", "no provider runs", gpu_wheel(host))
        return
    if not runs.get("CUDA", "absent"):
        more = " and TensorRT" if runs.get("Tensorrt") == "" else ""
        yield Check(name, True, f"CUDA{more} ran a node", "--backend onnxruntime --device cuda works")
        return
    if "CUDA" in runs:
        found = f"the CUDA provider is there and does not run: {runs['CUDA']}"
        remedy = "see CUDA and cuDNN above: they must be of the major version that this onnxruntime-gpu was built for"
        yield Check(name, False, found, "ONNX Runtime silently uses the processor; jetlens refuses --device cuda", remedy)
        return
    found = f"installed: {both[0]} without a CUDA provider" if both else "onnxruntime is not installed"
    yield Check(name, False, found, "ONNX Runtime runs on the processor only", gpu_wheel(host))


def gpu_wheel(host: Host) -> str:
    """Which onnxruntime-gpu this machine and this Python need, and how to get it."""
    if host.facts.jetson is None:
        return "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    cuda = cuda_version(host)
    jetpack = host.packages.get("nvidia-jetpack", "").partition(".")[0] or host.facts.jetson.jetpack
    index = f"jp{jetpack}/cu{cuda.replace('.', '')}" if jetpack and cuda else f"JetPack {jetpack or 'of this board'}"
    return (
        f"onnxruntime_gpu-*-{tag}-{tag}-linux_aarch64.whl built for {index}, from NVIDIA's Jetson AI Lab index or the Jetson Zoo "
        "(pip's own has no CUDA of a Jetson); pip uninstall -y onnxruntime first"
    )


def _model(name: str) -> tuple[str, ...]:
    """A shipped model and the backend that is to run it; none where that would build an engine, which takes minutes."""
    names = shipped_names()
    return () if not names or name in _NEEDS_GPU else (str(model_path(names[0])), name)


def _reinstall(name: str, host: Host) -> str:
    package = {"pytorch": "torch", "onnxruntime-tensorrt": "onnxruntime-gpu"}.get(name, name)
    return "JetPack's own" if host.facts.jetson else f"pip install --force-reinstall {package}"


def _plain(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    return "installed", "works with the models that it supports"


def _onnxruntime(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    runs = [name for name, why in facts["providers"].items() if not why]
    broken = [f"{name} does not" for name, why in facts["providers"].items() if why and name in ("CUDA", "Tensorrt", "CPU")]
    means = "runs on the GPU and on the CPU" if "CUDA" in runs else "runs on the CPU"
    return f"{facts['version']}, {', '.join(runs)} ran a node{''.join(f', {one}' for one in broken)}", means


def _openvino(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    means = "runs in bf16 unless --precision fp32 is given" if facts["default"] == "bf16" else "runs in fp32"
    return f"{facts['version']}, CPU has {', '.join(facts['able'])}", means


def _pytorch(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    device = facts["cuda"] or "no CUDA device"
    return f"torch {facts['version']}, {device}", "runs on the GPU" if facts["cuda"] else "runs on the CPU"


def _tensorrt(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    return f"TensorRT {facts['version']}", "builds an engine at a model's first use, which takes minutes, and keeps it"


def _onnxruntime_tensorrt(facts: Mapping[str, Any], host: Host) -> tuple[str, str]:
    why = facts["providers"].get("Tensorrt", "it is not in this build")
    if why:
        raise ProbeError(why)
    return f"ONNX Runtime {facts['version']}, its TensorRT provider ran a node", "builds an engine at a model's first use"


_PACKAGES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "openvino": "openvino",
    "pytorch": "pytorch",
    "tensorrt": "tensorrt",
}
_DESCRIBED: dict[str, Callable[[Mapping[str, Any], Host], tuple[str, str]]] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "openvino": _openvino,
    "pytorch": _pytorch,
    "tensorrt": _tensorrt,
}


def _torch(facts: Mapping[str, Any], host: Host) -> Iterator[Check]:
    """torch on CUDA, and torchvision's compiled operators where torch runs."""
    if host.has_gpu:
        wheel = "install NVIDIA's own torch for this JetPack and Python" if host.facts.jetson else "pip install --force-reinstall torch"
        built = f"built for CUDA {facts['built_for']}" if facts["built_for"] else "built without CUDA"
        if facts["cuda"]:
            yield Check("torch on the GPU", True, f"{facts['cuda']}, {built}", "training and backend pytorch use the GPU")
        else:
            found = f"torch {facts['version']}, {built}, sees no GPU"
            yield Check("torch on the GPU", False, found, "training and backend pytorch run on the processor", wheel)
    for device, why in facts["nms"].items():
        fits = f"a torchvision of the same release as torch {facts['version']}" + (f" on {platform.machine()}" if host.facts.jetson else "")
        found = f"torchvision {version('torchvision')}, nms ran on {device}" if not why else f"nms does not run on {device}: {why}"
        means = "detectors of torchvision work" if not why else f"detectors of torchvision fail on {device}"
        yield Check(f"torchvision on {device}", not why, found, means, f"install {fits}" if why else "")
