"""State: what besides the program decides how fast it runs, read before and after a measurement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jetlens.device.files import ask, read_number, read_text
from jetlens.device.jetson import parse_power_mode, read_power_mode
from jetlens.device.nvml import open_nvml
from jetlens.device.power import gpu_clock_folder
from jetlens.device.proc import cpu_clocks, read_memory, temperatures, thermal_limits
from jetlens.device.reading import Reading
from jetlens.device.smi import QUERIES, GpuState, parse_state, visible_gpu

__all__ = ["State", "comparable", "differences", "gpu_state", "read_state"]

_SAME_MACHINE = (
    "power_mode",
    "governor",
    "cpu_lowest_mhz",
    "cpu_highest_mhz",
    "gpu_lowest_mhz",
    "gpu_highest_mhz",
    "gpu_limit_w",
    "on_battery",
)
"""What must be alike in two measurements that are compared."""
_WARMER_C = 10.0
_MORE_SWAP_MIB = 16


@dataclass(frozen=True, slots=True)
class State:
    """The machine's state at one moment; None and empty where it does not say.

    Attributes:
        power_mode: nvpmodel's on a Jetson, the firmware's platform profile elsewhere.
        gpu_limit_w: what the GPU may draw.
        throttling: what holds clocks down right now; None where nothing tells.
        throttle_counts: events since the machine started, by the counter's name.
        load_1m: programs that wanted a core, on average over the last minute.
    """

    power_mode: str = ""
    governor: str = ""
    cpu_mhz: float | None = None
    cpu_lowest_mhz: float | None = None
    cpu_highest_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_lowest_mhz: float | None = None
    gpu_highest_mhz: float | None = None
    gpu_limit_w: float | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttling: tuple[str, ...] | None = None
    throttle_counts: Mapping[str, int] = field(default_factory=dict)
    swap_used_mib: int | None = None
    load_1m: float | None = None
    on_battery: bool | None = None

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of those that are really measured."""
        return Reading(temperatures_c=self.temperatures_c).hottest_c

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> State:
        """What ``as_dict`` gave, perhaps by way of JSON."""
        throttling = values.get("throttling")
        return State(**{**values, "throttling": None if throttling is None else tuple(throttling)})


def read_state(root: Path = Path("/")) -> State:
    """The state now; takes some milliseconds, with nvidia-smi in NVML's place up to a second."""
    clocks, memory = cpu_clocks(root), read_memory(root)
    load = re.match(r"[0-9]{1,6}\.[0-9]{1,4}", read_text(root / "proc/loadavg"))
    state = State(
        power_mode=_power_mode(root),
        governor=clocks.governor,
        cpu_mhz=clocks.mean_mhz,
        cpu_lowest_mhz=clocks.lowest_mhz,
        cpu_highest_mhz=clocks.highest_mhz,
        temperatures_c=temperatures(root),
        throttling=thermal_limits(root),
        throttle_counts=_throttle_counts(root),
        swap_used_mib=memory.swap_used_mib,
        load_1m=float(load[0]) if load else None,
        on_battery=_on_battery(root),
    )
    folder = gpu_clock_folder(root)
    if folder is not None:
        now, lowest, highest = (_mhz(read_number(folder / name)) for name in ("cur_freq", "min_freq", "max_freq"))
        return replace(state, gpu_mhz=now, gpu_lowest_mhz=lowest, gpu_highest_mhz=highest)
    card = gpu_state() if root == Path("/") else None
    return state if card is None else _with_card(state, card)


def gpu_state(gpu: int = 0) -> GpuState | None:
    """What one NVIDIA GPU does, from NVML or else nvidia-smi; None where there is none."""
    nvml = open_nvml(gpu)
    if nvml is not None:
        try:
            return nvml.state()
        finally:
            nvml.close()
    for query in QUERIES:
        answer = ask(["nvidia-smi", f"--id={visible_gpu(gpu)}", f"--query-gpu={query}", "--format=csv,noheader,nounits"])
        state = parse_state(answer.strip())
        if state is not None:
            return state
    return None


def differences(before: State, after: State) -> tuple[str, ...]:
    """What changed between two states and may have changed a measurement; one phrase each, none where nothing did."""
    found = list(comparable(before, after))
    began = [name for name in after.throttling or () if name not in (before.throttling or ())]
    found += [f"throttling began: {name}" for name in began]
    for name, count in after.throttle_counts.items():
        more = count - before.throttle_counts.get(name, count)
        if more > 0:
            found.append(f"{name}: {more} more times")
    if before.hottest_c is not None and after.hottest_c is not None and abs(after.hottest_c - before.hottest_c) >= _WARMER_C:
        found.append(f"hottest sensor: {before.hottest_c:.0f} C -> {after.hottest_c:.0f} C")
    if before.swap_used_mib is not None and after.swap_used_mib is not None:
        more = after.swap_used_mib - before.swap_used_mib
        if more >= _MORE_SWAP_MIB:
            found.append(f"swap in use: {more} MiB more")
    return tuple(found)


def comparable(first: State, second: State) -> tuple[str, ...]:
    """Why measurements in two states do not compare: power mode, governor, limits of clocks and power; none where they do."""
    found = []
    for name in _SAME_MACHINE:
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            found.append(f"{name.replace('_', ' ')}: {_shown(one)} -> {_shown(other)}")
    return tuple(found)


def _with_card(state: State, card: GpuState) -> State:
    warm = {} if card.temperature_c is None else {"GPU 0": card.temperature_c}
    return replace(
        state,
        gpu_mhz=card.clock_mhz,
        gpu_highest_mhz=card.highest_mhz,
        gpu_limit_w=card.power_limit_w,
        temperatures_c={**state.temperatures_c, **warm},
        throttling=None if state.throttling is None and card.throttling is None else (*(state.throttling or ()), *(card.throttling or ())),
    )


def _power_mode(root: Path) -> str:
    mode = read_power_mode(root)
    if not mode.name:
        asked = parse_power_mode(ask(["nvpmodel", "-q"], root=root))
        mode = asked if asked.name else mode
    number = "" if mode.number is None else f"mode {mode.number}"
    return mode.name or number or read_text(root / "sys/firmware/acpi/platform_profile").strip()


def _throttle_counts(root: Path) -> dict[str, int]:
    """Thermal events of the processor's packages and over-current events of a Jetson."""
    packages = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count")
    currents = root.glob("sys/class/hwmon/hwmon*/oc[0-9]_event_cnt")
    return {
        name: count
        for name, paths in (("thermal throttling of the processor", packages), ("over-current throttling", currents))
        if (count := _highest(paths)) is not None
    }


def _highest(paths: Iterable[Path]) -> int | None:
    return max((int(number) for path in paths if (number := read_number(path)) is not None), default=None)


def _on_battery(root: Path) -> bool | None:
    """Whether no mains is plugged in; None where the machine has none that it could ask."""
    mains = [supply for supply in sorted((root / "sys/class/power_supply").glob("*")) if read_text(supply / "type").strip() == "Mains"]
    online = [read_number(supply / "online") for supply in mains]
    return None if not online or None in online else not any(online)


def _mhz(hertz: float | None) -> float | None:
    return None if hertz is None else hertz / 1e6


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "unknown" if value in (None, "") else str(value)
