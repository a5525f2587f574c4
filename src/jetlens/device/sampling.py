"""Sampler: what the machine does while something runs, and the energy of it; what is not measured is None and never 0."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np

from jetlens.device.readers import Reader, find_readers, source_names
from jetlens.device.reading import Reading, merge, power_label

__all__ = ["Range", "Sampler", "Samples", "net_energy_j", "sample_idle"]

_FEWEST_INTERVALS = 2
_LONGEST_GAP = 5
_GAP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Range:
    """Mean and highest of ``count`` readings that had a value."""

    mean: float
    highest: float
    count: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Readings of some time, in their order.

    Attributes:
        source: what was read, such as ``tegrastats, /proc``.
        power_rail: what the power covers, such as ``VDD_IN (whole module)``; empty where nothing measures it.
        why_no_power: the reason then; empty otherwise.
        interval_s: that was asked for.
        cpu_s: processor time that sampling took.
    """

    source: str
    power_rail: str
    why_no_power: str
    interval_s: float
    cpu_s: float
    readings: tuple[Reading, ...]

    def between(self, start_s: float, end_s: float) -> Samples:
        """The readings of a window."""
        return replace(self, readings=tuple(reading for reading in self.readings if start_s <= reading.at_s <= end_s))

    def gpu_percent(self) -> Range | None:
        """Load of the GPU."""
        found = [reading.gpu_percent for reading in self.readings if reading.gpu_percent is not None]
        return Range(sum(found) / len(found), max(found), len(found)) if found else None

    def energy_j(self, start_s: float | None = None, end_s: float | None = None) -> float | None:
        """Energy of a window, by default of all: the trapezoid of the power, or the difference of an energy counter.

        None where the readings do not cover the window, it is shorter than two intervals, or power is not known all through it.
        """
        if len(self.readings) < _FEWEST_INTERVALS:
            return None
        start = self.readings[0].at_s if start_s is None else start_s
        end = self.readings[-1].at_s if end_s is None else end_s
        margin = _FEWEST_INTERVALS * self.interval_s
        inside = [reading for reading in self.readings if start - margin <= reading.at_s <= end + margin]
        if not self._covers(inside, start, end):
            return None
        parts = [_part_j(inside, name, start, end) for name in inside[0].whole]
        return None if not parts or any(part is None for part in parts) else float(sum(part for part in parts if part is not None))

    def power_w(self, start_s: float | None = None, end_s: float | None = None) -> float | None:
        """Average power of a window, by default of all; None where the energy is not known."""
        energy = self.energy_j(start_s, end_s)
        if energy is None:
            return None
        start = self.readings[0].at_s if start_s is None else start_s
        end = self.readings[-1].at_s if end_s is None else end_s
        return energy / (end - start)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Samples:
        """What ``as_dict`` gave, perhaps by way of JSON."""
        return Samples(**{**values, "readings": tuple(Reading.from_dict(row) for row in values["readings"])})

    def _covers(self, inside: Sequence[Reading], start: float, end: float) -> bool:
        """Whether the readings, all of one power, leave no long part of the window out."""
        if end - start < _FEWEST_INTERVALS * self.interval_s or len(inside) < _FEWEST_INTERVALS:
            return False
        if any(reading.whole != inside[0].whole for reading in inside):
            return False
        longest = max(_LONGEST_GAP * self.interval_s, _GAP_SHARE * (end - start))
        times = [reading.at_s for reading in inside]
        edge = _FEWEST_INTERVALS * self.interval_s
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return max(gaps) <= longest and times[0] <= start + edge and times[-1] >= end - edge


class Sampler:
    """Reads the machine in a thread of its own while a ``with`` block runs; the first reading is taken before the block begins.

    Args:
        interval_s: between readings.
        readers: the sources instead of those of this machine; they are closed at the end.
    """

    def __init__(self, interval_s: float = 0.1, *, readers: Sequence[Reader] | None = None) -> None:
        self._interval_s = interval_s
        self._readers: list[Reader] | None = None if readers is None else list(readers)
        self._readings: list[Reading] = []
        self._spent_s = 0.0
        self._programs_s = 0.0
        self._source = ""
        self._why = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        if self._readers is None:
            self._readers = find_readers(self._interval_s)
        self._source = source_names(self._readers)
        self._take()
        self._spent_s = 0.0
        self._thread = threading.Thread(target=self._loop, daemon=True, name="sampler")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for reader in self._readers or ():
            reader.close()

    def samples(self) -> Samples:
        """What was read so far."""
        readings = tuple(self._readings)
        rail = next((power_label(reading.whole) for reading in readings if reading.whole), "")
        return Samples(
            source=self._source,
            power_rail=rail,
            why_no_power="" if rail else self._why,
            interval_s=self._interval_s,
            cpu_s=self._spent_s + self._programs_s,
            readings=readings,
        )

    def _loop(self) -> None:
        due_s = time.perf_counter() + self._interval_s
        while not self._stop.wait(max(0.0, due_s - time.perf_counter())):
            self._take()
            # A reading that came late shifts the grid: none is taken twice to catch up.
            due_s = max(due_s + self._interval_s, time.perf_counter())
        self._take()

    def _take(self) -> None:
        began_s = time.thread_time()
        readers = self._readers or ()
        # Single cores are left out: on a server they would make up most of a record.
        reading = replace(merge([reader.read() for reader in readers]), cores=())
        if not self._readings or reading.at_s > self._readings[-1].at_s:
            self._readings.append(reading)
        self._why = "; ".join(reader.why_no_power for reader in readers if reader.why_no_power)
        self._programs_s = max(self._programs_s, sum(reader.cost_s() for reader in readers))
        self._spent_s += time.thread_time() - began_s


def sample_idle(duration_s: float = 3.0, *, interval_s: float = 0.1) -> Samples:
    """What the machine does while this process waits: to be taken before the work, and subtracted from it."""
    with Sampler(interval_s) as sampler:
        time.sleep(duration_s)
    return sampler.samples()


def net_energy_j(samples: Samples, idle: Samples, start_s: float, end_s: float) -> float | None:
    """Energy of a window above that of the idle machine, at most 0 where it drowns in noise.

    None where either is not known, or the two do not measure the same rails.
    """
    energy, idle_w = samples.energy_j(start_s, end_s), idle.power_w()
    if energy is None or idle_w is None or samples.power_rail != idle.power_rail:
        return None
    return energy - idle_w * (end_s - start_s)


def _part_j(readings: Sequence[Reading], name: str, start: float, end: float) -> float | None:
    """Energy of one rail between two times, its value held constant before the first reading and after the last."""
    times = np.array([reading.at_s for reading in readings])
    if all(name in reading.counters_j for reading in readings):
        counter = np.array([reading.counters_j[name] for reading in readings])
        first, last = max(start, times[0]), min(end, times[-1])
        before, after = np.interp((first, last), times, counter)
        return float((after - before) * (end - start) / (last - first))
    if any(name not in reading.rails_w for reading in readings):
        return None
    watts = np.array([reading.rails_w[name] for reading in readings])
    grid = np.concatenate(([start], times[(times > start) & (times < end)], [end]))
    power = np.interp(grid, times, watts)
    return float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(grid)))
