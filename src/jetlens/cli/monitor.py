"""`jetlens monitor`: what the machine does, as a table that renews itself on a terminal and as lines elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jetlens.cli.terminal import facts_table
from jetlens.device.readers import Reader, find_readers, source_names
from jetlens.device.reading import Core, Reading, merge, power_label
from jetlens.errors import UsageError

__all__ = ["command"]

_SHORTEST_S = 0.05
_FIRST_S = 0.3
_NONE = "n/a"
_HOT_C = 85
_BAR = 20


def command(
    interval: Annotated[float, typer.Option("--interval", help="Seconds between readings.")] = 1.0,
    count: Annotated[int | None, typer.Option("--count", help="Stop after so many readings; without it, q or Ctrl-C stops.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a reading.")] = False,
) -> None:
    """Show what this machine is doing: load of each core, memory, GPU, power, temperatures; n/a is what it does not measure."""
    if not _SHORTEST_S <= interval <= 3600:
        raise UsageError(f"--interval {interval:g}: give seconds from {_SHORTEST_S:g} to 3600")
    if count is not None and count < 1:
        raise UsageError(f"--count {count}: give 1 or more")
    readers = find_readers(interval, clocks=True)
    try:
        _show(readers, interval, count, as_json)
    except KeyboardInterrupt:
        pass  # the way to end it
    except BrokenPipeError:
        # Whoever read the lines has gone; Python must not fail once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for reader in readers:
            reader.close()


def _show(readers: list[Reader], interval: float, count: int | None, as_json: bool) -> None:
    console = Console()
    with _keys() as ended:
        readings = _readings(readers, interval, count, ended)
        if as_json:
            for reading in readings:
                print(json.dumps(_values(reading)), flush=True)
        elif not console.is_terminal:
            for reading in readings:
                print(_line(reading), flush=True)
        else:
            source = source_names(readers)
            with Live(console=console, auto_refresh=False) as live:
                for reading in readings:
                    live.update(_table(reading, readers, f"from {source} every {interval:g} s; q ends"), refresh=True)


def _readings(readers: list[Reader], interval: float, count: int | None, ended: _Ended) -> Iterator[Reading]:
    """A reading each interval; the first comes soon, after the time that a load needs to be one."""
    merge(reader.read() for reader in readers)
    due = time.monotonic() + min(interval, _FIRST_S)
    shown = 0
    while not ended.within(due - time.monotonic()):
        yield merge(reader.read() for reader in readers)
        shown += 1
        if count is not None and shown >= count:
            return
        due = max(due + interval, time.monotonic())


class _Ended:
    """Whether the user pressed q; without a keyboard it only waits."""

    def __init__(self, keyboard: int | None) -> None:
        self._keyboard = keyboard

    def within(self, seconds: float) -> bool:
        """Waits so long at most; True as soon as q is pressed."""
        end = time.monotonic() + max(0.0, seconds)
        while self._keyboard is not None and select.select([self._keyboard], [], [], max(0.0, end - time.monotonic()))[0]:
            key = os.read(self._keyboard, 1)
            if key in (b"q", b"Q", b"\x1b"):
                return True
            if not key:
                self._keyboard = None
        time.sleep(max(0.0, end - time.monotonic()))
        return False


@contextmanager
def _keys() -> Iterator[_Ended]:
    """Reads single keys while it lasts, where there is a keyboard."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield _Ended(None)
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield _Ended(keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _values(reading: Reading) -> dict[str, object]:
    values = dataclasses.asdict(reading)
    return {"time": time.time(), **values, "power_w": reading.power_w, "power_rail": power_label(reading.whole)}


def _line(reading: Reading) -> str:
    rail = power_label(reading.whole)
    parts = (
        time.strftime("%H:%M:%S"),
        f"CPU {_number(reading.cpu_percent, '%')}",
        f"memory {_of(reading.memory_used_mib, reading.memory_total_mib)}",
        f"swap {_of(reading.swap_used_mib, reading.swap_total_mib)}",
        f"GPU {_number(reading.gpu_percent, '%')}",
        f"power {_number(reading.power_w, 'W', 1)}{f' {rail}' if rail else ''}",
        f"hottest {_number(reading.hottest_c, 'C')}",
        f"throttling {_throttling(reading)}",
    )
    return ", ".join(parts)


def _table(reading: Reading, readers: list[Reader], foot: str) -> Table:
    table = facts_table(_rows(reading, readers))
    table.add_row("", Text(foot, "dim"))
    return table


def _rows(reading: Reading, readers: list[Reader]) -> Iterator[tuple[str, RenderableType]]:
    yield "CPU", _bar(reading.cpu_percent)
    if reading.cores:
        yield "cores", _columns([Text(_core(number, core)) for number, core in enumerate(reading.cores)])
    yield "memory", _share(reading.memory_used_mib, reading.memory_total_mib)
    yield "swap", _share(reading.swap_used_mib, reading.swap_total_mib)
    clock = "" if reading.gpu_mhz is None else f"  {reading.gpu_mhz:.0f} MHz"
    yield "GPU", _bar(reading.gpu_percent).append(clock)
    if reading.gpu_memory_total_mib is not None:
        yield "GPU memory", _share(reading.gpu_memory_used_mib, reading.gpu_memory_total_mib)
    yield "power", _power(reading, readers)
    parts = {name: watts for name, watts in reading.rails_w.items() if reading.whole != (name,)}
    if parts:
        yield "rails", _columns([Text(f"{name} {watts:.2f} W") for name, watts in parts.items()])
    yield "temperature", _columns([_temperature(name, value) for name, value in reading.temperatures_c.items()])
    held = _throttling(reading)
    yield "throttling", Text(held, "red" if reading.throttling else "dim" if held == _NONE else "")


def _columns(parts: list[Text]) -> RenderableType:
    return Columns(parts, padding=(0, 3)) if parts else Text(_NONE, "dim")


def _power(reading: Reading, readers: list[Reader]) -> Text:
    if reading.power_w is None:
        why = "; ".join(reader.why_no_power for reader in readers if reader.why_no_power)
        return Text(_NONE, "dim").append(f"  {why}" if why and not reading.whole else "", "dim")
    return Text(f"{reading.power_w:.2f} W").append(f"  {power_label(reading.whole)}", "dim")


def _throttling(reading: Reading) -> str:
    return _NONE if reading.throttling is None else ", ".join(reading.throttling) or "none"


def _temperature(name: str, celsius: float) -> Text:
    return Text(f"{name} {celsius:.0f} C", "red" if celsius >= _HOT_C and name != "PMIC" else "")


def _core(number: int, core: Core) -> str:
    if not core.online:
        return f"{number}: off"
    clock = "" if core.mhz is None else f" {core.mhz:.0f} MHz"
    return f"{number}: {_number(core.percent, '%')}{clock}"


def _share(used: float | None, total: float | None) -> Text:
    if used is None or not total:
        return Text(_of(used, total), "dim" if used is None else "")
    return _bar(100 * used / total).append(f"  {_of(used, total)}")


def _bar(percent: float | None) -> Text:
    if percent is None:
        return Text(_NONE, "dim")
    full = round(_BAR * min(100.0, percent) / 100)
    color = "green" if percent < 60 else "yellow" if percent < 90 else "red"
    return Text().append("█" * full, color).append("░" * (_BAR - full), "dim").append(f" {percent:3.0f} %")


def _of(used: float | None, total: float | None) -> str:
    if used is None or total is None:
        return _NONE
    return f"{used:.0f} of {total:.0f} MiB" if total else "none"


def _number(value: float | None, unit: str, digits: int = 0) -> str:
    return _NONE if value is None else f"{value:.{digits}f} {unit}"
