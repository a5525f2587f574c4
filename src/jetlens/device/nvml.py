"""NVIDIA's management library, by way of nvidia-ml-py: load, memory, power, clocks and what holds them down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from jetlens.device.reading import Polled, Reading
from jetlens.device.smi import GpuState, gpu_reading, plausible_power, throttling, visible_gpu
from jetlens.registry import installed, require

__all__ = ["Nvml", "open_nvml", "process_memory_mib"]

T = TypeVar("T")
_MIB = 2**20


class Nvml(Polled):
    """One GPU through NVML; what the driver does not support is None.

    Args:
        pynvml: the module, initialised.
        gpu: the GPU as CUDA counts those that are visible.
        power: whether its power counts; on a Jetson it is a part of the module's.
    """

    name = "NVML"

    def __init__(self, pynvml: Any, gpu: int = 0, *, power: bool = True) -> None:
        name = visible_gpu(gpu)
        self._pynvml, self._gpu, self._power = pynvml, name if name.isdigit() else gpu, power
        self._handle: Any = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID(name)
        self._limit_w = self._ask("nvmlDeviceGetEnforcedPowerLimit", lambda value: float(value) / 1000)
        self.why_no_power = "" if not power or self.read().whole else "the GPU's driver does not measure power"

    def read(self) -> Reading:
        """The GPU now."""
        at_s, rail = time.perf_counter(), f"GPU {self._gpu} (NVML)"
        reading = gpu_reading(self._now(), rail, at_s)
        if not self._power:
            return replace(reading, rails_w={}, whole=())
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption", float)
        return reading if millijoules is None else replace(reading, counters_j={rail: millijoules / 1000}, whole=(rail,))

    def state(self) -> GpuState:
        """The GPU now, with its limits and its name."""
        highest = self._ask("nvmlDeviceGetMaxClockInfo", float, self._pynvml.NVML_CLOCK_SM)
        name = self._ask("nvmlDeviceGetName", lambda value: value.decode() if isinstance(value, bytes) else str(value)) or ""
        return replace(self._now(), power_limit_w=self._limit_w, highest_mhz=highest, name=name)

    def process_mib(self, pid: int) -> float | None:
        """Memory of a process on the GPU; None where it uses none or the driver hides it, as in containers."""
        rows = self._ask("nvmlDeviceGetComputeRunningProcesses", list) or []
        return next((row.usedGpuMemory / _MIB for row in rows if row.pid == pid and row.usedGpuMemory), None)

    def close(self) -> None:
        """Frees the library; twice is allowed."""
        if self._handle is not None:
            self._handle = None
            self._pynvml.nvmlShutdown()

    def _now(self) -> GpuState:
        pynvml = self._pynvml
        use = self._ask("nvmlDeviceGetUtilizationRates", lambda rates: float(rates.gpu))
        memory = self._ask("nvmlDeviceGetMemoryInfo", lambda info: (info.used / _MIB, info.total / _MIB))
        power = self._ask("nvmlDeviceGetPowerUsage", lambda value: float(value) / 1000)
        mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", int)
        return GpuState(
            percent=use,
            memory_used_mib=memory[0] if memory else None,
            memory_total_mib=memory[1] if memory else None,
            power_w=plausible_power(power, self._limit_w),
            temperature_c=self._ask("nvmlDeviceGetTemperature", float, pynvml.NVML_TEMPERATURE_GPU),
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", float, pynvml.NVML_CLOCK_SM),
            throttling=None if mask is None else throttling(mask),
        )

    def _ask(self, name: str, convert: Callable[[Any], T], *arguments: int) -> T | None:
        """What one of NVML's functions answers; None where the binding lacks it or the driver does not support it."""
        function = getattr(self._pynvml, name, None)
        if function is None or self._handle is None:
            return None
        try:
            return convert(function(self._handle, *arguments))
        except (self._pynvml.NVMLError, AttributeError, TypeError, ValueError, UnicodeError):
            return None


def open_nvml(gpu: int = 0, *, power: bool = True) -> Nvml | None:
    """NVML on one GPU; None where nvidia-ml-py, the driver or the GPU is absent."""
    if not installed("pynvml"):
        return None
    pynvml = require("pynvml", extra="gpu", why="the GPU's power and load")
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, AttributeError, OSError):
        return None
    try:
        return Nvml(pynvml, gpu, power=power)
    except (pynvml.NVMLError, AttributeError):
        pynvml.nvmlShutdown()
        return None


def process_memory_mib(pid: int) -> float | None:
    """Memory of a process on the GPU in MiB; None where NVML is absent or hides it."""
    nvml = open_nvml()
    if nvml is None:
        return None
    try:
        return nvml.process_mib(pid)
    finally:
        nvml.close()
