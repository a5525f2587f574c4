"""Flags that several commands have, and their texts as checked values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from jetlens.backends.base import Device, Precision
from jetlens.backends.choice import backend_names
from jetlens.data.base import PartName
from jetlens.errors import UnknownNameError, UsageError
from jetlens.spec import ModelSpec

__all__ = [
    "BackendFlag",
    "BatchWaitFlag",
    "DeviceFlag",
    "LanesFlag",
    "PrecisionFlag",
    "ThreadsFlag",
    "WeightsFlag",
    "batch",
    "choice",
    "device",
    "grey_levels",
    "guesses",
    "one_of",
    "precision",
    "size_hw",
    "split",
]

BackendFlag = Annotated[str, typer.Option("--backend", help=f"One of {', '.join(backend_names())}.")]
DeviceFlag = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PrecisionFlag = Annotated[str | None, typer.Option("--precision", help="fp32, bf16, fp16 or int8; the model's own if not given.")]
ThreadsFlag = Annotated[int | None, typer.Option("--threads", min=1, help="Threads inside one run of the model.")]
WeightsFlag = Annotated[Path | None, typer.Option("--weights", help="A weights file for a torchvision network's name.")]
BatchWaitFlag = Annotated[float, typer.Option("--batch-wait", min=0, max=40, help="Milliseconds that a frame may wait for others.")]
LanesFlag = Annotated[
    int | None, typer.Option("--lanes", min=1, max=8, help="Runs at once; 3 to 8 on a GPU, by the cores; else one a core at most.")
]
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


def guesses(spec: ModelSpec, sources: Iterable[str]) -> str:
    """What to say where a network that saw rendered pictures alone is given others; else nothing."""
    if not str(spec.weights.get("data", "")).startswith("orange-line") or all(text.startswith("test://") for text in sources):
        return ""
    return f"{spec.name} saw nothing but the rendered orange line, and guesses on other pictures; --model takes another"


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


def one_of(what: str, text: str, allowed: Iterable[str]) -> Any:
    """A value as it is; ``what`` says in the message where it was given.

    Raises:
        UsageError: it is none of those that are allowed.
    """
    allowed = tuple(allowed)
    if text not in allowed:
        raise UsageError(f"{what} {text!r}; allowed: {', '.join(allowed)}")
    return text


def device(text: str) -> Device:
    """A known ``--device``."""
    return cast(Device, one_of("--device is", text, get_args(Device)))


def precision(text: str | None) -> Precision | None:
    """A known ``--precision``, or None for the runtime's own."""
    return None if text is None else cast(Precision, one_of("--precision is", text, get_args(Precision)))


def split(text: str) -> PartName:
    """A known ``--split``."""
    return cast(PartName, one_of("--split", text, get_args(PartName)))
