"""Readers: one source of readings each, of which a machine has several; a source that fails answers less and raises nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from jetlens.device.nvml import open_nvml
from jetlens.device.power import JetsonSensors, Rapl
from jetlens.device.proc import Processor, process_cpu_s
from jetlens.device.reading import Reading
from jetlens.device.smi import QUERIES, gpu_reading, parse_state, visible_gpu
from jetlens.device.tegrastats import Refusal, TegraLine, parse_line

__all__ = ["LineStream", "NvidiaSmi", "Reader", "Tegrastats", "find_readers", "source_names"]

T = TypeVar("T")
_FIRST_LINE_S = 2.0


class Reader(Protocol):
    """A source of readings.

    Attributes:
        name: as a report names it.
        why_no_power: why this source measures no power although it could; empty otherwise.
    """

    name: str
    why_no_power: str

    def read(self) -> Reading:
        """What the source says now, or said last."""
        ...

    def cost_s(self) -> float:
        """Processor time of programs that the source started, so far."""
        ...

    def close(self) -> None:
        """Stops what the source started; twice is allowed."""
        ...


class LineStream(Generic[T]):
    """A program that prints a line now and then; the last line that could be read is kept with its time.

    Args:
        parse: a line to a value, or None for a line that is none.
    """

    def __init__(self, command: Sequence[str], parse: Callable[[str], T | None]) -> None:
        self._parse = parse
        self._last: tuple[float, T] | None = None
        self._first = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            bufsize=1,
            # Ctrl-C is the reader's to handle, not the program's.
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._follow, daemon=True, name=f"lines of {Path(command[0]).name}")
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether a first value came in time."""
        self._first.wait(timeout_s)
        return self._last is not None

    def last(self) -> tuple[float, T] | None:
        """The last value and its time on ``time.perf_counter()``; None before the first and after the program's end."""
        return self._last if self._process.poll() is None else None

    def cost_s(self) -> float:
        """Processor time of the program so far; 0 once it has ended."""
        return process_cpu_s(self._process.pid) or 0.0

    def close(self) -> None:
        """Ends the program; twice is allowed."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._thread.join(2)
        if self._process.stdout is not None and not self._thread.is_alive():
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        """To the program and to all that it started: the session is its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _follow(self) -> None:
        for line in self._process.stdout or ():
            value = self._parse(line)
            if value is not None:
                self._last = (time.perf_counter(), value)
                self._first.set()
        self._first.set()


class Tegrastats:
    """The tegrastats program of a Jetson, which prints a line each interval."""

    name = "tegrastats"

    def __init__(self, command: str, interval_s: float) -> None:
        self._lines = LineStream([command, "--interval", str(max(1, round(1000 * interval_s)))], _tegra_line)
        self.why_no_power = ""

    def started(self) -> bool:
        """Whether it prints lines that can be read; the first comes after one interval."""
        return self._lines.wait(_FIRST_LINE_S)

    def read(self) -> Reading:
        """The last line."""
        last = self._lines.last()
        if last is None:
            self.why_no_power = "tegrastats ended"
            return Reading()
        reading = last[1].reading(last[0])
        self.why_no_power = "" if reading.whole else _NO_RAIL if reading.rails_w else _NO_RAILS
        return reading

    def cost_s(self) -> float:
        """The program's processor time."""
        return self._lines.cost_s()

    def close(self) -> None:
        """Ends the program."""
        self._lines.close()


_NO_RAILS = "tegrastats prints no power rails here; run it as root: sudo tegrastats"
_NO_RAIL = "which of the rails is the whole module is not known, or their labels contradict each other"


class NvidiaSmi:
    """nvidia-smi asked for a row each interval: where nvidia-ml-py is not installed."""

    name = "nvidia-smi"

    def __init__(self, command: str, interval_s: float, gpu: int = 0) -> None:
        self.why_no_power = ""
        self._gpu = gpu
        pause = str(max(100, round(1000 * interval_s)))
        for query in QUERIES:
            asked = [command, f"--id={visible_gpu(gpu)}", f"--query-gpu={query}", "--format=csv,noheader,nounits", f"--loop-ms={pause}"]
            self._lines = LineStream(asked, parse_state)
            if self._lines.wait(2 * _FIRST_LINE_S):
                return
            self._lines.close()

    def started(self) -> bool:
        """Whether it prints rows that can be read."""
        return self._lines.last() is not None

    def read(self) -> Reading:
        """The last row."""
        last = self._lines.last()
        return Reading() if last is None else gpu_reading(last[1], f"GPU {self._gpu} (nvidia-smi)", last[0])

    def cost_s(self) -> float:
        """The program's processor time."""
        return self._lines.cost_s()

    def close(self) -> None:
        """Ends the program."""
        self._lines.close()


def find_readers(interval_s: float, *, clocks: bool = False) -> list[Reader]:
    """The sources of this machine, started: tegrastats or a Jetson's sensors, else NVML or nvidia-smi with RAPL; /proc always."""
    jetson = _jetson_reader(interval_s)
    found: list[Reader] = [] if jetson is None else [jetson]
    nvml = open_nvml(power=jetson is None)
    if nvml is not None:
        found.append(nvml)
    elif jetson is None and (program := shutil.which("nvidia-smi")):
        smi = NvidiaSmi(program, interval_s)
        if smi.started():
            found.append(smi)
        else:
            smi.close()
    if jetson is None:
        found.append(Rapl())
    return [*found, Processor(clocks=clocks)]


def source_names(readers: Sequence[Reader]) -> str:
    """The sources that say anything, with commas."""
    return ", ".join(reader.name for reader in readers if replace(reader.read(), at_s=0.0) != Reading())


def _jetson_reader(interval_s: float) -> Reader | None:
    program = shutil.which("tegrastats")
    if program is not None:
        tegrastats = Tegrastats(program, interval_s)
        if tegrastats.started():
            return tegrastats
        tegrastats.close()
    sensors = JetsonSensors()
    return sensors if sensors.found() else None


def _tegra_line(line: str) -> TegraLine | None:
    parsed = parse_line(line)
    return None if isinstance(parsed, Refusal) else parsed
