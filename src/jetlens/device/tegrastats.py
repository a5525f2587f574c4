"""The lines of tegrastats, of every JetPack: fields are known by their form and not by their place; an unknown one is kept as it came."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jetlens.device.reading import Core, Reading

__all__ = ["Rail", "Refusal", "TegraLine", "parse_line", "total_rails"]

_WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that feed the whole module (VIN: the board), by which every other is fed."""
_SUMS = (
    # VDDQ_VDD2_1V8AO hangs on the 5 V rail and is left out: it would count twice.
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""Boards without such a rail (AGX Orin, Thor, AGX Xavier): those that add up to the module."""
_NOISE = 1.02
_LONGEST = 8192
_COLDEST_C = -50.0


@dataclass(frozen=True, slots=True)
class Rail:
    """Power of one rail in watts: now, and the average since tegrastats began."""

    now_w: float
    average_w: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that says nothing of the machine, such as a prompt or a date."""

    line: str
    why: str


@dataclass(frozen=True, slots=True)
class TegraLine:
    """One line of tegrastats.

    Attributes:
        time: the date and time that it was printed with, if any.
        gpu_mhz: of each GPU cluster.
        engines: other engines' clocks in MHz, such as NVENC; None for one that is off.
        unknown: fields of a form that is not known, as they came.
    """

    time: str = ""
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    swap_used_mib: float | None = None
    swap_total_mib: float | None = None
    cores: tuple[Core, ...] = ()
    gpu_percent: float | None = None
    gpu_mhz: tuple[float, ...] = ()
    memory_bus_percent: float | None = None
    memory_bus_mhz: float | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    rails: Mapping[str, Rail] = field(default_factory=dict)
    engines: Mapping[str, float | None] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def reading(self, at_s: float) -> Reading:
        """The line as a reading that was taken at a time."""
        loads = [core.percent for core in self.cores if core.percent is not None]
        rails_w = {name: rail.now_w for name, rail in self.rails.items()}
        return Reading(
            at_s=at_s,
            cpu_percent=sum(loads) / len(loads) if loads else None,
            cores=self.cores,
            memory_used_mib=self.memory_used_mib,
            memory_total_mib=self.memory_total_mib,
            swap_used_mib=self.swap_used_mib,
            swap_total_mib=self.swap_total_mib,
            gpu_percent=self.gpu_percent,
            gpu_mhz=max(self.gpu_mhz, default=None),
            memory_bus_percent=self.memory_bus_percent,
            temperatures_c=self.temperatures_c,
            rails_w=rails_w,
            whole=total_rails(rails_w),
        )


def parse_line(line: str) -> TegraLine | Refusal:
    """What a line says, or why it is none of tegrastats; nothing raises, whatever the line."""
    if not line.strip():
        return Refusal(line, "the line is empty")
    if len(line) > _LONGEST:
        return Refusal(line[:80], f"the line has more than {_LONGEST} characters")
    values, unknown, position = _Values(), [], 0
    while word := _WORD.search(line, position):
        for pattern, take in _FIELDS:
            found = pattern.match(line, word.start())
            if found:
                take(values, found)
                position = found.end()
                break
        else:
            unknown.append(word[0])
            position = word.end()
    if values.single.get("memory_total_mib") is None and not values.single.get("cores"):
        return Refusal(line, "neither RAM nor CPU is in it: not a line of tegrastats")
    return TegraLine(
        **values.single, temperatures_c=values.temperatures, rails=values.rails, engines=values.engines, unknown=tuple(unknown)
    )


def total_rails(rails_w: Mapping[str, float]) -> tuple[str, ...]:
    """The rails that add up to the module's power; none where they are not known, or where the labels cannot be right.

    Some releases swap the labels of the Nano's sensor: a part then draws more than the whole.
    """
    for name in _WHOLE:
        if name in rails_w:
            part = max((watts for other, watts in rails_w.items() if other != name), default=0.0)
            return (name,) if part <= rails_w[name] * _NOISE else ()
    return next((names for names in _SUMS if all(name in rails_w for name in names)), ())


class _Values:
    """What the fields of a line gave so far."""

    def __init__(self) -> None:
        self.single: dict[str, Any] = {}
        self.temperatures: dict[str, float] = {}
        self.rails: dict[str, Rail] = {}
        self.engines: dict[str, float | None] = {}


def _time(values: _Values, found: re.Match[str]) -> None:
    values.single["time"] = found[1]


def _memory(values: _Values, found: re.Match[str]) -> None:
    scale = {"k": 1 / 1024, "M": 1.0, "G": 1024.0}[found["unit"]]
    kind = {"RAM": "memory", "SWAP": "swap"}.get(found["name"])
    if kind is not None:
        values.single[f"{kind}_used_mib"] = float(found["used"]) * scale
        values.single[f"{kind}_total_mib"] = float(found["total"]) * scale


def _cores(values: _Values, found: re.Match[str]) -> None:
    shared = float(found["mhz"]) if found["mhz"] else None
    cores = []
    for text in found["cores"].split(","):
        core = re.fullmatch(r"([0-9]{1,7})%(?:@([0-9]{1,7}))?", text.strip())
        if core is None:
            cores.append(Core(online=False))
        else:
            cores.append(Core(float(core[1]), float(core[2]) if core[2] else shared))
    values.single["cores"] = tuple(cores)


def _engine(values: _Values, found: re.Match[str]) -> None:
    parts = found.groupdict()
    name = parts["name"].removesuffix("_FREQ")
    percent = float(parts["percent"]) if parts.get("percent") else None
    clocks = tuple(float(mhz) for mhz in (parts["clocks"] or parts["clock"] or "").split(",") if mhz)
    if name == "GR3D":
        values.single.update(gpu_percent=percent, gpu_mhz=clocks)
    elif name == "EMC":
        values.single.update(memory_bus_percent=percent, memory_bus_mhz=max(clocks, default=None))
    else:
        values.engines[name] = max(clocks, default=None)


def _off(values: _Values, found: re.Match[str]) -> None:
    name = found["name"].removesuffix("_FREQ")
    if name not in ("GR3D", "EMC"):
        values.engines[name] = None


def _temperature(values: _Values, found: re.Match[str]) -> None:
    celsius = float(found["celsius"])
    # A zone whose part is switched off answers -256.
    if celsius > _COLDEST_C:
        values.temperatures[found["name"]] = celsius


def _rail(values: _Values, found: re.Match[str]) -> None:
    values.rails[found["name"]] = Rail(float(found["now"]) / 1000, float(found["average"]) / 1000)


def _nothing(values: _Values, found: re.Match[str]) -> None:
    """A field that is known and tells nothing that is used here."""


_WORD = re.compile(r"\S+")
_END = r"(?=\s|$)"
_NAME = r"(?P<name>[A-Za-z][\w.-]{0,40})"
_FIELDS: tuple[tuple[re.Pattern[str], Callable[[_Values, re.Match[str]], None]], ...] = tuple(
    (re.compile(pattern + _END, re.ASCII), take)
    for pattern, take in (
        (r"([0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2})", _time),
        (r"(?P<name>RAM|SWAP|IRAM) (?P<used>[0-9]{1,9})/(?P<total>[0-9]{1,9})(?P<unit>[kMG])B(?: ?\([^()]{0,40}\))?", _memory),
        (r"(?:CPU|cpu) \[(?P<cores>[^\[\]]{0,4000})\](?:@(?P<mhz>[0-9]{1,7}))?", _cores),
        (r"MTS fg [0-9]{1,3}% bg [0-9]{1,3}%", _nothing),
        (_NAME + r"@(?P<celsius>-?[0-9]{1,4}(?:\.[0-9]{1,6})?)C(?:/-?[0-9.]{1,12}C)*", _temperature),
        (_NAME + r" (?P<now>[0-9]{1,7})(?:mW)?/(?P<average>[0-9]{1,7})(?:mW)?(?:/[0-9]{1,7}(?:mW)?)*", _rail),
        (_NAME + r" off", _off),
        (_NAME + r" (?P<percent>[0-9]{1,3})%(?:@(?:\[(?P<clocks>[0-9]{1,7}(?:,[0-9]{1,7}){0,15})\]|(?P<clock>[0-9]{1,7})))?", _engine),
        (_NAME + r" @?(?:\[(?P<clocks>[0-9]{1,7}(?:,[0-9]{1,7}){0,15})\]|(?P<clock>[0-9]{1,7}))", _engine),
    )
)
