"""Every exception that jetlens raises on purpose.

    JetlensError                     exit code 1: the user's input or environment
    ├── UsageError                   exit code 2: the command or call itself is wrong
    │   └── UnknownNameError         a name that is not in a table
    ├── InputError                   something that was given to read cannot be used
    │   ├── ImageError               one image: carries a code, the file and the reason
    │   ├── VideoError               one video or stream
    │   ├── DataError                a dataset
    │   └── NetworkError             an address that is refused, unreachable or answers badly
    ├── ModelError                   a model file, its sidecar or its graph
    │   ├── SidecarError             the sidecar is missing, malformed or not this model's
    │   ├── WeightsError             weights are missing, damaged or of another network
    │   └── VerificationError        a written file does not answer as its source does
    ├── OutputError                  a result could not be written
    ├── MissingDependencyError       an optional package is not installed
    ├── BackendError                 a runtime is unavailable or failed
    ├── TrainingError                training cannot start or go on
    └── GateError                    exit code 3: a check ran and the answer is no

A message says what came, what is allowed and what to do, in one line of at most 300 characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar

__all__ = [
    "BackendError",
    "DataError",
    "GateError",
    "ImageError",
    "InputError",
    "JetlensError",
    "MissingDependencyError",
    "ModelError",
    "NetworkError",
    "OutputError",
    "SidecarError",
    "TrainingError",
    "UnknownNameError",
    "UsageError",
    "VerificationError",
    "VideoError",
    "WeightsError",
    "escaped",
    "one_line",
    "plain_line",
]


MOST_NAMES = 8
_LONGEST = 285


def escaped(text: str, keep: str = "") -> str:
    """A text in which what a terminal obeys stands as ``\\x1b``."""
    return "".join(c if c.isprintable() or c in keep else f"\\x{ord(c):02x}" for c in text)


def plain_line(text: str) -> str:
    """Any text on one line, without what a terminal obeys."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def one_line(message: str) -> str:
    """A message as one line of at most 300 characters with the program's name before it; the middle of a longer one is left out, and what a terminal obeys escaped."""
    line = escaped(" ".join(message.split()))
    return line if len(line) <= _LONGEST else f"{line[:130]} ... {line[-150:]}"


class JetlensError(Exception):
    """The root of the tree: catch it to catch all that jetlens raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(JetlensError):
    """The command line or the call is wrong, whatever the data."""

    exit_code: ClassVar[int] = 2


class UnknownNameError(UsageError):
    """A name that no table knows; the message lists the known ones and the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        shown = names if len(names) <= MOST_NAMES else get_close_matches(name, names, n=MOST_NAMES, cutoff=0.0)
        more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
        super().__init__(f"unknown {kind} {name[:40]!r}{hint}; known: {', '.join(shown)}{more}")


class InputError(JetlensError):
    """Something that was given to read cannot be used."""


class ImageError(InputError):
    """One image cannot be used.

    Attributes:
        code: a stable word for programs, such as ``truncated``, ``not-an-image`` or ``too-large``.
        file: what was read, as the user named it.
        why: the reason in words.
    """

    def __init__(self, code: str, file: str | Path, why: str) -> None:
        self.code = code
        self.file = str(file)
        self.why = why
        super().__init__(f"{self.file}: {why} [{code}]")


class VideoError(InputError):
    """One video or stream cannot be opened, read to its end or written."""


class DataError(InputError):
    """A dataset is missing, empty or inconsistent."""


class NetworkError(InputError):
    """An address is refused, unreachable or answers badly."""


class ModelError(JetlensError):
    """A model file or its graph cannot be used."""


class SidecarError(ModelError):
    """A sidecar is missing, malformed or describes another model."""


class WeightsError(ModelError):
    """Weights are missing, damaged or belong to another network."""


class VerificationError(ModelError):
    """A written model does not answer as its source does; it was not kept."""


class OutputError(JetlensError):
    """A result could not be written."""


class MissingDependencyError(JetlensError):
    """An optional package is needed and not installed."""


class BackendError(JetlensError):
    """A runtime is unavailable on this machine or failed while it ran."""


class TrainingError(JetlensError):
    """Training cannot start or go on."""


class GateError(JetlensError):
    """A check ran and the answer is no."""

    exit_code: ClassVar[int] = 3
