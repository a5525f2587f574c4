"""What a Jetson's own programs and files say of it: its power mode and its packages; nothing here raises."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jetlens.device.files import read_text

__all__ = ["PowerMode", "installed_packages", "parse_power_mode", "read_power_mode"]

_STATUS = Path("var/lib/dpkg/status")


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
