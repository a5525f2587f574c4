"""The networks that jetlens trains and exports: its own and torchvision's by name, and the user's own by ``module:factory``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jetlens.errors import UnknownNameError, UsageError
from jetlens.models.options import PRETRAINED, Pretraining, canonical
from jetlens.registry import Table, require, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["MODELS", "PRETRAINED", "Pretraining", "build", "canonical", "pretrained"]

MODELS = Table(
    "network",
    {
        "basic_cnn": "jetlens.models.basic_cnn:basic_cnn",
        "custom_resnet": "jetlens.models.custom_resnet:custom_resnet",
        "small_det": "jetlens.models.small_det:small_det",
        "small_seg": "jetlens.models.small_seg:small_seg",
    },
)
"""The networks of our own."""


def build(name: str, *, own_code: bool = False, **arguments: Any) -> nn.Module:
    """A new network with random weights; the arguments are its factory's.

    Args:
        name: of MODELS or of PRETRAINED, or ``module:factory`` for a network of the user's.
        own_code: whether ``module:factory`` may be imported and called. Say so only for a name that the user typed, never for one out of a file:
            a checkpoint from elsewhere could name any function.

    Raises:
        UnknownNameError: no such network.
        UsageError: an argument that the factory does not take, or a factory that cannot be used.
        MissingDependencyError: torch is not installed.
    """
    require("torch", extra="train", why=f"the network {name}")
    if ":" in name:
        if not own_code:
            raise UsageError(f"{name[:60]!r} is a network of your own; its code runs only where you name it yourself: --model {name[:60]}")
        from jetlens.models.own import build_own

        return build_own(name, arguments)
    if canonical(name) in PRETRAINED:
        from jetlens.models.torchvision_networks import torchvision_network

        return _call(torchvision_network, f"network {name}", {"name": canonical(name)}, arguments)
    if name not in MODELS:
        raise UnknownNameError("network", name, [*MODELS, *PRETRAINED])
    return _call(resolve(MODELS[name]), f"network {name}", {}, arguments)


def _call(factory: Callable[..., nn.Module], what: str, fixed: Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        inspect.signature(factory).bind(**fixed, **arguments)
    except TypeError as error:
        allowed = ", ".join(key for key in inspect.signature(factory).parameters if key not in fixed)
        raise UsageError(f"{what}: {error}; it takes {allowed}") from None
    return factory(**fixed, **arguments)


def pretrained(name: str, num_classes: int, weights: Path | None = None) -> nn.Module:
    """One of torchvision's networks for fine-tuning: trained weights, and a new head for ``num_classes``.

    A detector's classes do not count the background.

    Args:
        weights: a state_dict (.pth, .safetensors) of the same network, with any head; None takes torchvision's own, downloaded and hash checked.

    Raises:
        UnknownNameError: no such network.
        WeightsError: the weights cannot be had, are damaged or belong to another network.
    """
    name = canonical(name)
    if name not in PRETRAINED:
        raise UnknownNameError("network with pretrained weights", name, PRETRAINED)
    require("torchvision", extra="train", why=f"the network {name}")
    from jetlens.models.torchvision_networks import fine_tuned

    return fine_tuned(name, num_classes, weights)
