"""The names that networks and their choices go by; importing them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jetlens.spec import TaskName

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PRETRAINED", "Activation", "Norm", "Pool", "Pretraining", "canonical"]

Norm = Literal["batch", "group", "layer"]
Activation = Literal["relu", "leaky_relu", "elu"]
Pool = Literal["stride", "max", "avg"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of R, G, B in grey levels: the convention of most pretrained networks."""


@dataclass(frozen=True, slots=True)
class Pretraining:
    """How one of torchvision's networks was trained.

    Attributes:
        weights: torchvision's name of the weights.
        size_hw: of the input; a detector's anchors are made for it.
        fixed_size: whether another size does not do.
        mean: in grey levels, by channel.
        std: in grey levels, by channel.
    """

    task: TaskName = "classification"
    weights: str = "IMAGENET1K_V1"
    size_hw: tuple[int, int] = (224, 224)
    fixed_size: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_VOC = Pretraining("segmentation", "COCO_WITH_VOC_LABELS_V1", (512, 512))

PRETRAINED: Mapping[str, Pretraining] = {
    "alexnet": Pretraining(),
    "efficientnet_b0": Pretraining(),
    "mobilenet_v2": Pretraining(),
    "mobilenet_v3_large": Pretraining(),
    "mobilenet_v3_small": Pretraining(),
    "resnet18": Pretraining(),
    "resnet50": Pretraining(),
    "squeezenet1_1": Pretraining(),
    "deeplabv3_resnet50": _VOC,
    "lraspp_mobilenet_v3_large": _VOC,
    "ssd300_vgg16": Pretraining("detection", "COCO_V1", (300, 300), True, (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
    "ssdlite320_mobilenet_v3_large": Pretraining("detection", "COCO_V1", (320, 320), True, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
"""Torchvision's networks that can be fine-tuned, under torchvision's names."""

_SHORT = {"ssdlite320": "ssdlite320_mobilenet_v3_large", "lraspp": "lraspp_mobilenet_v3_large", "ssd300": "ssd300_vgg16"}


def canonical(name: str) -> str:
    """The full name of a network that has a short one too, such as ``ssdlite320``."""
    return _SHORT.get(name, name)
