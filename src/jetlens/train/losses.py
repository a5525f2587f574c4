"""Losses of class scores by name: cross-entropy, focal, Dice, and a user's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from jetlens.data.base import IGNORED
from jetlens.errors import UsageError
from jetlens.registry import resolve
from jetlens.train.config import LOSSES, TrainConfig

__all__ = ["IGNORE", "Loss", "build_loss", "cross_entropy", "dice", "dice_loss", "focal"]

IGNORE = IGNORED
"""The class id of pixels that count neither in the loss nor in the score."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [N, C, ...] and class ids int64 [N, ...] to one number."""


def cross_entropy(config: TrainConfig, weight: Tensor | None, smoothing: float) -> Loss:
    """Cross-entropy with label smoothing and class weights."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, _on(weight, logits), ignore_index=IGNORE, label_smoothing=smoothing)

    return loss


def focal(config: TrainConfig, weight: Tensor | None, smoothing: float) -> Loss:
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma, p the probability of the true class; gamma 0 is cross-entropy."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        weights = _on(weight, logits)
        each = F.cross_entropy(logits, target, weights, ignore_index=IGNORE, label_smoothing=smoothing, reduction="none")
        counted = target != IGNORE
        sure = logits.softmax(dim=1).gather(1, (target * counted)[:, None])[:, 0]
        total = counted.sum() if weights is None else (weights[target * counted] * counted).sum()
        return ((1 - sure).clamp(min=0) ** config.focal_gamma * each).sum() / total.clamp(min=1e-9)

    return loss


def dice(config: TrainConfig, weight: Tensor | None, smoothing: float) -> Loss:
    """1 minus the soft Dice of the batch, the mean of all classes."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return dice_loss(logits.softmax(dim=1), target, first=0)

    return loss


def dice_loss(probabilities: Tensor, target: Tensor, first: int = 1) -> Tensor:
    """1 minus the soft Dice of the whole batch, the mean of the classes from ``first`` on.

    Args:
        probabilities: [N, C, ...].
        target: class ids, int64 [N, ...]; what is IGNORE does not count.
    """
    classes = probabilities.shape[1]
    counted = target != IGNORE
    truth = F.one_hot(target * counted, classes).movedim(-1, 1).to(probabilities.dtype) * counted[:, None]
    there = probabilities * counted[:, None]
    axes = [axis for axis in range(probabilities.ndim) if axis != 1]
    both, total = (there * truth).sum(dim=axes), there.sum(dim=axes) + truth.sum(dim=axes)
    return 1 - ((2 * both[first:] + 1) / (total[first:] + 1)).mean()


def _on(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    return None if weight is None else weight.to(logits)


def build_loss(config: TrainConfig, num_classes: int, smoothing: float) -> Loss:
    """The loss that the config names; ``module:function`` is a user's own, which takes logits and class ids.

    Raises:
        UsageError: the weights are not one a class, or the function cannot be imported.
    """
    weight = None if config.class_weights is None else torch.tensor(list(config.class_weights), dtype=torch.float32)
    if weight is not None and (len(weight) != num_classes or not bool((weight >= 0).all())):
        raise UsageError(f"class weights: {len(weight)} came; give {num_classes} numbers of 0 or more, one a class")
    name = config.loss or "cross-entropy"
    if ":" in name:
        return _own(name)
    built: Loss = LOSSES.load(name)(config, weight, smoothing)
    return built


def _own(name: str) -> Loss:
    """A function of the user's, also from the folder in which the command runs."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function: Loss = resolve(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"loss {name!r}: {error}; give module:function of a module that can be imported here") from None
    if not callable(function):
        raise UsageError(f"loss {name!r} is no function; give module:function")
    return function
