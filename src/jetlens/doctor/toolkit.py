"""NVIDIA's libraries and programs: CUDA, nvcc, cuDNN, TensorRT, trtexec, cuda-python, PyCUDA."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

from jetlens.device.files import read_text
from jetlens.doctor.check import Check, Host, version
from jetlens.doctor.probes import ProbeError, probe
from jetlens.registry import installed

__all__ = ["cuda", "cuda_version", "cudnn", "nvcc", "python_cuda", "tensorrt", "tensorrt_rtx"]

_TRTEXEC_HOMES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
_NVCC_HOME = "/usr/local/cuda/bin/nvcc"
_CUDA_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11")
_CUDNN_WHEELS = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu11")
_JETPACK = "sudo apt install nvidia-jetpack"


def cuda_version(host: Host) -> str:
    """The CUDA toolkit that is installed, such as 12.6; empty where there is none."""
    try:
        found = json.loads(read_text(host.root / "usr/local/cuda/version.json"))["cuda"]["version"]
    except (ValueError, KeyError, TypeError):
        found = ""
    if not found:
        names = sorted(name for name in host.packages if name.startswith("cuda-cudart-"))
        found = ".".join(names[-1].split("-")[2:]) if names else ""
    return ".".join(str(found).split(".")[:2])


def cuda(host: Host) -> Check:
    """CUDA libraries: the machine's, or those that came with Python packages."""
    toolkit = cuda_version(host)
    wheel = next((f"{name} {found}" for name in _CUDA_WHEELS if (found := version(name))), "")
    found = ", ".join(
        part for part in (f"CUDA {toolkit} in /usr/local/cuda" if toolkit else "", f"Python package {wheel}" if wheel else "") if part
    )
    if found:
        return Check("CUDA", True, found, "runtimes built for this major version can use the GPU", applies=host.has_gpu)
    remedy = _JETPACK if host.facts.jetson else "pip install 'onnxruntime-gpu[cuda,cudnn]' brings it, or NVIDIA's CUDA packages"
    return Check("CUDA", False, "no CUDA libraries", "nothing can use a GPU", remedy, applies=host.has_gpu)


def nvcc(host: Host) -> Check:
    """The CUDA compiler."""
    program = host.program("nvcc", _NVCC_HOME)
    if program is None:
        remedy = _JETPACK if host.facts.jetson else "install NVIDIA's cuda-nvcc package"
        return Check("nvcc", False, "not found", "CUDA code, PyCUDA too, cannot be compiled; jetlens needs none", remedy, applies=False)
    release = re.search(r"release ([0-9.]+)", host.ask(program, "--version"))
    shown = f"{program}{f', release {release[1]}' if release else ''}"
    if host.program("nvcc") is None:
        remedy = "export PATH=/usr/local/cuda/bin:$PATH"
        return Check("nvcc", False, f"{shown}, not on the path", "programs that compile CUDA code do not find it", remedy, applies=False)
    return Check("nvcc", True, shown, "CUDA code can be compiled; jetlens needs none")


def cudnn(host: Host) -> Check:
    """cuDNN: ONNX Runtime and torch need it on the GPU."""
    packages = [f"{name} {found}" for name, found in sorted(host.packages.items()) if name.startswith("libcudnn") and "-dev" not in name]
    wheels = [f"Python package {name} {found}" for name in _CUDNN_WHEELS if (found := version(name))]
    header = dict(re.findall(r"#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) ([0-9]+)", read_text(host.root / "usr/include/cudnn_version.h")))
    headers = [f"{header['MAJOR']}.{header['MINOR']}.{header['PATCHLEVEL']}"] if len(header) == 3 else []
    known = [*packages[:1], *wheels[:1], *headers]
    if known:
        return Check("cuDNN", True, known[0], "ONNX Runtime and torch need it on the GPU", applies=host.has_gpu)
    remedy = _JETPACK if host.facts.jetson else "pip install 'onnxruntime-gpu[cuda,cudnn]' brings it"
    return Check("cuDNN", False, "not found", "ONNX Runtime does not run on the GPU without it", remedy, applies=host.has_gpu)


def tensorrt(host: Host) -> Iterator[Check]:
    """TensorRT's Python package, which builds engines, and trtexec."""
    name = "TensorRT"
    library = next((f"{package} {found}" for package, found in sorted(host.packages.items()) if package.startswith("libnvinfer")), "")
    if installed("tensorrt"):
        try:
            facts = probe("tensorrt")
            yield Check(name, True, f"Python package {facts['version']}, its builder starts", "jetlens build makes engines")
        except ProbeError as error:
            remedy = "see nvidia-smi" if host.has_gpu else "it needs an NVIDIA GPU with its driver"
            yield Check(
                name, False, f"is installed and does not work: {error}", "engines cannot be built here", remedy, applies=host.has_gpu
            )
    elif "python3-libnvinfer" in host.packages and sys.prefix != sys.base_prefix:
        found = f"JetPack's package {library} is installed, but this virtual environment does not see it"
        yield Check(
            name, False, found, "engines cannot be built from here", "python3 -m venv --system-site-packages .venv makes one that does"
        )
    else:
        found = f"the library {library} without its Python package" if library else "no Python package"
        jetpack = "sudo apt install python3-libnvinfer nvidia-jetpack"
        remedy = jetpack if host.facts.jetson else "pip install tensorrt (needs an NVIDIA GPU and its driver)"
        yield Check(name, False, found, "engines cannot be built here", remedy, applies=host.has_gpu)
    program = host.program("trtexec", *_TRTEXEC_HOMES)
    if program:
        yield Check("trtexec", True, program, "TensorRT's own benchmark; jetlens needs it for comparisons only")
    else:
        remedy = "sudo apt install libnvinfer-bin" if host.facts.jetson else "it comes with NVIDIA's TensorRT packages, not with pip's"
        yield Check(
            "trtexec", False, "not found", "engines cannot be measured with NVIDIA's own program; jetlens needs none", remedy, applies=False
        )


def python_cuda(host: Host) -> Iterator[Check]:
    """cuda-python, which jetlens uses, and PyCUDA, which older scripts use."""
    name = "cuda-python"
    major = cuda_version(host).partition(".")[0]
    bindings = version("cuda-bindings") or version("cuda-python")
    remedy = f"pip install 'cuda-python=={major}.*'" if major else "pip install 'jetlens[gpu]'"
    if not bindings:
        yield Check(name, False, "not installed", "backend tensorrt does not run without it", remedy, applies=host.has_gpu)
    elif major and bindings.partition(".")[0] > major:
        yield Check(name, False, f"{bindings}, newer than CUDA {major}", "it may not start on this driver", remedy, applies=host.has_gpu)
    else:
        yield Check(name, True, bindings, "for backend tensorrt", applies=host.has_gpu)
    nvml = version("nvidia-ml-py")
    means = "for load, power and throttling of the GPU"
    slower = "nvidia-smi is asked instead, which costs more"
    yield Check(
        "nvidia-ml-py",
        bool(nvml),
        nvml or "not installed",
        means if nvml else slower,
        "" if nvml else "pip install 'jetlens[gpu]'",
        host.has_gpu,
    )
    pycuda = version("pycuda")
    yield Check(
        "PyCUDA",
        bool(pycuda),
        pycuda or "not installed",
        "for scripts of others; jetlens needs none",
        "" if pycuda else "pip install pycuda (compiles with nvcc)",
        applies=False,
    )


def tensorrt_rtx(host: Host) -> Check:
    """TensorRT-RTX: its parser checks exports on machines without a GPU."""
    found = version("tensorrt_rtx") or version("tensorrt-rtx")
    if found:
        return Check("TensorRT-RTX", True, found, "exported graphs can be parsed and built without a GPU")
    means = "exports are not checked against a TensorRT parser here"
    return Check("TensorRT-RTX", False, "not installed", means, "pip install 'jetlens[trt-rtx]' (x86)", applies=False)
