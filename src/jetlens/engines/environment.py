"""Environment: what an engine is tied to, read without creating a CUDA context."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jetlens.device import find_gpus
from jetlens.device.machine import parse_tegra_release
from jetlens.registry import installed

__all__ = ["Environment", "read_environment"]

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_RUNTIME_PACKAGES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11")


@dataclass(frozen=True, slots=True)
class Environment:
    """What decides, besides the model and the options, whether an engine fits; an empty text is unknown here.

    Attributes:
        cuda: version of the CUDA runtime.
        driver: release of the GPU's driver, such as 580.65.06; on a Jetson the CUDA version that the driver supports.
        gpu: name of the first GPU that ``CUDA_VISIBLE_DEVICES`` shows.
        sm: its compute capability, such as 8.7.
        l4t: release of a Jetson's Linux; ``none`` elsewhere.
        plugins: number and hash of the plugin creators that are registered.
    """

    tensorrt: str = ""
    cuda: str = ""
    driver: str = ""
    gpu: str = ""
    sm: str = ""
    l4t: str = ""
    plugins: str = ""
    platform: str = ""


@cache
def read_environment() -> Environment:
    """The facts of this process's machine, read once; nothing here raises."""
    name, capability, supported = _device()
    return Environment(
        tensorrt=_tensorrt(),
        cuda=_cuda_runtime(),
        driver=_driver(Path("/proc/driver/nvidia/version")) or (f"CUDA {supported}" if supported else ""),
        gpu=name,
        sm=capability,
        l4t=_l4t(Path("/etc/nv_tegra_release")),
        plugins=_plugins(),
        platform=f"{platform.system().lower()}-{platform.machine()}",
    )


def _device() -> tuple[str, str, str]:
    """Name and compute capability of CUDA's first device, and the CUDA version that the driver supports.

    The driver's library is asked, since it alone knows the order of the devices and which of them are visible; nvidia-smi answers only
    where that library does not, and all GPUs are alike.
    """
    found = _from_driver()
    if found is not None:
        return found
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    gpus = set() if hidden else {(gpu.name, gpu.compute_capability) for gpu in find_gpus()}
    return (*gpus.pop(), "") if len(gpus) == 1 else ("", "", "")


def _from_driver() -> tuple[str, str, str] | None:
    """What libcuda says; None where there is none or it fails, empty texts where no device is visible."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, version, device, major, minor = (ctypes.c_int() for _ in range(5))
    name = ctypes.create_string_buffer(256)
    no_device = 100
    status = cuda.cuInit(0)
    if status:
        return ("", "", "") if status == no_device else None
    cuda.cuDriverGetVersion(ctypes.byref(version))
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return "", "", supported
    failed = cuda.cuDeviceGetName(name, 256, device)
    failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return None if failed else (name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}", supported)


def _driver(version_file: Path) -> str:
    """The driver's release; the file also names the compiler, after it."""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(version_file))
    return found[1] if found else next((gpu.driver for gpu in find_gpus() if gpu.driver[:1].isdigit()), "")


def _l4t(release_file: Path) -> str:
    return parse_tegra_release(_text(release_file)) or "none"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tensorrt() -> str:
    module = _imported("tensorrt")
    return "" if module is None else str(getattr(module, "__version__", ""))


def _plugins() -> str:
    """The registered plugin creators as their number and a hash of their names and versions."""
    module = _imported("tensorrt")
    if module is None:
        return ""
    try:
        module.init_libnvinfer_plugins(None, "")
        registry = module.get_plugin_registry()
        creators = getattr(registry, "all_creators", None) or registry.plugin_creator_list
        names = sorted(f"{row.plugin_namespace}:{row.name}:{row.plugin_version}" for row in creators)
    except Exception:  # a registry that cannot be listed leaves the field unknown
        return ""
    return f"{len(names)}-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}"


def _cuda_runtime() -> str:
    """The runtime's version from the first that knows it: NVIDIA's Python package, the runtime's wheel, the toolkit's own file."""
    return next((version for way in _RUNTIMES if (version := way())), "")


def _from_cuda_python() -> str:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        module = _imported(name)
        if module is not None:
            try:
                status, number = module.cudaRuntimeGetVersion()
            except Exception:  # its library may be missing
                continue
            if not int(status):
                return f"{int(number) // 1000}.{int(number) % 1000 // 10}"
    return ""


def _from_wheel() -> str:
    for name in _RUNTIME_PACKAGES:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _from_toolkit() -> str:
    try:
        return str(json.loads(_text(Path("/usr/local/cuda/version.json")))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return ""


_RUNTIMES: tuple[Callable[[], str], ...] = (_from_cuda_python, _from_wheel, _from_toolkit)


def _imported(name: str) -> Any:
    """A module, or None where it is absent or does not import."""
    try:
        return importlib.import_module(name) if installed(name) else None
    except Exception:  # a broken installation is an unknown version here; the backend names the cause
        return None
