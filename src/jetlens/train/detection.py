"""Training an anchor-free detector: task-aligned assignment (TOOD, Feng et al. 2021), BCE and GIoU, and F1 on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.registry import require
from jetlens.train.augment import PAD, Augmentation, apply_warp, cut_out, draw_warp, plan_of, recolour, warp_boxes
from jetlens.train.config import TrainConfig

__all__ = ["DetectionRecipe", "assign", "pairwise_iou"]

ALIGN_POWER = 6
CANDIDATES = 13
BOX_WEIGHT = 2.0
CONFIDENCE = 0.5
IOU = 0.5
TINY = 1e-9
LINE_PLAN = Augmentation(scale=(0.7, 1.5), shift=0.2, share=0.6)


class DetectionRecipe:
    """What is special to detection; the metric is F1 at confidence 0.5 and IoU 0.5, for progress only."""

    metric = "f1"

    def __init__(self, num_classes: int, config: TrainConfig) -> None:
        assert config.size_hw is not None
        self.num_classes = num_classes
        self.size_hw = config.size_hw
        self.plan = plan_of(config, LINE_PLAN)

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": self.num_classes, "size_hw": list(self.size_hw)}

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.plan.warps:
            warp = draw_warp(len(images), self.plan, images.device, self.size_hw)
            xyxy, class_id = warp_boxes(warp, truth["xyxy"], truth["class_id"], self.size_hw)
            images, truth = apply_warp(warp, images, "bilinear", PAD), {"xyxy": xyxy, "class_id": class_id}
        if self.plan.recolours:
            images = recolour(images, self.plan)
        return self.finish(images, truth)

    def finish(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return (cut_out(images, self.plan.cutout) if self.plan.cutout else images), truth

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        logits, raw = (output.float() for output in network(images))
        if callable(own := getattr(network, "loss", None)):
            priced: Tensor = own(logits, raw, truth)
            return priced
        boxes, scores = network.decode(logits, raw)  # type: ignore[operator]
        target, owner = assign(boxes.detach(), scores.detach(), network.centres, truth["xyxy"], truth["class_id"])  # type: ignore[arg-type]
        total = target.sum().clamp(min=1)
        weight = target.amax(dim=-1)
        classes = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / total
        wanted = truth["xyxy"].gather(1, owner[..., None].expand(-1, -1, 4))
        overlap = require("torchvision.ops", extra="train").generalized_box_iou_loss(boxes, wanted, reduction="none")
        # An anchor without an owner has weight 0; its box may be degenerate, so it is left out rather than multiplied away.
        loss: Tensor = classes + BOX_WEIGHT * torch.where(weight > 0, overlap * weight, 0.0).sum() / total
        return loss

    def count(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> NDArray[np.int64]:
        nms = require("torchvision.ops", extra="train").batched_nms
        right = found = wanted = 0
        for images, truth in batches:
            boxes, scores = network.decode(*(output.float() for output in network(images)))  # type: ignore[operator]
            best, kind = scores.max(dim=-1)
            for row in range(len(images)):
                kept = best[row] > CONFIDENCE
                xyxy, confidence, class_id = boxes[row][kept], best[row][kept], kind[row][kept]
                order = nms(xyxy, confidence, class_id, IOU)
                real = truth["class_id"][row] >= 0
                found, wanted = found + len(order), wanted + int(real.sum())
                right += _matches(xyxy[order], class_id[order], truth["xyxy"][row][real], truth["class_id"][row][real])
        return np.array([right, found, wanted], np.int64)

    def figures(self, counts: Any) -> dict[str, float]:
        right, found, wanted = (int(count) for count in counts)
        precision, recall = right / max(1, found), right / max(1, wanted)
        return {"f1": 2 * right / max(1, found + wanted), "precision": precision, "recall": recall}


def _matches(xyxy: Tensor, class_id: Tensor, true_xyxy: Tensor, true_class: Tensor) -> int:
    """How many true boxes find a box of their class, one to one, the boxes in the given order."""
    if not len(xyxy) or not len(true_xyxy):
        return 0
    fits = (pairwise_iou(xyxy[None], true_xyxy[None])[0] * (class_id[:, None] == true_class)).cpu()
    count = 0
    for row in fits:
        best = int(row.argmax())
        if row[best] >= IOU:
            count += 1
            fits[:, best] = 0
    return count


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes [N, P, 4] with boxes [N, Q, 4] of the same picture: [N, P, Q]."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b))
    return both / (area_a[:, :, None] + area_b[:, None, :] - both).clamp(min=TINY)


def assign(boxes: Tensor, scores: Tensor, centres: Tensor, true_xyxy: Tensor, true_class: Tensor) -> tuple[Tensor, Tensor]:
    """Which true box each anchor answers for, and how strongly.

    The anchors inside a true box with the best score x IoU^6 become its own; the target of the best is its IoU.

    Args:
        boxes: predicted, [N, A, 4].
        scores: predicted, [N, A, C].
        centres: [A, 2].
        true_xyxy: [N, M, 4].
        true_class: [N, M], -1 where there is no box.

    Returns:
        Target scores [N, A, C] and the index of the true box of each anchor [N, A] (0 where the targets are all 0).
    """
    real = true_class >= 0
    kind = true_class.clamp(min=0)
    reach = torch.cat([centres - true_xyxy[:, :, None, :2], true_xyxy[:, :, None, 2:] - centres], dim=-1).amin(dim=-1)
    eligible = (reach > 0) & real[..., None]
    iou = pairwise_iou(true_xyxy, boxes) * eligible
    score = scores.transpose(1, 2).gather(1, kind[..., None].expand(-1, -1, scores.shape[1]))
    # The root keeps the ranking of score x IoU^6 and does not underflow while the network still knows nothing.
    rank = (score.clamp(min=TINY) ** (1 / ALIGN_POWER)) * iou
    value, index = rank.topk(min(CANDIDATES, rank.shape[-1]), dim=-1)
    own = torch.zeros_like(eligible).scatter(-1, index, value > 0) & eligible
    # An anchor that several boxes chose goes to the one it overlaps best.
    owner = (iou * own).argmax(dim=1)
    own &= F.one_hot(owner, true_xyxy.shape[1]).transpose(1, 2).bool()
    align = (rank / rank.amax(dim=-1, keepdim=True).clamp(min=TINY)) ** ALIGN_POWER * own
    best_align = align.amax(dim=-1, keepdim=True).clamp(min=TINY)
    strength = (align / best_align * (iou * own).amax(dim=-1, keepdim=True)).amax(dim=1)
    chosen_class = kind.gather(1, owner)
    target = F.one_hot(chosen_class, scores.shape[-1]).to(scores.dtype) * strength[..., None]
    return target, owner
