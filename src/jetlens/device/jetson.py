"""What a Jetson's own programs and files say of it: its release, its power mode and its clocks; nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jetlens.device.files import read_text

__all__ = ["CpuClock", "Clocks", "PowerMode", "installed_packages", "parse_clocks", "parse_power_mode", "read_power_mode"]

_STATUS = Path("var/lib/dpkg/status")
_MHZ = 1e-6


@dataclass(frozen=True, slots=True)
class PowerMode:
    """What ``nvpmodel -q`` answers.

    Attributes:
        name: such as MAXN_SUPER; empty where it does not say.
        number: that ``nvpmodel -m`` takes.
        errors: its complaints, most of them for want of root.
    """

    name: str = ""
    number: int | None = None
    fan: str = ""
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CpuClock:
    """One core's clock and the limits that it may move between, in MHz."""

    online: bool
    governor: str
    lowest_mhz: float | None
    highest_mhz: float | None
    now_mhz: float | None


@dataclass(frozen=True, slots=True)
class Clocks:
    """What ``jetson_clocks --show`` answers; None where it does not say.

    Attributes:
        others: such as GPU and EMC, each with its lowest, highest and present clock in MHz.
        unknown: lines of a form that is not known, as they came.
    """

    board: str = ""
    cores: Mapping[str, CpuClock] = field(default_factory=dict)
    others: Mapping[str, CpuClock] = field(default_factory=dict)
    power_mode: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def locked(self) -> bool | None:
        """Whether ``jetson_clocks`` holds every clock at its highest; None where no clock is known."""
        rows = [row for row in (*self.cores.values(), *self.others.values()) if row.online and row.lowest_mhz and row.highest_mhz]
        return all(row.lowest_mhz == row.highest_mhz for row in rows) if rows else None


def parse_power_mode(text: str) -> PowerMode:
    """The answer of ``nvpmodel -q``, errors and all."""
    name, number, fan, errors = "", None, "", []
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("NVPM ERROR"):
            errors.append(line)
        elif line.startswith("NV Power Mode:"):
            name = line.partition(":")[2].strip()
        elif line.startswith("NV Fan Mode:"):
            fan = line.partition(":")[2].strip()
        elif re.fullmatch("[0-9]{1,3}", line):
            number = int(line)
    return PowerMode(name, number, fan, tuple(errors))


def parse_clocks(text: str) -> Clocks:
    """The answer of ``jetson_clocks --show``."""
    board, mode = "", ""
    cores: dict[str, CpuClock] = {}
    others: dict[str, CpuClock] = {}
    unknown = []
    for line in (line.strip() for line in text.splitlines() if line.strip()):
        name = re.match(r"([A-Za-z]\w{0,20}):? ", line)
        clock = _clock(dict(re.findall(r"\b(\w{1,30})=(\S{1,40})", line)))
        if clock is not None and name is not None:
            (cores if re.fullmatch("cpu[0-9]+", name[1]) else others)[name[1]] = clock
        elif line.startswith("NV Power Mode:"):
            mode = line.partition(":")[2].strip()
        elif found := re.search(r"Machine:(.*)", line):
            board = found[1].strip()
        else:
            unknown.append(line)
    return Clocks(board, cores, others, mode, tuple(unknown))


def read_power_mode(root: Path = Path("/")) -> PowerMode:
    """The power mode that nvpmodel's service keeps in a file: readable without root and without starting a program."""
    found = re.search(r"pmode:([0-9]{1,4})", read_text(root / "var/lib/nvpmodel/status"))
    if found is None:
        return PowerMode()
    number = int(found[1])
    row = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf"))
    return PowerMode(row[1].rstrip(">").strip() if row else "", number)


def installed_packages(pattern: str, root: Path = Path("/")) -> dict[str, str]:
    """Debian packages that are installed and whose whole name fits a pattern, with their versions.

    The package database is read and no program started.
    """
    found = {}
    for entry in read_text(root / _STATUS).split("\n\n"):
        name = re.match(rf"\s*Package: ({pattern})\n", entry)
        version = re.search(r"^Version: (\S+)", entry, re.MULTILINE) if name else None
        if name and version and "\nStatus: install ok installed\n" in entry:
            found[name[1]] = version[1]
    return found


def _clock(values: Mapping[str, str]) -> CpuClock | None:
    if not {"MinFreq", "MaxFreq", "CurrentFreq"} & values.keys():
        return None
    lowest, highest, now = (_mhz(values.get(name, "")) for name in ("MinFreq", "MaxFreq", "CurrentFreq"))
    return CpuClock(values.get("Online", "1") != "0", values.get("Governor", ""), lowest, highest, now)


def _mhz(text: str) -> float | None:
    """Clocks are printed in kHz for processors and in Hz for the rest; none is slower than 1 MHz nor faster than 10 GHz."""
    if not re.fullmatch("[0-9]{1,12}", text):
        return None
    number = int(text)
    return number / 1000 if number < 10_000_000 else number * _MHZ
