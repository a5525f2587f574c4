"""Training: TrainConfig in, a checkpoint out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jetlens.registry import require, resolve
from jetlens.train.config import Progress, TrainConfig

if TYPE_CHECKING:
    from jetlens.train.samples import Split

__all__ = ["Progress", "TrainConfig", "train"]


def train(config: TrainConfig, progress: Callable[[Progress], None] | None = None, split: Split | None = None) -> Path:
    """Trains one network and returns its checkpoint; a JSON list of the epochs stands beside it.

    Args:
        progress: called every few steps and after each validation.
        split: samples that are already drawn; None draws those of ``config.data``.

    Raises:
        TrainingError: no GPU where one is asked for, or the loss is no number any more.
        UsageError: a setting is out of its range.
        MissingDependencyError: torch, torchvision or safetensors is not installed.
    """
    for package in ("torch", "torchvision", "safetensors"):
        require(package, extra="train", why="training")
    checkpoint: Path = resolve("jetlens.train.loop:run")(config, progress, split)
    return checkpoint
