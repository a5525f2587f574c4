"""Recipe: what a task adds to the loop; a table of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from jetlens.registry import Table
from jetlens.train.config import TrainConfig

__all__ = ["RECIPES", "Recipe"]

RECIPES = Table(
    "task",
    {
        "classification": "jetlens.train.classification:ClassificationRecipe",
        "detection": "jetlens.train.detection:DetectionRecipe",
        "segmentation": "jetlens.train.segmentation:SegmentationRecipe",
    },
)


class Recipe(Protocol):
    """Built as ``SomeRecipe(num_classes, config)``.

    Attributes:
        metric: the figure by which the best weights are chosen, higher is better.
    """

    metric: str

    def __init__(self, num_classes: int, config: TrainConfig) -> None: ...

    def model_arguments(self) -> dict[str, object]:
        """Arguments of the model's factory that follow from the task."""
        ...

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Changes float images [N, 3, H, W] in grey levels, and their truth with them."""
        ...

    def finish(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The last part of ``augment`` (cutout, mixup), for pictures that were augmented one by one."""
        ...

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        """One number to minimise; images are normalised, ``done`` is the share of the run that is over."""
        ...

    def count(self, network: nn.Module, batches: Iterable[tuple[Tensor, dict[str, Tensor]]]) -> NDArray[np.int64]:
        """Whole numbers whose sum over parts of the data is that of all the data."""
        ...

    def figures(self, counts: Any) -> dict[str, float]:
        """The validation figures from the counts, ``metric`` among them."""
        ...
