"""Looking inside a model, whichever it is: its layers, what they give for pictures, and what speaks for a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UnknownNameError, UsageError
from jetlens.frame import Image
from jetlens.ops.images import resize_into
from jetlens.registry import resolve
from jetlens.spec import ModelSpec

__all__ = ["CAM", "ClassActivation", "Inside", "class_named", "look_inside", "seen_by"]

Shape = tuple[int, int, int]
CAM = "class activation map (CAM, Zhou et al. 2016): the head is an average over each map and one linear layer"
SHOWN_SIDE = 448
"""About how large what a network saw is drawn, in pixels."""


@dataclass(frozen=True, slots=True)
class ClassActivation:
    """Where a picture speaks for a class.

    Attributes:
        heat: float32 [height, width] of the layer, 0 to 1.
        confidence: of the class, softmax of the logits.
        method: in words, with the paper that it is of.
    """

    heat: NDArray[np.float32]
    class_id: int
    confidence: float
    layer: str
    method: str


class Inside(Protocol):
    """A model that can be looked into.

    Attributes:
        layers: those that give feature maps, in the order of their use: name to channels, height and width.
        activations: those of them that are activations.
    """

    spec: ModelSpec
    layers: Mapping[str, Shape]
    activations: Sequence[str]

    def maps(self, images: Sequence[Image], layer: str) -> NDArray[np.float32]:
        """What a layer gives for pictures: [N, channels, height, width]."""
        ...

    def class_activation(self, image: Image, class_id: int | None, layer: str | None) -> ClassActivation:
        """Where a picture speaks for a class (None: the model's answer) in a layer (None: the last before pooling).

        Raises:
            UsageError: the model is no classifier, has no such class, or the layer is none through which everything goes.
        """
        ...


def look_inside(model: str, *, weights: Path | None = None, untrained: bool = False, own_network: str | None = None) -> Inside:
    """Opens a shipped model or an .onnx file as a graph, a checkpoint or a named network in PyTorch.

    Raises:
        UnknownNameError: nothing has that name.
        MissingDependencyError: torch or onnx is needed and not installed.
        ModelError: the model cannot be read.
    """
    from jetlens.predictor import shipped_names

    if Path(model).suffix.lower() == ".onnx" or (model in shipped_names() and not untrained):
        if weights is not None or untrained or own_network is not None:
            raise UsageError(f"{model} has its own weights; --weights, --untrained and --network go with names and checkpoints")
        graph: Inside = resolve("jetlens.learn.inside_onnx:InsideOnnx")(model)
        return graph
    network: Inside = resolve("jetlens.learn.inside_torch:InsideTorch")(model, weights, untrained, own_network)
    return network


def chosen_layer(inside: Inside, layer: str | None) -> str:
    """The layer that was asked for; for None the first activation.

    Raises:
        UnknownNameError: no layer of this name gives feature maps.
        UsageError: none does.
    """
    if layer is None:
        first = next(iter([*inside.activations, *inside.layers]), None)
        if first is None:
            raise UsageError(f"{inside.spec.name} has no layer with feature maps")
        return first
    if layer not in inside.layers:
        raise UnknownNameError("layer with feature maps", layer, inside.layers)
    return layer


def class_named(spec: ModelSpec, text: str | None) -> int | None:
    """A class id out of a number or a label.

    Raises:
        UnknownNameError: no class has that label.
        UsageError: the model is no classifier.
    """
    if spec.task != "classification":
        raise UsageError(f"{spec.name} is for {spec.task}; a class activation map needs a classifier, such as orange-grade")
    if text is None:
        return None
    if text.isdecimal() and int(text) < len(spec.labels):
        return int(text)
    known = {label.casefold(): index for index, label in enumerate(spec.labels)}
    if text.casefold() not in known:
        raise UnknownNameError("class", text, spec.labels)
    return known[text.casefold()]


def seen_by(spec: ModelSpec, image: Image) -> Image:
    """The part of a picture that a network sees, larger than the network sees it."""
    rule = spec.preprocess
    times = max(1, round(SHOWN_SIDE / max(rule.size_hw)))
    short = None if rule.short_side is None else rule.short_side * times
    # Pillow's filter, since cv2 may not be there.
    larger = replace(rule, size_hw=(rule.size_hw[0] * times, rule.size_hw[1] * times), short_side=short, filter="antialias", frame_hw=None)
    canvas = np.empty((*larger.size_hw, 3), np.uint8)
    resize_into(image, larger, canvas)
    return canvas


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of logits [classes]."""
    powers = np.exp(np.asarray(logits, np.float64) - float(logits.max()))
    return np.asarray(powers / powers.sum())
