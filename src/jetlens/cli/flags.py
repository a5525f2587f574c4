"""Flags that several commands have: texts to checked values."""

from __future__ import annotations

from typing import Literal, cast, get_args

from jetlens.data.base import PartName
from jetlens.errors import UsageError

__all__ = ["Device", "Precision", "batch", "device", "precision", "size_hw", "split"]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


def size_hw(text: str, example: str = "360x640", flag: str = "--size") -> tuple[int, int]:
    """Height and width in pixels out of ``--size`` or another flag.

    Raises:
        UsageError: it is not two whole numbers above 0.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"{flag} {text!r}: give height x width in pixels, such as {example}")
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
