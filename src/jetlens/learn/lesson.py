"""Lesson: what a view tells, its numbers, its pictures, and the check that two ways of computing agree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import GateError, OutputError

__all__ = ["Lesson", "check_apart", "check_output", "compared", "largest_difference", "limit_for"]

LIMIT = 1e-5
_USUAL = 16.0
"""Values up to this size are held to the limit itself, larger ones in proportion: single precision has seven digits."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one view has to say.

    Attributes:
        text: the explanation, a sentence or a formula a line.
        lines: the numbers in words.
        numbers: the same for programs; plain values.
        files: the pictures that were written.
    """

    title: str
    text: tuple[str, ...]
    lines: tuple[str, ...]
    numbers: Mapping[str, Any]
    files: tuple[Path, ...]


def check_output(path: Path, *inputs: str | None) -> Path:
    """The path itself where a plot can be written under its name.

    Raises:
        OutputError: it has another suffix than .png, its folder is not there, or it is one of the inputs.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"--output {path}: this picture is written as PNG; give a name that ends in .png")
    if not path.parent.is_dir():
        raise OutputError(f"--output {path}: there is no folder {path.parent}; make it first")
    return check_apart(path, *inputs)


def check_apart(path: Path, *inputs: str | None) -> Path:
    """The path itself where it is none of the inputs.

    Raises:
        OutputError: it is one of them.
    """
    for text in inputs:
        if text and path.exists() and os.path.exists(text) and os.path.samefile(path, text):
            raise OutputError(f"{path} is the input itself, which would be lost; give another name with --output")
    return path


def limit_for(values: NDArray[Any]) -> float:
    """How far another way of computing may be off, given the values that go in or come out."""
    return LIMIT * max(1.0, float(np.abs(values).max(initial=0.0)) / _USUAL)


def largest_difference(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays.

    Raises:
        GateError: their shapes differ, or a value is no number.
    """
    if first.shape != second.shape:
        raise GateError(f"two ways of computing the same give shapes {list(first.shape)} and {list(second.shape)}")
    difference = float(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).max(initial=0.0))
    if not np.isfinite(difference):
        raise GateError("two ways of computing the same give values that are no finite numbers")
    return difference


def compared(
    what: str, answer: NDArray[Any], others: Mapping[str, NDArray[Any]], limit: float = LIMIT
) -> tuple[list[str], dict[str, float]]:
    """A line and a number for each library's result beside ours.

    Raises:
        GateError: one differs by more than the limit.
    """
    differences = {name: largest_difference(answer, other) for name, other in others.items()}
    for name, value in differences.items():
        if value > limit:
            raise GateError(f"{what}: the plain code and {name} differ by {value:.3g}; at most {limit:.0e} is allowed")
    lines = [f"{what}: plain code and {name} differ by at most {value:.2g} (allowed {limit:.0e})" for name, value in differences.items()]
    return lines or [f"{what}: no library is installed to compare with (torch, OpenCV or ONNX Runtime)"], differences
