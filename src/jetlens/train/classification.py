"""Training a classifier: a loss of class scores, and top-1 on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jetlens.metrics import ConfusionMatrix
from jetlens.train.augment import PAD, Augmentation, apply_warp, cut_out, draw_warp, mix_up, plan_of, recolour
from jetlens.train.config import TrainConfig
from jetlens.train.losses import build_loss

__all__ = ["ClassificationRecipe"]

SMOOTHING = 0.05
LINE_PLAN = Augmentation(scale=(0.9, 1.1), shift=0.05, turn_deg=20, share=0.7)


class ClassificationRecipe:
    """What is special to classification; the metric is the share of right answers."""

    metric = "top1"

    def __init__(self, num_classes: int, config: TrainConfig) -> None:
        self.num_classes = num_classes
        self.plan = plan_of(config, LINE_PLAN)
        self._loss = build_loss(config, num_classes, SMOOTHING if config.label_smoothing is None else config.label_smoothing)

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": self.num_classes}

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size_hw = (int(images.shape[2]), int(images.shape[3]))
        if self.plan.warps:
            images = apply_warp(draw_warp(len(images), self.plan, images.device, size_hw), images, "bilinear", PAD)
        if self.plan.recolours:
            images = recolour(images, self.plan)
        return self.finish(images, truth)

    def finish(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.plan.cutout:
            images = cut_out(images, self.plan.cutout)
        if not self.plan.mixup:
            return images, truth
        mixed = mix_up(images)
        share = mixed.share.expand(len(images))
        return mixed.images, {**truth, "other_class_id": truth["class_id"][mixed.other], "share": share}

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        logits = network(images).float()
        loss = self._loss(logits, truth["class_id"])
        if "share" not in truth:
            return loss
        return torch.lerp(self._loss(logits, truth["other_class_id"]), loss, truth["share"][0])

    def count(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> NDArray[np.int64]:
        table = torch.zeros(self.num_classes**2, dtype=torch.int64)
        for images, truth in batches:
            answer = network(images).argmax(dim=1)
            table += torch.bincount(truth["class_id"] * self.num_classes + answer, minlength=len(table)).cpu()
        counts: NDArray[np.int64] = table.reshape(self.num_classes, self.num_classes).numpy()
        return counts

    def figures(self, counts: Any) -> dict[str, float]:
        matrix = matrix_of(counts)
        worst = float(matrix.recall[matrix.support > 0].min()) if matrix.total else 0.0
        return {"top1": matrix.accuracy, "macro_f1": matrix.macro_f1, "worst_recall": worst}


def matrix_of(counts: NDArray[np.int64]) -> ConfusionMatrix:
    """Counts [true, predicted] as a confusion matrix."""
    matrix = ConfusionMatrix(len(counts))
    matrix.counts[:, :-1] = counts
    return matrix
