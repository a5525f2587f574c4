"""The zoo: torchvision's networks by name, exported once with their pretrained weights into a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens import __version__
from jetlens.errors import UnknownNameError, UsageError
from jetlens.export.onnx import export_model
from jetlens.folders import cache_folder
from jetlens.labels import labels
from jetlens.models.weights import download, fill, read_weights
from jetlens.registry import require
from jetlens.spec import ModelSpec, PreprocessSpec, TaskName, is_sound

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ZOO", "ZooRow", "ensure", "zoo_network"]

_SMALLEST = 64

RECIPE = 2
"""Counts changes in how named networks are exported: what an older one left in the cache is not used."""


@dataclass(frozen=True, slots=True)
class ZooRow:
    """One of torchvision's networks.

    Attributes:
        weights: the name of torchvision's entry of pretrained weights.
        labels: a list that ships.
        size_hw: of the input; None takes what the weights' own transforms say.
        iou: of the reference's non-maximum suppression.
    """

    task: TaskName = "classification"
    weights: str = "IMAGENET1K_V1"
    labels: str = "imagenet"
    size_hw: tuple[int, int] | None = None
    iou: float = 0.5


_VOC = ZooRow("segmentation", "COCO_WITH_VOC_LABELS_V1", "voc", (512, 512))

ZOO: Mapping[str, ZooRow] = {
    "alexnet": ZooRow(),
    "efficientnet_b0": ZooRow(),
    "mobilenet_v2": ZooRow(),
    "mobilenet_v3_large": ZooRow(),
    "mobilenet_v3_small": ZooRow(),
    "resnet18": ZooRow(),
    "resnet50": ZooRow(),
    "squeezenet1_1": ZooRow(),
    "deeplabv3_resnet50": _VOC,
    "lraspp_mobilenet_v3_large": _VOC,
    "ssd300_vgg16": ZooRow("detection", "COCO_V1", "coco91", (300, 300), 0.45),
    "ssdlite320_mobilenet_v3_large": ZooRow("detection", "COCO_V1", "coco91", (320, 320), 0.55),
}
"""Name to row; the names are torchvision's."""


def ensure(name: str, weights: Path | None = None) -> Path:
    """The deployable graph of a named network, exported on its first use.

    Args:
        weights: a state_dict (.pth, .safetensors); None takes torchvision's own, downloaded and hash checked.

    Raises:
        UnknownNameError: no such network.
        WeightsError: the weights cannot be had or belong to another network.
    """
    row = _row(name)
    origin = hashlib.sha256(weights.read_bytes()).hexdigest() if weights is not None and weights.is_file() else row.weights
    key = hashlib.sha256(f"{RECIPE} {__version__} {name} {origin}".encode()).hexdigest()[:16]
    path = cache_folder("models") / f"{name}-{key}.onnx"
    if not is_sound(path):
        network, spec = zoo_network(name, weights)
        export_model(network, spec, path)
    return path


def zoo_network(
    name: str, weights: Path | None = None, *, pretrained: bool = True, size_hw: tuple[int, int] | None = None
) -> tuple[nn.Module, ModelSpec]:
    """A named network in PyTorch and the spec of its export.

    Args:
        weights: a file instead of torchvision's own weights.
        pretrained: without it the weights are random and the spec names no source.
        size_hw: of the input; None takes the reference's. A classifier's square input keeps the reference's margin around the crop,
            any other cuts no more than it must.

    Raises:
        UnknownNameError: no such network.
        UsageError: a size that the network does not take.
        WeightsError: the weights cannot be had or belong to another network.
    """
    require("torch", extra="export", why=f"the network {name}")
    models = require("torchvision.models", extra="export", why=f"the network {name}")
    from jetlens.models.torchvision_networks import adapted

    row = _row(name)
    if row.task == "detection" and size_hw not in (None, row.size_hw):
        raise UsageError(f"{name} takes {_by(row.size_hw)} and no other size: its anchors were trained for it; leave --size away")
    if size_hw is not None and min(size_hw) < _SMALLEST:
        raise UsageError(f"--size {_by(size_hw)} is too small for {name}: give at least {_SMALLEST} pixels a side")
    entry = models.get_model_weights(name)[row.weights]
    network = _build(models, name, row, len(entry.meta["categories"]))
    source: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    if weights is not None:
        tensors = read_weights(weights)
        source = {"source": f"file {weights.name} for torchvision {name}", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    elif pretrained:
        tensors = download(entry)
        source = {"source": f"torchvision {name} {row.weights}", "file": str(entry.url).rsplit("/", 1)[-1], "licence": "BSD-3-Clause"}
        accuracy = _stated_accuracy(entry)
    else:
        tensors = network.state_dict()
    # The auxiliary head only helps training.
    fill(network, {key: value for key, value in tensors.items() if not key.startswith("aux_classifier.")}, str(weights or name))
    spec = ModelSpec(
        name=name,
        task=row.task,
        labels=labels(row.labels),
        preprocess=_preprocess(row, entry, network, size_hw),
        decoder="",
        # The graph counts a detector's classes without the background, COCO's ids with it.
        label_offset=-1 if row.task == "detection" else 0,
        iou=row.iou,
        weights=source,
        accuracy=accuracy if size_hw in (None, row.size_hw) else {},
    )
    return adapted(name, network), spec


def _row(name: str) -> ZooRow:
    if name not in ZOO:
        raise UnknownNameError("torchvision network", name, ZOO)
    return ZOO[name]


def _build(models: Any, name: str, row: ZooRow, classes: int) -> Any:
    arguments: dict[str, Any] = {"weights": None}
    if row.task != "classification":
        arguments |= {"weights_backbone": None, "num_classes": classes}
    return models.get_model(name, **arguments).eval()


def _preprocess(row: ZooRow, entry: Any, network: Any, size_hw: tuple[int, int] | None = None) -> PreprocessSpec:
    """What torchvision's own transforms do, from their own numbers; at another size, if one is given."""
    if row.task == "detection":
        # Detectors resize, plainly, and normalise inside themselves.
        inner = network.transform
        assert row.size_hw is not None
        return PreprocessSpec(row.size_hw, "stretch", "linear", mean=_grey_levels(inner.image_mean), std=_grey_levels(inner.image_std))
    steps = entry.transforms()
    mean, std = _grey_levels(steps.mean), _grey_levels(steps.std)
    if row.size_hw is not None:
        return PreprocessSpec(size_hw or row.size_hw, "stretch", "antialias", mean=mean, std=std)
    (crop,), (short,) = steps.crop_size, steps.resize_size
    height, width = size_hw or (crop, crop)
    return PreprocessSpec(
        (height, width), "crop", "antialias", round(height * short / crop) if height == width else None, mean=mean, std=std
    )


def _by(size_hw: tuple[int, int] | None) -> str:
    assert size_hw is not None
    return f"{size_hw[0]}x{size_hw[1]}"


def _grey_levels(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value) * 255, 6) for value in values)


def _stated_accuracy(entry: Any) -> dict[str, Any]:
    """What torchvision says of its weights, measured with its own resizing."""
    stated: Mapping[str, Mapping[str, float]] = entry.meta.get("_metrics", {})
    return next(({**figures, "data": f"{data}, stated by torchvision"} for data, figures in stated.items()), {})
