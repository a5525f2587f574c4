"""What Linux says of the machine and its processes in /proc and /sys: load, memory, clocks, temperatures."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jetlens.device.files import read_number, read_text
from jetlens.device.reading import Core, Polled, Reading

__all__ = [
    "CpuClocks",
    "Memory",
    "ProcessMemory",
    "Processor",
    "cpu_clocks",
    "process_cpu_s",
    "process_memory",
    "read_memory",
    "rows",
    "temperatures",
    "thermal_limits",
]


_LIMITS = re.compile("cpufreq|cpu-|cpu_|gpu|devfreq|processor", re.IGNORECASE)
"""Cooling devices that slow down; fans are none."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in MiB within the container's limit, and swap; None where /proc does not say."""

    total_mib: int | None = None
    available_mib: int | None = None
    swap_total_mib: int | None = None
    swap_used_mib: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Resident memory of one process in MiB: now and at its highest."""

    rss_mib: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class CpuClocks:
    """How the processor's clock is governed; None and empty where cpufreq is absent, as in most containers.

    Attributes:
        governor: such as performance or schedutil; several with a comma.
    """

    governor: str = ""
    mean_mhz: float | None = None
    lowest_mhz: float | None = None
    highest_mhz: float | None = None


class Processor(Polled):
    """Load of each core since the reading before, memory, swap and temperatures.

    Args:
        clocks: read each core's clock too; it costs a file a core.
    """

    name = "/proc"
    why_no_power = ""

    def __init__(self, *, clocks: bool = False, root: Path = Path("/")) -> None:
        self._root, self._clocks = root, clocks
        self._before = _ticks(root)

    def read(self) -> Reading:
        """Loads are None until some time has passed."""
        at_s, now = time.perf_counter(), _ticks(self._root)
        loads = {name: _load(self._before.get(name), ticks) for name, ticks in now.items()}
        self._before = now
        memory = read_memory(self._root)
        used = None if memory.total_mib is None or memory.available_mib is None else memory.total_mib - memory.available_mib
        return Reading(
            at_s=at_s,
            cpu_percent=loads.get("cpu"),
            cores=tuple(Core(load, self._clock(name)) for name, load in loads.items() if name != "cpu"),
            memory_used_mib=used,
            memory_total_mib=memory.total_mib,
            swap_used_mib=memory.swap_used_mib,
            swap_total_mib=memory.swap_total_mib,
            temperatures_c=temperatures(self._root),
            throttling=thermal_limits(self._root),
        )

    def _clock(self, core: str) -> float | None:
        khz = read_number(self._root / f"sys/devices/system/cpu/{core}/cpufreq/scaling_cur_freq") if self._clocks else None
        return None if khz is None else khz / 1000


def read_memory(root: Path = Path("/")) -> Memory:
    """Memory and swap of the machine, or of the container where its limit is lower."""
    table = dict(rows(read_text(root / "proc/meminfo").splitlines()))
    total, available, swap, swap_free = (_mib(table.get(name, "")) for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"))
    limit = read_text(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdecimal() and total is not None and int(limit) >> 20 < total:
        total = int(limit) >> 20
        used = read_text(root / "sys/fs/cgroup/memory.current").strip()
        if used.isdecimal() and available is not None:
            available = min(available, max(0, total - (int(used) >> 20)))
    return Memory(total, available, swap, None if swap is None or swap_free is None else swap - swap_free)


def process_memory(pid: int | None = None, root: Path = Path("/")) -> ProcessMemory | None:
    """Resident memory of a process, this one by default; None where it has ended or /proc is absent."""
    table = dict(rows(read_text(root / f"proc/{os.getpid() if pid is None else pid}/status").splitlines()))
    now, peak = (re.match(r"([0-9]{1,15}) kB", table.get(name, "")) for name in ("VmRSS", "VmHWM"))
    return ProcessMemory(int(now[1]) / 1024, int(peak[1]) / 1024) if now and peak else None


def process_cpu_s(pid: int) -> float | None:
    """Processor time that a process has used; None where it has ended or /proc is absent."""
    numbers = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    ticks = numbers[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") if len(ticks) == 2 and all(tick.isdecimal() for tick in ticks) else None


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Every thermal zone's temperature in degrees Celsius; zones of one name get a number."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_number_in_name):
        value = read_number(zone / "temp")
        name = read_text(zone / "type").strip().removesuffix("-thermal") or zone.name
        if value is not None and -50_000 < value < 250_000:
            found[name if name not in found else f"{name} {_number_in_name(zone)}"] = value / 1000
    return found


def cpu_clocks(root: Path = Path("/")) -> CpuClocks:
    """Governor, limits and mean clock of all cores."""
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = sorted({name for folder in folders if (name := read_text(folder / "scaling_governor").strip())})

    def each(file: str) -> list[float]:
        return [khz / 1000 for folder in folders if (khz := read_number(folder / file)) is not None]

    now, lowest, highest = each("scaling_cur_freq"), each("scaling_min_freq"), each("scaling_max_freq")
    now = now or [
        float(mhz) for mhz in re.findall(r"^cpu MHz\s*: ([0-9]{1,6}[.]?[0-9]{0,4})$", read_text(root / "proc/cpuinfo"), re.MULTILINE)
    ]
    return CpuClocks(", ".join(governors), sum(now) / len(now) if now else None, min(lowest, default=None), max(highest, default=None))


def thermal_limits(root: Path = Path("/")) -> tuple[str, ...] | None:
    """What slows the processor or the GPU down for their heat at this moment; None where the kernel shows no cooling devices."""
    devices = sorted((root / "sys/class/thermal").glob("cooling_device*"), key=_number_in_name)
    names = [(read_text(device / "type").strip(), read_number(device / "cur_state")) for device in devices]
    limits = [(name, state) for name, state in names if _LIMITS.search(name) and state is not None]
    return tuple(dict.fromkeys(f"thermal limit on {name}" for name, state in limits if state > 0)) if limits else None


def rows(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Name and value of every line of the form ``name: value``."""
    for line in lines:
        key, separator, value = line.partition(":")
        if separator:
            yield key.strip(), value.strip()


def _ticks(root: Path) -> Mapping[str, tuple[int, int]]:
    """Busy and total ticks of the whole processor (cpu) and of each core (cpu0 ...) since the start."""
    found = {}
    for line in read_text(root / "proc/stat").splitlines():
        name, *numbers = line.split()
        if not name.startswith("cpu"):
            break
        if len(numbers) >= 5 and all(number.isdecimal() for number in numbers):
            ticks = [int(number) for number in numbers[:8]]
            found[name] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def _load(before: tuple[int, int] | None, now: tuple[int, int]) -> float | None:
    if before is None or now[1] <= before[1]:
        return None
    return min(100.0, max(0.0, 100 * (now[0] - before[0]) / (now[1] - before[1])))


def _mib(text: str) -> int | None:
    number = text.partition(" ")[0]
    return int(number) // 1024 if number.isdecimal() and len(number) < 18 else None


def _number_in_name(path: Path) -> int:
    return int(re.sub(r"\D", "", path.name) or 0)
