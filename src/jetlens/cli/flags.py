"""Flags that several commands have: texts to checked values."""

from __future__ import annotations

from typing import Literal, cast, get_args

from jetlens.data.base import PartName
from jetlens.errors import UsageError

__all__ = ["Device", "Precision", "device", "precision", "size_hw", "split"]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


def size_hw(text: str, example: str = "360x640") -> tuple[int, int]:
    """Height and width in pixels out of ``--size``.

    Raises:
        UsageError: it is not two whole numbers above 0.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--size {text!r}: give height x width in pixels, such as {example}")
    return int(height), int(width)


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
