"""What this machine can run, what is missing, what that means and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    "video decoder": media.decoder,
    "NVENC": media.encoder,
    "cameras": hardware.cameras,
}
_SLOWEST = "backend pytorch"
"""Importing torch takes seconds in a process of its own: it runs while the checks before it do."""


def diagnose(root: Path = Path("/")) -> Iterator[Check]:
    """The checks one by one, as each is done; a check that fails says so and raises nothing.

    Args:
        root: where the machine's files and programs are looked for; Python packages are this Python's.
    """
    host = Host.at(root)
    with ThreadPoolExecutor(1) as early:
        slowest = early.submit(lambda: list(guarded(_SLOWEST, _CHECKS[_SLOWEST], host)))
        for name, check in _CHECKS.items():
            yield from slowest.result() if name == _SLOWEST else guarded(name, check, host)
