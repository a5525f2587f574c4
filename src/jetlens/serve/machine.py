"""MachineHistory: load, memory, power and temperature of this machine over the last minutes, for graphs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from jetlens.device.readers import Reader, find_readers
from jetlens.device.reading import Reading, merge, power_label

__all__ = ["MachineHistory"]

_SERIES: dict[str, Callable[[Reading], float | None]] = {
    "cpu_percent": lambda reading: reading.cpu_percent,
    "gpu_percent": lambda reading: reading.gpu_percent,
    "power_w": lambda reading: reading.power_w,
    "memory_used_mib": lambda reading: reading.memory_used_mib,
    "hottest_c": lambda reading: reading.hottest_c,
}
_CLOSING_S = 0.3


class MachineHistory:
    """Reads this machine's sensors in a thread of its own and keeps the last readings; what is not measured is None.

    Args:
        interval_s: between readings.
        kept: how many readings.
        open_readers: gives the sources; called in the thread, because some need seconds to start.
    """

    def __init__(
        self, interval_s: float = 2.0, kept: int = 150, open_readers: Callable[[float], Sequence[Reader]] = lambda s: find_readers(s)
    ) -> None:
        self._interval_s = interval_s
        self._open_readers = open_readers
        self._readings: deque[Reading] = deque(maxlen=kept)
        self._why_no_power = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="page machine")

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and what it started; without ``start`` it does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_S)

    def to_dict(self) -> dict[str, Any]:
        """Each series from the oldest reading to the newest, with what power covers or why there is none; ready for JSON."""
        readings = tuple(self._readings)
        series = {name: [_rounded(value(reading)) for reading in readings] for name, value in _SERIES.items()}
        last = readings[-1] if readings else Reading()
        return {
            "interval_s": self._interval_s,
            "kept": self._readings.maxlen,
            "series": series,
            "memory_total_mib": _rounded(last.memory_total_mib),
            "power_of": power_label(last.whole),
            "why_no_power": "" if last.power_w is not None else self._why_no_power,
            "throttling": None if last.throttling is None else list(last.throttling),
        }

    def _follow(self) -> None:
        readers = self._open_readers(self._interval_s)
        try:
            # Loads are differences: the first reading has none.
            merge(reader.read() for reader in readers)
            while not self._stop.wait(self._interval_s):
                self._readings.append(merge([reader.read() for reader in readers]))
                self._why_no_power = "; ".join(reader.why_no_power for reader in readers if reader.why_no_power)
        finally:
            for reader in readers:
                reader.close()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
