"""Training a segmenter: weighted cross-entropy with soft Dice, and mIoU on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.data.opening import ORANGE_LINE
from jetlens.train.augment import PAD, Augmentation, apply_warp, cut_out, draw_warp, plan_of, recolour
from jetlens.train.classification import matrix_of
from jetlens.train.config import TrainConfig
from jetlens.train.losses import IGNORE, build_loss, dice_loss

__all__ = ["SegmentationRecipe"]

FIRST_WEIGHT, LAST_WEIGHT = 10.0, 1.5
"""A pixel of a defect counts much at first, so that rare classes are found at all, and little at the end, so that edges are right."""
LINE_PLAN = Augmentation(scale=(0.85, 1.3), share=0.4)


class SegmentationRecipe:
    """What is special to segmentation; the metric is the mean IoU of the classes that are there."""

    metric = "miou"

    def __init__(self, num_classes: int, config: TrainConfig) -> None:
        self.num_classes = num_classes
        self.plan = plan_of(config, LINE_PLAN)
        self._rare = config.data == ORANGE_LINE
        self._own = config.loss is None
        self._weights = config.class_weights is not None or config.label_smoothing is not None
        self._loss = build_loss(config, num_classes, config.label_smoothing or 0.0)

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": self.num_classes}

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.plan.warps:
            warp = draw_warp(len(images), self.plan, images.device, (int(images.shape[2]), int(images.shape[3])))
            mask = apply_warp(warp, truth["mask"][:, None].float(), "nearest", float(IGNORE))[:, 0].round().to(torch.uint8)
            images, truth = apply_warp(warp, images, "bilinear", PAD), {"mask": mask}
        if self.plan.recolours:
            images = recolour(images, self.plan)
        return self.finish(images, truth)

    def finish(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return (cut_out(images, self.plan.cutout) if self.plan.cutout else images), truth

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        logits, mask = network(images).float(), truth["mask"].long()
        if not self._own:
            return self._loss(logits, mask)
        if self._weights or not self._rare:
            classes = self._loss(logits, mask)
        else:
            weights = logits.new_full((self.num_classes,), FIRST_WEIGHT + (LAST_WEIGHT - FIRST_WEIGHT) * done)
            weights[0] = 1.0
            classes = F.cross_entropy(logits, mask, weight=weights, ignore_index=IGNORE)
        return classes + dice_loss(logits.softmax(dim=1), mask, first=1 if self._rare else 0)

    def count(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> NDArray[np.int64]:
        table = torch.zeros(self.num_classes**2, dtype=torch.int64)
        for images, truth in batches:
            answer = network(images).argmax(dim=1)
            counted = truth["mask"] != IGNORE
            pairs = truth["mask"].long()[counted] * self.num_classes + answer[counted]
            table += torch.bincount(pairs, minlength=len(table)).cpu()
        counts: NDArray[np.int64] = table.reshape(self.num_classes, self.num_classes).numpy()
        return counts

    def figures(self, counts: Any) -> dict[str, float]:
        matrix = matrix_of(counts)
        there = matrix.support[1:] > 0
        foreground = float(matrix.iou[1:][there].mean()) if there.any() else 0.0
        return {"miou": matrix.mean_iou, "miou_foreground": foreground, "pixel_accuracy": matrix.accuracy}
