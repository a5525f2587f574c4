"""Looking into a network: the feature maps of a layer, and what in a picture speaks for a class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jetlens.errors import UnknownNameError, UsageError
from jetlens.models.summary import evaluating

__all__ = ["class_activation", "feature_maps", "map_layers"]


def map_layers(network: nn.Module, pixels: Tensor) -> dict[str, tuple[int, int, int]]:
    """The modules that give feature maps, in the order in which they finish: name to channels, height and width.

    Args:
        pixels: normalised float pictures [N, C, H, W].
    """
    shapes: dict[str, tuple[int, int, int]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                shapes[name] = (int(output.shape[1]), int(output.shape[2]), int(output.shape[3]))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with evaluating(network), torch.no_grad():
            network(pixels[:1])
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def feature_maps(network: nn.Module, pixels: Tensor, layer: str) -> NDArray[np.float32]:
    """What a layer gives for the first picture: [channels, height, width].

    Args:
        pixels: normalised float pictures [N, C, H, W] on the network's device.

    Raises:
        UnknownNameError: no layer of this name gives feature maps.
    """
    layers = map_layers(network, pixels)
    if layer not in layers:
        raise UnknownNameError("layer with feature maps", layer, layers)
    with evaluating(network), torch.no_grad(), _kept(network, layer) as kept:
        network(pixels[:1])
    maps: NDArray[np.float32] = kept[-1][0].float().cpu().numpy()
    return maps


def class_activation(
    network: nn.Module, pixels: Tensor, class_id: int | None = None, layer: str | None = None
) -> tuple[NDArray[np.float32], int]:
    """Where the first picture speaks for a class of a classifier, [height, width] of the layer from 0 to 1, and that class.

    Grad-CAM (Selvaraju et al. 2017): the maps of the layer, each weighted with the mean gradient of the class's logit, summed, negative parts cut.
    Where the maps are averaged and go straight into the output layer, as in residual networks, this is the class activation map (Zhou et al. 2016).

    Args:
        pixels: normalised float pictures [N, C, H, W] on the network's device.
        class_id: None takes the class that the network answers.
        layer: None takes the last one whose maps are larger than one pixel.

    Raises:
        UnknownNameError: no layer of this name gives feature maps.
        UsageError: the network is no classifier, no layer has maps, or there is no such class.
    """
    layers = map_layers(network, pixels)
    chosen = layer if layer is not None else next((name for name, shape in reversed(layers.items()) if min(shape[1:]) > 1), None)
    if chosen is None:
        raise UsageError(f"{type(network).__name__} has no layer with maps larger than a pixel at this size; give a larger picture")
    if chosen not in layers:
        raise UnknownNameError("layer with feature maps", chosen, layers)
    with evaluating(network), torch.enable_grad(), _kept(network, chosen) as kept:
        # The input asks for gradients, so that they reach the layer also where weights are frozen.
        logits: Any = network(pixels[:1].detach().clone().requires_grad_())
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise UsageError(f"{type(network).__name__} is no classifier: it does not answer with logits [N, classes]")
        wanted = int(logits[0].argmax()) if class_id is None else class_id
        if not 0 <= wanted < logits.shape[1]:
            raise UsageError(f"class id is {wanted}; allowed: 0 to {logits.shape[1] - 1}")
        (gradient,) = torch.autograd.grad(logits[0, wanted], kept[-1])
    maps = kept[-1].detach()[0].float()
    heat = torch.relu((gradient[0].float().mean(dim=(1, 2))[:, None, None] * maps).sum(dim=0))
    most = float(heat.max())
    answer: NDArray[np.float32] = (heat / most if most > 0 else heat).cpu().numpy()
    return answer, wanted


@contextmanager
def _kept(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Keeps what a layer gives, calls in order."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        # What follows may work in place: it gets a copy.
        kept.append(output)
        return output.clone()

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
