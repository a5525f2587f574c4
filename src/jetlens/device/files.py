"""Files of /proc and /sys, and programs that answer with text: what is absent, refused or hangs is an empty text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ask", "program", "read_number", "read_text"]

_NUMBER = re.compile(r"\s*(-?[0-9]{1,18}(?:\.[0-9]{1,9})?)\s*", re.ASCII)


def read_text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def read_number(path: Path) -> float | None:
    """The one number that a file holds; None where it holds something else or cannot be read."""
    found = _NUMBER.fullmatch(read_text(path))
    return float(found[1]) if found else None


def program(name: str, root: Path = Path("/")) -> str | None:
    """Where a program is: on the path, or in the usual folders of another root; None where it is not."""
    folders = None if root == Path("/") else os.pathsep.join(str(root / folder) for folder in ("usr/local/bin", "usr/bin", "usr/sbin"))
    return shutil.which(name, path=folders)


def ask(command: Sequence[str], *, root: Path = Path("/"), timeout_s: float = 5.0) -> str:
    """What a program prints, errors included; empty where it is absent, fails to start or hangs."""
    file = program(command[0], root)
    if file is None:
        return ""
    try:
        answer = subprocess.run(
            [file, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return answer.stdout
