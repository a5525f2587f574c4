"""What stands behind the question mark of a camera's address: ``v4l2:///dev/video0?size=1280x720&fps=30``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from jetlens.errors import UsageError

__all__ = ["Option", "choice", "decimal", "read_options", "size_wh", "whole"]


@dataclass(frozen=True, slots=True)
class Option:
    """How one option is read.

    Attributes:
        read: from text to a value; raises ValueError.
        allowed: what may be given, for people.
    """

    read: Callable[[str], Any]
    allowed: str


def whole(low: int, high: int) -> Option:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Option(read, f"a whole number from {low} to {high}")


def decimal(low: float, high: float) -> Option:
    """A number within bounds."""

    def read(text: str) -> float:
        if not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return Option(read, f"a number from {low:g} to {high:g}")


def choice(*names: str) -> Option:
    """One of some words."""

    def read(text: str) -> str:
        if text.lower() not in names:
            raise ValueError
        return text.lower()

    return Option(read, f"one of {', '.join(names)}")


def _size_wh(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{2,5})x([0-9]{2,5})", text.lower())
    if found is None:
        raise ValueError
    return int(found[1]), int(found[2])


size_wh = Option(_size_wh, "WIDTHxHEIGHT such as 1280x720")
"""A size in pixels, width first as cameras' own tools have it."""


def read_options(uri: str, options: Mapping[str, Option], defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The place that an address names (``0``, ``/dev/video0``) and its options over the defaults.

    Raises:
        UsageError: an option is unknown or its value is not allowed.
    """
    parts = urlsplit(uri)
    values = dict(defaults)
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        if key not in options:
            raise UsageError(f"{uri[:80]}: unknown option {key[:40]!r}; known: {', '.join(options)}")
        try:
            values[key] = options[key].read(text)
        except ValueError:
            raise UsageError(f"{uri[:80]}: {key} is {text[:40]!r}; allowed is {options[key].allowed}") from None
    return unquote(parts.netloc + parts.path), values
