"""What nvidia-smi prints: its table and the rows of its queries, of every driver and system; nothing here raises."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise

from jetlens.device.reading import Reading

__all__ = ["QUERIES", "GpuState", "SmiTable", "gpu_reading", "parse_state", "parse_table", "plausible_power", "throttling", "visible_gpu"]

_COLUMNS = "utilization.gpu,memory.used,memory.total,power.draw,power.limit,temperature.gpu,clocks.sm,clocks.max.sm,pstate"
QUERIES = (f"{_COLUMNS},clocks_throttle_reasons.active", _COLUMNS)
"""What a GPU is asked; old drivers refuse the first for its last column."""
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "external power brake",
}
_OVER_LIMIT = 1.5


@dataclass(frozen=True, slots=True)
class GpuState:
    """What one GPU does now; None where the driver does not say."""

    percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    highest_mhz: float | None = None
    throttling: tuple[str, ...] | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class SmiTable:
    """The table that ``nvidia-smi`` prints by itself.

    Attributes:
        cuda: the newest CUDA that the driver can run; not one that is installed.
    """

    driver: str = ""
    cuda: str = ""
    gpus: tuple[GpuState, ...] = ()


def visible_gpu(gpu: int) -> str:
    """The driver's own name, an index or a UUID, of the GPU that CUDA counts so: CUDA_VISIBLE_DEVICES renumbers them."""
    shown = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    name = shown[gpu] if 0 <= gpu < len(shown) else ""
    return name if re.fullmatch("[0-9]{1,3}|GPU-[0-9a-fA-F-]{4,40}", name) else str(gpu)


def throttling(mask: int) -> tuple[str, ...]:
    """The reasons in NVML's mask that hold clocks down; idling and clocks that the user set are none."""
    return tuple(name for bit, name in _REASONS.items() if mask & bit)


def plausible_power(power_w: float | None, limit_w: float | None) -> float | None:
    """The power, or None where it cannot be: laptop drivers at times report several times the limit."""
    if power_w is not None and limit_w and power_w > _OVER_LIMIT * limit_w:
        return None
    return power_w


def parse_state(line: str) -> GpuState | None:
    """One row of the answer to one of QUERIES as CSV without header and units; None for any other text."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) not in (9, 10):
        return None
    numbers = [_number(part) for part in parts[:8]]
    if all(number is None for number in numbers) and not any(part.startswith("[") or part == "N/A" for part in parts):
        return None
    percent, used, total, power, limit, celsius, clock, highest = numbers
    mask = re.fullmatch("0x([0-9a-fA-F]{1,16})", parts[9]) if len(parts) == 10 else None
    reasons = throttling(int(mask[1], 16)) if mask else None
    return GpuState(percent, used, total, plausible_power(power, limit), limit, celsius, clock, highest, reasons)


def parse_table(text: str) -> SmiTable:
    """What the table says; empty where it is none."""
    driver = re.search(r"Driver Version:\s*([0-9][0-9.]{0,20})", text)
    cuda = re.search(r"CUDA Version:\s*([0-9][0-9.]{0,10})", text)
    gpus = []
    lines = text.splitlines()
    for upper, lower in pairwise(lines):
        head = re.match(r"\|\s+[0-9]{1,2}\s+(\S.*?)\s{2,}", upper)
        cells = [cell.strip() for cell in lower.split("|")[1:-1]]
        if head is None or len(cells) != 3:
            continue
        celsius = re.search(r"\b([0-9]{1,3})C\b", cells[0])
        power = re.search(r"([0-9]{1,5})W\s*/\s*([0-9]{1,5})W", cells[0])
        memory = re.fullmatch(r"([0-9]{1,9})MiB\s*/\s*([0-9]{1,9})MiB", cells[1])
        percent = re.match(r"([0-9]{1,3})%", cells[2])
        watts, limit = (float(power[1]), float(power[2])) if power else (None, None)
        gpus.append(
            GpuState(
                percent=float(percent[1]) if percent else None,
                memory_used_mib=float(memory[1]) if memory else None,
                memory_total_mib=float(memory[2]) if memory else None,
                power_w=plausible_power(watts, limit),
                power_limit_w=limit,
                temperature_c=float(celsius[1]) if celsius else None,
                name=head[1],
            )
        )
    return SmiTable(driver[1].rstrip(".") if driver else "", cuda[1].rstrip(".") if cuda else "", tuple(gpus))


def gpu_reading(state: GpuState, rail: str, at_s: float) -> Reading:
    """What one GPU does as a reading, its power under the name of a rail."""
    return Reading(
        at_s=at_s,
        gpu_percent=state.percent,
        gpu_mhz=state.clock_mhz,
        gpu_memory_used_mib=state.memory_used_mib,
        gpu_memory_total_mib=state.memory_total_mib,
        temperatures_c={} if state.temperature_c is None else {rail.partition(" (")[0]: state.temperature_c},
        rails_w={} if state.power_w is None else {rail: state.power_w},
        whole=() if state.power_w is None else (rail,),
        throttling=state.throttling,
    )


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,4})?", text, re.ASCII) else None
