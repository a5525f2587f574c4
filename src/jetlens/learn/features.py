"""Feature maps of a layer as a grid, and the class activation map of a classifier over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.frame import Image
from jetlens.learn.inside import ClassActivation, Inside, chosen_layer, class_named, seen_by
from jetlens.learn.lesson import Lesson
from jetlens.plots import plot_class_activation, plot_feature_maps
from jetlens.results import label_of

__all__ = ["features", "layer_list"]

_DEAD = 1e-9
_MOST_NAMED = 12


def features(
    inside: Inside, image: Image, output: Path, *, layer: str | None = None, cam_layer: str | None = None, class_text: str | None = None
) -> Lesson:
    """Draws the maps of a layer; for a classifier also ``NAME-cam.png``, where the picture speaks for a class.

    Args:
        layer: of the maps; None takes the first activation.
        cam_layer: of the class activation map; None takes the last one before pooling.
        class_text: a class id or label; None takes the model's answer.

    Raises:
        UnknownNameError: no such layer or class.
        UsageError: a class is given for a model that is no classifier.
    """
    spec = inside.spec
    classifies = spec.task == "classification"
    class_id = class_named(spec, class_text) if class_text is not None or classifies else None
    name = chosen_layer(inside, layer)
    maps = inside.maps([image], name)[0]
    activation = inside.class_activation(image, class_id, cam_layer) if classifies or cam_layer is not None else None
    seen = seen_by(spec, image)
    plot_feature_maps(maps, output, title=f"{spec.name}, layer {name}", image=seen)
    text, lines, numbers = _about_maps(name, maps)
    files = [output]
    if activation is not None:
        files.append(output.with_name(f"{output.stem}-cam.png"))
        label = label_of(spec.labels, activation.class_id)
        plot_class_activation(
            seen, activation.heat, files[-1], title=f"What speaks for {label} ({activation.confidence:.1%}), layer {activation.layer}"
        )
        text, lines = text + _about_heat(activation), lines + _heat_in_words(activation, label)
        numbers |= {"class_activation": _heat_numbers(activation, label)}
    return Lesson(f"features of {spec.name}", tuple(text), tuple(lines), {"model": spec.name, **numbers}, tuple(files))


def layer_list(inside: Inside) -> list[str]:
    """The layers that can be looked at, a line each."""
    width = max(map(len, inside.layers), default=0)
    return [f"{name:<{width}}  {channels} maps of {height}x{across}" for name, (channels, height, across) in inside.layers.items()]


def _about_maps(name: str, maps: NDArray[np.float32]) -> tuple[list[str], list[str], dict[str, Any]]:
    channels, height, width = maps.shape
    means, peaks = maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))
    silent = [int(index) for index in np.flatnonzero(np.ptp(maps.reshape(channels, -1), axis=1) < _DEAD)]
    text = [
        "A feature map is what one filter of a layer answers at every place: bright where the picture has what the filter looks for.",
        "Each map is drawn in its own range; early layers answer edges and colours, later ones fewer, larger and more abstract parts.",
    ]
    lines = [
        f"layer {name}: {channels} maps of {height}x{width}, values {float(maps.min()):.3g} to {float(maps.max()):.3g}, "
        f"{float((maps == 0).mean()):.1%} of them exactly 0",
        f"strongest on this picture: {', '.join(f'{index} (mean {means[index]:.3g})' for index in np.argsort(-means)[:5])}",
        f"the same everywhere (silent): {_few(silent)}",
    ]
    numbers = {
        "layer": name,
        "shape": [channels, height, width],
        "zero_share": float((maps == 0).mean()),
        "mean": [float(value) for value in means],
        "max": [float(value) for value in peaks],
        "silent": silent,
    }
    return text, lines, numbers


def _about_heat(activation: ClassActivation) -> list[str]:
    text = [
        f"{activation.method}.",
        "heat[i, j] = max(0, Σ_k w_k · A_k[i, j]), scaled to 1; A_k is map k of the layer and w_k the mean of ∂(score of the class) / ∂A_k over the map.",
    ]
    if "Grad-CAM" in activation.method:
        text.append(
            "One weight a map is exact where the maps are averaged before the output layer; where the layers after them weigh each place by itself, "
            "the heat is a rough guide."
        )
    return text


def _heat_in_words(activation: ClassActivation, label: str) -> list[str]:
    height, width = activation.heat.shape
    row, column = np.unravel_index(int(activation.heat.argmax()), activation.heat.shape)
    return [
        f"class {activation.class_id} {label}, confidence {activation.confidence:.4f}; heat of {height}x{width} from layer {activation.layer}, "
        f"strongest at {(column + 0.5) / width:.0%} of the width and {(row + 0.5) / height:.0%} of the height; "
        f"{float((activation.heat > 0.5).mean()):.1%} of the picture is above half of that"
    ]


def _heat_numbers(activation: ClassActivation, label: str) -> dict[str, Any]:
    return {
        "method": activation.method,
        "layer": activation.layer,
        "class_id": activation.class_id,
        "label": label,
        "confidence": activation.confidence,
        "heat": [[round(float(value), 5) for value in row] for row in activation.heat],
    }


def _few(indices: Sequence[int]) -> str:
    if not indices:
        return "none"
    more = f" and {len(indices) - _MOST_NAMED} more" if len(indices) > _MOST_NAMED else ""
    return ", ".join(map(str, indices[:_MOST_NAMED])) + more
