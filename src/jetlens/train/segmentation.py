"""Training a segmenter: weighted cross-entropy with soft Dice, and mIoU on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.train.augment import PAD, Augmentation, apply_warp, draw_warp, recolour

__all__ = ["SegmentationRecipe", "dice_loss"]

FIRST_WEIGHT, LAST_WEIGHT = 10.0, 1.5
"""A foreground pixel counts much at first, so that rare classes are found at all, and little at the end, so that edges are right."""


class SegmentationRecipe:
    """What is special to segmentation; the metric is the mean IoU of all classes but the background (id 0)."""

    metric = "defect_miou"

    def __init__(self, num_classes: int, size_hw: tuple[int, int]) -> None:
        self.num_classes = num_classes
        self.plan = Augmentation(scale=(0.85, 1.3), share=0.4)

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": self.num_classes}

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        warp = draw_warp(len(images), self.plan, images.device)
        mask = apply_warp(warp, truth["mask"][:, None].float(), "nearest", 0.0)[:, 0]
        return recolour(apply_warp(warp, images, "bilinear", PAD), self.plan), {"mask": mask.round().to(torch.uint8)}

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        logits, mask = network(images).float(), truth["mask"].long()
        weights = logits.new_full((self.num_classes,), FIRST_WEIGHT + (LAST_WEIGHT - FIRST_WEIGHT) * done)
        weights[0] = 1.0
        return F.cross_entropy(logits, mask, weight=weights) + dice_loss(logits.softmax(dim=1), mask)

    def measure(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
        table = torch.zeros(self.num_classes**2, dtype=torch.int64)
        for images, truth in batches:
            pairs = truth["mask"].long() * self.num_classes + network(images).argmax(dim=1)
            table += torch.bincount(pairs.flatten(), minlength=len(table)).cpu()
        square = table.reshape(self.num_classes, self.num_classes).double()
        both = square.diagonal()
        iou = both / (square.sum(dim=0) + square.sum(dim=1) - both).clamp(min=1)
        figures = {"defect_miou": float(iou[1:].mean()), "miou": float(iou.mean())}
        return figures | {f"iou_{index}": float(value) for index, value in enumerate(iou)}


def dice_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """1 minus the soft Dice of the whole batch, the mean of the classes after the background.

    Args:
        probabilities: [N, C, H, W].
        mask: class ids, int64 [N, H, W].
    """
    classes = probabilities.shape[1]
    truth = F.one_hot(mask, classes).movedim(-1, 1).to(probabilities.dtype)
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    return 1 - ((2 * both[1:] + 1) / (total[1:] + 1)).mean()
