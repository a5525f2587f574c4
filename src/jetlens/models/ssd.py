"""torchvision's SSD as a plain network: raw outputs, their decoding, and the loss that trains them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["RawSsd", "ssd_loss"]

_LARGEST_GROWTH = math.log(1000.0 / 16)
IOU = 0.5
NEGATIVES = 3
TINY = 1e-9


class RawSsd(nn.Module):
    """An SSD without its list of pictures, its resizing and its NMS: class logits [N, A, 1 + classes] and raw boxes [N, A, 4].

    Column 0 of the logits is the background; classes are counted without it, so class id 0 has column 1.

    Attributes:
        anchors: the default boxes for ``size_hw``, [A, 4] in input pixels.
    """

    anchors: Tensor
    limits: Tensor

    def __init__(self, network: Any, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.size_hw = size_hw
        self.backbone, self.head = network.backbone, network.head
        self.weights: tuple[float, float, float, float] = network.box_coder.weights
        anchors = _anchors(network, size_hw)
        self.register_buffer("anchors", anchors, persistent=False)
        height, width = size_hw
        self.register_buffer("limits", torch.tensor([width, height, width, height], dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.head(list(self.backbone(x).values()))
        return answer["cls_logits"], answer["bbox_regression"]

    def decode(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, A, 4] within the picture and scores [N, A, classes]."""
        sizes = self.anchors[:, 2:] - self.anchors[:, :2]
        centres = self.anchors[:, :2] + sizes / 2
        wx, wy, ww, wh = self.weights
        middle = boxes[..., :2] / boxes.new_tensor([wx, wy]) * sizes + centres
        grown = torch.exp(torch.clamp(boxes[..., 2:] / boxes.new_tensor([ww, wh]), max=_LARGEST_GROWTH)) * sizes / 2
        xyxy = torch.cat([middle - grown, middle + grown], dim=-1)
        return torch.minimum(torch.relu(xyxy), self.limits), torch.softmax(logits, dim=-1)[..., 1:]

    def loss(self, logits: Tensor, boxes: Tensor, truth: dict[str, Tensor]) -> Tensor:
        """What ``forward``'s outputs cost, one number to minimise.

        Args:
            truth: ``xyxy`` [N, M, 4] in input pixels and ``class_id`` [N, M], -1 where there is no box.
        """
        return ssd_loss(logits.float(), boxes.float(), self.anchors, self.weights, truth["xyxy"], truth["class_id"])


def _anchors(network: Any, size_hw: tuple[int, int]) -> Tensor:
    from torchvision.models.detection.image_list import ImageList

    with torch.no_grad():
        device = next(network.parameters()).device
        picture = torch.zeros(1, 3, *size_hw, device=device)
        training, features = network.training, list(network.eval().backbone(picture).values())
        if device.type == "meta":  # torchvision's generator does not go there
            anchors: Tensor = network.head(features)["bbox_regression"][0]
        else:
            (anchors,) = network.anchor_generator(ImageList(picture, [size_hw]), features)
    network.train(training)
    return anchors


def ssd_loss(
    logits: Tensor, boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float], true_xyxy: Tensor, true_class: Tensor
) -> Tensor:
    """SSD's loss (Liu et al. 2016): smooth L1 of the matched anchors and cross-entropy of these and of the three times as many hardest others."""
    if not true_xyxy.shape[1]:  # one row of no box, so that there is something to gather from
        true_xyxy, true_class = true_xyxy.new_zeros(len(true_xyxy), 1, 4), true_class.new_full((len(true_class), 1), -1)
    owner = match(anchors, true_xyxy, true_class)
    positive = owner >= 0
    chosen = owner.clamp(min=0)
    wanted = encode(true_xyxy.gather(1, chosen[..., None].expand(-1, -1, 4)), anchors, weights)
    distance = F.smooth_l1_loss(boxes, wanted, reduction="none").sum(dim=-1)
    kind = torch.where(positive, true_class.gather(1, chosen) + 1, 0)
    cost = F.cross_entropy(logits.transpose(1, 2), kind, reduction="none")
    others = torch.where(positive, -torch.inf, cost.detach())
    rank = others.argsort(dim=1, descending=True).argsort(dim=1)
    hardest = (rank < NEGATIVES * positive.sum(dim=1, keepdim=True)) & ~positive
    total = torch.where(positive, distance, 0.0).sum() + torch.where(positive | hardest, cost, 0.0).sum()
    return total / positive.sum().clamp(min=1)


def match(anchors: Tensor, true_xyxy: Tensor, true_class: Tensor) -> Tensor:
    """The true box that each anchor answers for [N, A], -1 for none: the one with the best IoU from 0.5 on; each box has at least its best anchor."""
    real = true_class >= 0
    low = torch.maximum(true_xyxy[:, :, None, :2], anchors[:, :2])
    high = torch.minimum(true_xyxy[:, :, None, 2:], anchors[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    area = (true_xyxy[..., 2:] - true_xyxy[..., :2]).clamp(min=0).prod(dim=-1)
    every = (anchors[:, 2:] - anchors[:, :2]).prod(dim=-1)
    iou = torch.where(real[..., None], both / (area[..., None] + every - both).clamp(min=TINY), -1.0)
    best, owner = iou.max(dim=1)
    owner = torch.where(best >= IOU, owner, -1)
    nearest = iou.argmax(dim=2)
    # Two boxes with one nearest anchor: the later one has it, as in torchvision. The loop is over the boxes of a picture, not over anchors.
    for index in range(true_xyxy.shape[1]):
        at = nearest[:, index : index + 1]
        owner.scatter_(1, at, torch.where(real[:, index : index + 1], index, owner.gather(1, at)))
    return owner


def encode(xyxy: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """The raw boxes [N, A, 4] that decode to ``xyxy`` [N, A, 4]."""
    sizes, own = anchors[:, 2:] - anchors[:, :2], (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=TINY)
    centres = anchors[:, :2] + sizes / 2
    wx, wy, ww, wh = weights
    shift = (xyxy[..., :2] + own / 2 - centres) / sizes * xyxy.new_tensor([wx, wy])
    return torch.cat([shift, torch.log(own / sizes) * xyxy.new_tensor([ww, wh])], dim=-1)
