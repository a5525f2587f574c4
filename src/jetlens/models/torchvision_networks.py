"""torchvision's networks as plain ones, tensors in and raw outputs out, built anew or with pretrained weights under a new head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jetlens.errors import UsageError
from jetlens.models.options import PRETRAINED
from jetlens.models.ssd import RawSsd
from jetlens.models.weights import download, fill, read_weights
from jetlens.registry import require

__all__ = ["RawSegmenter", "adapted", "fine_tuned", "torchvision_network"]


class RawSegmenter(nn.Module):
    """A segmentation network's main output: logits [N, classes, H, W] at the input's size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x)["out"]
        return answer


def torchvision_network(name: str, num_classes: int, in_channels: int = 3, size_hw: tuple[int, int] | None = None) -> nn.Module:
    """A network of PRETRAINED with random weights: a classifier gives logits [N, classes], a segmenter [N, classes, H, W], a detector is a RawSsd.

    Args:
        num_classes: a detector's without the background.
        size_hw: of the input, which only a detector must know.

    Raises:
        UsageError: channels or a size that the network does not take.
    """
    row = PRETRAINED[name]
    if in_channels != 3 and row.task != "classification":
        raise UsageError(f"{name} takes colour pictures: in_channels is {in_channels}; allowed: 3")
    if row.fixed_size and size_hw is not None and tuple(size_hw) != row.size_hw:
        height, width = row.size_hw
        raise UsageError(f"{name} takes {height}x{width} and no other size, not {size_hw[0]}x{size_hw[1]}; give that, or take small_det")
    network = _plain(name, num_classes)
    if in_channels != 3:
        _replace_stem(network, in_channels)
    return adapted(name, network)


def fine_tuned(name: str, num_classes: int, weights: Path | None) -> nn.Module:
    """A network of PRETRAINED with trained weights everywhere but in its head, which is new.

    Raises:
        WeightsError: the weights cannot be had, are damaged or belong to another network.
    """
    if weights is None:
        models = require("torchvision.models", extra="train", why=f"the network {name}")
        tensors = download(models.get_model_weights(name)[PRETRAINED[name].weights])
    else:
        tensors = read_weights(weights)
    # The auxiliary head only helps training from scratch.
    tensors = {key: value for key, value in tensors.items() if not key.startswith("aux_classifier.")}
    network = _plain(name, num_classes)
    fill(network, tensors, str(weights or name), keep=_head(name))
    return adapted(name, network)


def _plain(name: str, num_classes: int) -> nn.Module:
    models = require("torchvision.models", extra="train", why=f"the network {name}")
    task = PRETRAINED[name].task
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; give 1 or more")
    arguments: dict[str, Any] = {"weights": None, "num_classes": num_classes + (task == "detection")}
    if task != "classification":
        arguments["weights_backbone"] = None
    network: nn.Module = models.get_model(name, **arguments)
    return network


def adapted(name: str, network: nn.Module) -> nn.Module:
    """One of torchvision's networks as a plain one: tensors in, raw tensors out."""
    row = PRETRAINED[name]
    if row.task == "segmentation":
        return RawSegmenter(network)
    return RawSsd(network, row.size_hw) if row.task == "detection" else network


def _head(name: str) -> set[str]:
    """The tensors of the head: those whose shape follows the number of classes."""
    with torch.device("meta"):
        one, other = (_plain(name, classes).state_dict() for classes in (5, 7))
    return {key for key in one if one[key].shape != other[key].shape}


def _replace_stem(network: nn.Module, in_channels: int) -> None:
    """A new first convolution for pictures with another number of channels."""
    name, found = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    old: Any = found  # torch types a convolution's sizes more loosely than its constructor
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
