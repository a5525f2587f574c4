"""Precision: fp16 and int8 graphs made from fp32 ones, and kept only where their answers still hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetlens.registry import resolve

if TYPE_CHECKING:
    from jetlens.precision.activations import METHODS
    from jetlens.precision.guard import Budget
    from jetlens.precision.int8 import RECIPES
    from jetlens.precision.making import ensure, make
    from jetlens.precision.report import Report

__all__ = ["METHODS", "RECIPES", "Budget", "Report", "ensure", "make"]

_HOMES = {"METHODS": "activations", "RECIPES": "int8", "Budget": "guard", "Report": "report", "ensure": "making", "make": "making"}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use, so that a command's help stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jetlens.precision' has no attribute {name!r}")
    return resolve(f"jetlens.precision.{_HOMES[name]}:{name}")
