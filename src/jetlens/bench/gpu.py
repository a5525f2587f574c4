"""peak_tflops: what a GPU's cores could do at most, from their number and clock: a figure on paper, not a measurement."""

from __future__ import annotations

from typing import Any

from jetlens.device.machine import Machine, machine
from jetlens.device.smi import visible_gpu
from jetlens.device.state import read_state
from jetlens.registry import installed, require

__all__ = ["peak_tflops"]

# fp16 multiply-adds of the CUDA cores for one in fp32, by compute capability; tensor cores, which do more, are left out.
_HALF_RATES = {
    "5.3": 2, "6.0": 2, "6.1": 1 / 64, "6.2": 2, "7.0": 2, "7.2": 2, "7.5": 2, "8.0": 4, "8.6": 1, "8.7": 2, "8.9": 1, "9.0": 2,
}  # fmt: skip
# Part of a board's name, the memory that it has at least, its CUDA cores, its compute capability; the first that fits.
_BOARDS = (
    ("AGX Orin", 40_000, 2048, "8.7"),
    ("AGX Orin", 0, 1792, "8.7"),
    ("Orin NX", 0, 1024, "8.7"),
    ("Orin Nano", 5_000, 1024, "8.7"),
    ("Orin Nano", 0, 512, "8.7"),
    ("Xavier NX", 0, 384, "7.2"),
    ("AGX Xavier", 0, 512, "7.2"),
    ("TX2", 0, 256, "6.2"),
    ("TX1", 0, 256, "5.3"),
    ("Nano", 0, 128, "5.3"),
)


def peak_tflops(facts: Machine | None = None, highest_mhz: float | None = None) -> dict[str, Any]:
    """The GPU's name, cores, highest clock and what follows from them: ``fp32`` and ``fp16`` in TFLOPS (2 for each multiply-add).

    Empty where there is no GPU or nothing tells; fp16 is left out for a compute capability whose rate is not known here.

    Args:
        facts: this machine's if not given; ``highest_mhz`` of its GPU too.
    """
    facts = facts or machine()
    if facts.jetson is None:
        return _from_nvml()
    mhz = highest_mhz or read_state().gpu_highest_mhz
    row = next((row for row in _BOARDS if row[0] in facts.jetson.model and (facts.memory_mib or 0) >= row[1]), None)
    return {} if row is None or not mhz else _figures(facts.jetson.model, row[2], mhz, row[3])


def _from_nvml() -> dict[str, Any]:
    if not installed("pynvml"):
        return {}
    pynvml = require("pynvml", extra="gpu", why="the GPU's cores and clock")
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, AttributeError, OSError):
        return {}
    try:
        name = visible_gpu(0)
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
        cores, mhz = pynvml.nvmlDeviceGetNumGpuCores(handle), pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        title = pynvml.nvmlDeviceGetName(handle)
        return _figures(title.decode() if isinstance(title, bytes) else str(title), cores, mhz, f"{major}.{minor}")
    except (pynvml.NVMLError, AttributeError, TypeError, ValueError):
        return {}
    finally:
        pynvml.nvmlShutdown()


def _figures(name: str, cores: int, mhz: float, capability: str) -> dict[str, Any]:
    if cores <= 0 or mhz <= 0:
        return {}
    full = 2 * cores * mhz / 1e6
    rate = _HALF_RATES.get(capability)
    half = {} if rate is None else {"fp16": full * rate}
    return {"name": name, "cores": int(cores), "highest_mhz": float(mhz), "compute_capability": capability, "fp32": full, **half}
