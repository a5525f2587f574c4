"""What this machine can run, what is missing, what that means and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from jetlens.backends import BACKENDS
from jetlens.doctor import hardware, media, packages, runtimes, toolkit
from jetlens.doctor.check import Check, Host, guarded
from jetlens.doctor.commands import Ability, abilities

__all__ = ["Ability", "Check", "abilities", "diagnose"]

_CHECKS: dict[str, Callable[[Host], Check | Iterator[Check]]] = {
    "system": hardware.system,
    "memory": hardware.memory,
    "swap": hardware.swap,
    "disk": hardware.disk,
    "Jetson": hardware.jetson,
    "power mode": hardware.power_mode,
    "clocks": hardware.clocks,
    "GPU": hardware.gpu,
    "CUDA": toolkit.cuda,
    "nvcc": toolkit.nvcc,
    "cuDNN": toolkit.cudnn,
    "TensorRT": toolkit.tensorrt,
    "cuda-python": toolkit.python_cuda,
    "TensorRT-RTX": toolkit.tensorrt_rtx,
    **{f"backend {name}": partial(runtimes.backend, name) for name in BACKENDS},
    "ONNX Runtime on the GPU": runtimes.providers,
    "shipped models": packages.models,
    "NumPy": packages.numpy,
    **{name: packages.package(name) for name in packages.OPTIONAL},
    "OpenCV": media.opencv,
    "PyAV": media.pyav,
    "GStreamer": media.gstreamer,
    "NVENC": media.encoder,
    "cameras": hardware.cameras,
}


def diagnose(root: Path = Path("/")) -> Iterator[Check]:
    """The checks one by one, as each is done; a check that fails says so and raises nothing.

    Args:
        root: where the machine's files and programs are looked for; Python packages are this Python's.
    """
    host = Host.at(root)
    for name, check in _CHECKS.items():
        yield from guarded(name, check, host)
