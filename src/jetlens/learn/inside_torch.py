"""Inside a PyTorch network: a checkpoint of jetlens train, or a network by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.frame import Image
from jetlens.learn.inside import CAM, ClassActivation, Shape, softmax
from jetlens.ops.images import prepare
from jetlens.registry import require, resolve

__all__ = ["InsideTorch"]

_GRAD_CAM = "Grad-CAM (Selvaraju et al. 2017), the gradients by backpropagation"
_ACTIVATIONS = frozenset(("ReLU", "ReLU6", "LeakyReLU", "ELU", "Hardswish", "SiLU", "GELU", "Sigmoid"))


class InsideTorch:
    """A network with its weights; see ``Inside``.

    Raises:
        UnknownNameError: nothing has that name.
        WeightsError: the weights cannot be had or belong to another network.
        MissingDependencyError: torch is not installed.
    """

    def __init__(self, model: str, weights: Path | None, untrained: bool, own_network: str | None) -> None:
        self._torch = require("torch", extra="train", why=f"looking into {model}")
        self._features = require("jetlens.models.features", extra="train", why=f"looking into {model}")
        found = resolve("jetlens.export.trained:network_to_export")(model, weights, untrained=untrained, own_network=own_network)
        self._network, self.spec = found
        self._network.eval()
        height, width = self.spec.preprocess.size_hw
        channels = len(self.spec.preprocess.mean)
        self.layers: dict[str, Shape] = self._features.map_layers(self._network, self._torch.zeros(1, channels, height, width))
        self.activations = [name for name in self.layers if type(self._network.get_submodule(name)).__name__ in _ACTIVATIONS]

    def maps(self, images: Sequence[Image], layer: str) -> NDArray[np.float32]:
        """What a layer gives for pictures: [N, channels, height, width]."""
        return np.stack([self._features.feature_maps(self._network, self._pixels(image), layer) for image in images])

    def class_activation(self, image: Image, class_id: int | None, layer: str | None) -> ClassActivation:
        """See ``Inside``; the gradients come from backpropagation."""
        pixels = self._pixels(image)
        chosen = layer if layer is not None else self._last()
        heat, wanted = self._features.class_activation(self._network, pixels, class_id, chosen)
        with self._torch.inference_mode():
            logits = self._network(pixels)[0].numpy()
        method = CAM if self._weighs_averages(pixels, chosen, wanted, heat) else _GRAD_CAM
        return ClassActivation(heat, wanted, float(softmax(logits)[wanted]), chosen, method)

    def _weighs_averages(self, pixels: Any, layer: str, wanted: int, heat: NDArray[np.float32]) -> bool:
        """Whether the heat is what the last linear layer's own weights make of the maps: then it is fed with their averages."""
        linear = next((one for one in reversed(list(self._network.modules())) if type(one).__name__ == "Linear"), None)
        maps = self._features.feature_maps(self._network, pixels, layer)
        if linear is None or linear.in_features != len(maps) or linear.out_features <= wanted:
            return False
        plain = np.maximum(np.tensordot(linear.weight[wanted].detach().numpy(), maps, 1), 0)
        return bool(plain.any() and np.allclose(plain / plain.max(), heat, atol=1e-4))

    def _last(self) -> str:
        """The last layer whose maps are larger than a pixel and that does not end in pooling."""
        for name, shape in reversed(self.layers.items()):
            last = type(list(self._network.get_submodule(name).modules())[-1]).__name__
            if min(shape[1:]) > 1 and "Pool" not in last and "Dropout" not in last:
                return name
        raise ModelError(f"{self.spec.name} has no layer with maps larger than a pixel at this size")

    def _pixels(self, image: Image) -> Any:
        rule = replace(self.spec.preprocess, baked=False, frame_hw=None, layout="nchw", dtype="float32")
        return self._torch.from_numpy(prepare([image], rule)[0])
