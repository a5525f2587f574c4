"""Flags that several commands have: texts to checked values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast, get_args

from jetlens.data.base import PartName
from jetlens.errors import UnknownNameError, UsageError

__all__ = ["Device", "Precision", "batch", "choice", "device", "grey_levels", "precision", "size_hw", "split"]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
LARGEST_SIDE = 16384
SHOWN = 40
"""Characters of a wrong value that the message repeats."""


def choice(kind: str, value: str | None, allowed: Iterable[str]) -> Any:
    """A value as it is, or None.

    Raises:
        UnknownNameError: it is none of those that are allowed.
    """
    allowed = tuple(allowed)
    if value is not None and value not in allowed:
        raise UnknownNameError(kind, value, allowed)
    return value


def grey_levels(flag: str, text: str | None) -> tuple[float, ...] | None:
    """One number for all channels, or three.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(abs(value) < 1e9 for value in values):
        raise UsageError(
            f"{flag} {text[:SHOWN]}: give 3 numbers (or 1 for all channels) in grey levels 0 to 255, such as {flag} 123.7,116.3,103.5"
        )
    return values


def size_hw(text: str, example: str = "360x640", flag: str = "--size") -> tuple[int, int]:
    """Height and width in pixels out of ``--size`` or another flag.

    Raises:
        UsageError: it is not two whole numbers from 1 to 16384.
    """
    height, _, width = text.lower().partition("x")
    if not all(side.isdecimal() and len(side) < 6 and 0 < int(side) <= LARGEST_SIDE for side in (height, width)):
        raise UsageError(f"{flag} {text[:SHOWN]!r}: give height x width in pixels, such as {example}; sides of at most {LARGEST_SIDE}")
    return int(height), int(width)


def batch(text: str) -> tuple[int, int, int]:
    """Smallest, usual and largest out of ``--batch``; one number stands for all three.

    Raises:
        UsageError: it is neither one number nor three.
    """
    parts = text.split(":")
    if not all(part.isdecimal() and len(part) < 7 for part in parts) or len(parts) not in (1, 3):
        raise UsageError(f"--batch {text}: give one number, or smallest:usual:largest, such as 1:8:32")
    numbers = [int(part) for part in parts] * (3 if len(parts) == 1 else 1)
    return numbers[0], numbers[1], numbers[2]


def device(text: str) -> Device:
    """A known ``--device``.

    Raises:
        UsageError: it is none.
    """
    if text not in get_args(Device):
        raise UsageError(f"--device is {text!r}; allowed: {', '.join(get_args(Device))}")
    return cast(Device, text)


def precision(text: str | None) -> Precision | None:
    """A known ``--precision``, or None for the runtime's own.

    Raises:
        UsageError: it is neither.
    """
    if text not in (None, *get_args(Precision)):
        raise UsageError(f"--precision is {text!r}; allowed: {', '.join(get_args(Precision))}")
    return cast("Precision | None", text)


def split(text: str) -> PartName:
    """A known ``--split``.

    Raises:
        UsageError: it is none.
    """
    if text not in get_args(PartName):
        raise UsageError(f"--split {text!r}; allowed: {', '.join(get_args(PartName))}")
    return cast(PartName, text)
