"""The names of the choices that our own networks take; importing them needs no torch."""

from __future__ import annotations

from typing import Literal

__all__ = ["Activation", "Norm", "Pool"]

Norm = Literal["batch", "group", "layer"]
Activation = Literal["relu", "leaky_relu", "elu"]
Pool = Literal["stride", "max", "avg"]
