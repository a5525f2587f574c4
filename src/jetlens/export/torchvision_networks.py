"""torchvision's segmenters and detectors as plain networks: tensors in, raw outputs out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RawSegmenter", "RawSsd"]

_LARGEST_GROWTH = math.log(1000.0 / 16)


class RawSegmenter(nn.Module):
    """A segmentation network's main output: logits [N, classes, H, W] at the input's size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x)["out"]
        return answer


class RawSsd(nn.Module):
    """An SSD without its list of pictures, its resizing and its NMS: class logits [N, A, 91] and raw boxes [N, A, 4].

    Args:
        network: torchvision's SSD; its default boxes are computed once for ``size_hw``.
    """

    anchors: Tensor
    limits: Tensor
    foreground: Tensor

    def __init__(self, network: Any, size_hw: tuple[int, int]) -> None:
        super().__init__()
        from torchvision.models.detection.image_list import ImageList

        self.backbone, self.head = network.backbone, network.head
        self.weights: tuple[float, float, float, float] = network.box_coder.weights
        with torch.no_grad():
            picture = torch.zeros(1, 3, *size_hw)
            training, features = network.training, list(network.eval().backbone(picture).values())
            (anchors,) = network.anchor_generator(ImageList(picture, [size_hw]), features)
            classes = network.head(features)["cls_logits"].shape[-1]
        network.train(training)
        self.register_buffer("anchors", anchors, persistent=False)
        height, width = size_hw
        self.register_buffer("limits", torch.tensor([width, height, width, height], dtype=torch.float32), persistent=False)
        # Class 0 is the background: it never is an answer.
        self.register_buffer("foreground", (torch.arange(classes) > 0).float(), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.head(list(self.backbone(x).values()))
        return answer["cls_logits"], answer["bbox_regression"]

    def decode(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, A, 4] within the picture and scores [N, A, 91] whose background is 0."""
        sizes = self.anchors[:, 2:] - self.anchors[:, :2]
        centres = self.anchors[:, :2] + sizes / 2
        wx, wy, ww, wh = self.weights
        middle = boxes[..., :2] / boxes.new_tensor([wx, wy]) * sizes + centres
        grown = torch.exp(torch.clamp(boxes[..., 2:] / boxes.new_tensor([ww, wh]), max=_LARGEST_GROWTH)) * sizes / 2
        xyxy = torch.cat([middle - grown, middle + grown], dim=-1)
        return torch.minimum(torch.relu(xyxy), self.limits), torch.softmax(logits, dim=-1) * self.foreground
