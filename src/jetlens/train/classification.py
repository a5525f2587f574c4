"""Training a classifier: cross-entropy, and accuracy on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.train.augment import PAD, Augmentation, apply_warp, draw_warp, recolour

__all__ = ["ClassificationRecipe"]

SMOOTHING = 0.05


class ClassificationRecipe:
    """What is special to classification; the metric is the share of right answers."""

    metric = "accuracy"

    def __init__(self, num_classes: int, size_hw: tuple[int, int]) -> None:
        self.num_classes = num_classes
        self.plan = Augmentation(scale=(0.9, 1.1), shift=0.05, turn_deg=20, share=0.7)

    def model_arguments(self) -> dict[str, object]:
        return {"num_classes": self.num_classes}

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = apply_warp(draw_warp(len(images), self.plan, images.device), images, "bilinear", PAD)
        return recolour(images, self.plan), truth

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        return F.cross_entropy(network(images).float(), truth["class_id"], label_smoothing=SMOOTHING)

    def measure(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
        table = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        for images, truth in batches:
            answer = network(images).argmax(dim=1)
            pairs = (truth["class_id"] * self.num_classes + answer).cpu()
            table += torch.bincount(pairs, minlength=self.num_classes**2).reshape(table.shape)
        right = table.diagonal().double()
        recall = right / table.sum(dim=1).clamp(min=1)
        return {"accuracy": float(right.sum() / table.sum().clamp(min=1)), "worst_recall": float(recall[table.sum(dim=1) > 0].min())}
