"""Power that the kernel measures: the energy counters of RAPL on a PC, the INA3221 rails and the GPU of a Jetson."""

from __future__ import annotations

import time
from pathlib import Path

from jetlens.device.files import read_number, read_text
from jetlens.device.reading import Polled, Reading
from jetlens.device.tegrastats import total_rails

__all__ = ["JetsonSensors", "Rapl", "gpu_clock_folder"]

_GPU_FOLDERS = ("sys/class/devfreq/*.gpu", "sys/class/devfreq/*.gv11b", "sys/class/devfreq/*.gp10b", "sys/class/devfreq/gpu-gpc-0")
_GPU_LOADS = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")


class Rapl(Polled):
    """The energy counters of the processor's packages and memory; power is their change since the reading before."""

    name = "RAPL"

    def __init__(self, root: Path = Path("/")) -> None:
        folder = root / "sys/class/powercap"
        self._domains: dict[str, Path] = {}
        # Only packages with their memory: cores and uncore are parts of a package, psys is not on every machine what it says.
        for domain in sorted(folder.glob("intel-rapl:[0-9]*")):
            name = read_text(domain / "name").strip()
            package = read_text(domain.parent / domain.name.rpartition(":")[0] / "name").strip()
            if name.startswith("package"):
                self._domains[f"{name} (RAPL)"] = domain
            elif name == "dram":
                self._domains[f"{package} dram (RAPL)".lstrip()] = domain
        self.why_no_power = self._problem(folder)
        self._last: dict[str, tuple[float, float]] = {}
        self._turns: dict[str, float] = {}

    def _problem(self, folder: Path) -> str:
        if not self._domains:
            return "the kernel shows no energy counters (RAPL): usual in containers, virtual machines and on ARM"
        if all(read_number(domain / "energy_uj") is None for domain in self._domains.values()):
            return f"the energy counters (RAPL) are for root only: sudo chmod -R a+r {folder}/"
        return ""

    def read(self) -> Reading:
        """Counters, and from the second reading on power."""
        at_s, counters, rails = time.perf_counter(), {}, {}
        for name, domain in self._domains.items():
            microjoules = read_number(domain / "energy_uj")
            if microjoules is None:
                continue
            before = self._last.get(name)
            if before is not None and microjoules < before[1]:
                self._turns[name] = self._turns.get(name, 0.0) + (read_number(domain / "max_energy_range_uj") or 0.0)
            if before is not None and at_s > before[0]:
                change = (microjoules - before[1]) % (read_number(domain / "max_energy_range_uj") or float("inf"))
                rails[name] = change / 1e6 / (at_s - before[0])
            self._last[name] = (at_s, microjoules)
            counters[name] = (microjoules + self._turns.get(name, 0.0)) / 1e6
        return Reading(at_s=at_s, rails_w=rails, counters_j=counters, whole=tuple(counters))


class JetsonSensors(Polled):
    """Rails, load and clock of a Jetson's GPU as its kernel shows them: where tegrastats is absent, as in a container."""

    name = "Jetson sysfs"

    def __init__(self, root: Path = Path("/")) -> None:
        self._rails = _hwmon_rails(root) or _iio_rails(root)
        gpu = gpu_clock_folder(root)
        self._clock = gpu / "cur_freq" if gpu else None
        loads = [root / name for name in _GPU_LOADS] + ([gpu / "device/load"] if gpu else [])
        self._load = next((path for path in loads if read_number(path) is not None), None)
        self.why_no_power = "" if self.read().whole else "the kernel shows no power rail (INA3221) that covers the module"

    def found(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._rails) or self._load is not None

    def read(self) -> Reading:
        """Power of every rail, the GPU's load and its clock."""
        rails = {}
        for name, factors in self._rails.items():
            numbers = [read_number(path) for path, _ in factors]
            if all(number is not None for number in numbers):
                watts = 1.0
                for number, (_, scale) in zip(numbers, factors, strict=True):
                    watts *= (number or 0.0) * scale
                rails[name] = watts
        load = read_number(self._load) if self._load else None
        clock = read_number(self._clock) if self._clock else None
        return Reading(
            at_s=time.perf_counter(),
            gpu_percent=None if load is None else load / 10,
            gpu_mhz=None if clock is None else clock / 1e6,
            rails_w=rails,
            whole=total_rails(rails),
        )


def gpu_clock_folder(root: Path = Path("/")) -> Path | None:
    """Where a Jetson's kernel shows the clock of the GPU and its limits; None elsewhere."""
    return next((path for pattern in _GPU_FOLDERS for path in sorted(root.glob(pattern))), None)


_Factors = tuple[tuple[Path, float], ...]


def _hwmon_rails(root: Path) -> dict[str, _Factors]:
    """Rail name to the files whose product is its power: volts in mV and amperes in mA (JetPack 5 and later)."""
    found: dict[str, _Factors] = {}
    for label in sorted(root.glob("sys/class/hwmon/hwmon*/in[0-9]_label")):
        number, folder = label.name[2], label.parent
        name = read_text(label).strip()
        files = ((folder / f"in{number}_input", 1e-3), (folder / f"curr{number}_input", 1e-3))
        if name and name not in ("NC", "sum of shunt voltages") and all(path.is_file() for path, _ in files):
            found[name] = files
    return found


def _iio_rails(root: Path) -> dict[str, _Factors]:
    """The same in mW, as JetPack 4 shows it."""
    found: dict[str, _Factors] = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_[0-9]")):
        name = read_text(label).strip()
        if name and name != "NC":
            found[name] = ((label.parent / f"in_power{label.name[-1]}_input", 1e-3),)
    return found
