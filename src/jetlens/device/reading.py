"""Reading: what a machine's sensors say at one moment, whatever they were read from; what is not measured is None and never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Core", "Polled", "Reading", "merge", "power_label"]

_MEANING = {"VDD_IN": "whole module", "POM_5V_IN": "whole module", "VIN": "whole board"}
# Sensors that answer a constant: 100 C or 50 C on every board.
_NO_SENSOR = ("PMIC", "PMIC-Die")


@dataclass(frozen=True, slots=True)
class Core:
    """One processor core; an offline one has neither load nor clock."""

    percent: float | None = None
    mhz: float | None = None
    online: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment.

    Attributes:
        at_s: of ``time.perf_counter()``, when the values were taken.
        cpu_percent: mean of the cores that are online.
        rails_w: power now, by the sensor's own name.
        counters_j: energy since some start, by name; only differences mean anything.
        whole: the names in rails_w or counters_j that add up to the power that is reported; empty where none can.
        throttling: why clocks are held down right now; None where nothing tells.
    """

    at_s: float = 0.0
    cpu_percent: float | None = None
    cores: tuple[Core, ...] = ()
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    swap_used_mib: float | None = None
    swap_total_mib: float | None = None
    gpu_percent: float | None = None
    gpu_mhz: float | None = None
    gpu_memory_used_mib: float | None = None
    gpu_memory_total_mib: float | None = None
    memory_bus_percent: float | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    rails_w: Mapping[str, float] = field(default_factory=dict)
    counters_j: Mapping[str, float] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    throttling: tuple[str, ...] | None = None

    @property
    def power_w(self) -> float | None:
        """Power now of all that ``whole`` names; None where one of them does not say."""
        if not self.whole or any(name not in self.rails_w for name in self.whole):
            return None
        return sum(self.rails_w[name] for name in self.whole)

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of those that are really measured."""
        return max((value for name, value in self.temperatures_c.items() if name not in _NO_SENSOR), default=None)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Reading:
        """The reading that ``dataclasses.asdict`` wrote, perhaps by way of JSON."""
        known = {row.name for row in fields(Reading)}
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
        }
        given["cores"] = tuple(Core(**core) for core in given.get("cores", ()))
        return Reading(**given)


class Polled:
    """A source that is read in the caller's thread and starts no program; see ``readers.Reader``."""

    def cost_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing was started."""


def merge(readings: Iterable[Reading]) -> Reading:
    """One reading out of several sources'; for what two of them measure the first one counts, and the parts of the power add up."""
    rows = list(readings)
    values: dict[str, Any] = {}
    for row in fields(Reading):
        found = [getattr(reading, row.name) for reading in rows]
        if row.name in ("temperatures_c", "rails_w", "counters_j"):
            values[row.name] = {name: value for mapping in reversed(found) for name, value in mapping.items()}
        elif row.name in ("whole", "throttling"):
            known = [names for names in found if names is not None]
            values[row.name] = tuple(dict.fromkeys(name for names in known for name in names)) if known else None
        elif row.name == "at_s":
            values[row.name] = next((value for value in found if value), 0.0)
        else:
            values[row.name] = next((value for value in found if value is not None and value != ()), row.default)
    return Reading(**values)


def power_label(whole: Iterable[str]) -> str:
    """What a power figure covers, such as ``VDD_IN (whole module)``; empty for nothing."""
    return " + ".join(f"{name} ({_MEANING[name]})" if name in _MEANING else name for name in whole)
