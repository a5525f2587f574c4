"""The networks that jetlens trains and exports, by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from jetlens.errors import UsageError
from jetlens.registry import Table, require, resolve

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "build"]

MODELS = Table(
    "network",
    {
        "basic_cnn": "jetlens.models.basic_cnn:basic_cnn",
        "small_det": "jetlens.models.small_det:small_det",
        "small_seg": "jetlens.models.small_seg:small_seg",
    },
)


def build(name: str, **arguments: Any) -> nn.Module:
    """A new network with random weights; the arguments are its factory's.

    Raises:
        UnknownNameError: no such network.
        UsageError: an argument that the factory does not take.
        MissingDependencyError: torch is not installed.
    """
    target = MODELS[name]
    require("torch", extra="train", why=f"the network {name}")
    factory = resolve(target)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(factory).parameters)
        raise UsageError(f"network {name}: {error}; it takes {allowed}") from None
    network: nn.Module = factory(**arguments)
    return network
