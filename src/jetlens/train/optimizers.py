"""The optimizers by name: AdamW, Adam and SGD; biases and norms are not decayed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jetlens.train.config import OPTIMIZERS, TrainConfig

__all__ = ["adam", "adamw", "build_optimizer", "sgd"]

Groups = list[dict[str, Any]]


def adamw(groups: Groups, config: TrainConfig, fused: bool) -> torch.optim.Optimizer:
    """AdamW: the decay is apart from the gradient."""
    return torch.optim.AdamW(groups, lr=config.lr or 1e-3, fused=fused)


def adam(groups: Groups, config: TrainConfig, fused: bool) -> torch.optim.Optimizer:
    """Adam: the decay is part of the gradient."""
    return torch.optim.Adam(groups, lr=config.lr or 1e-3, fused=fused)


def sgd(groups: Groups, config: TrainConfig, fused: bool) -> torch.optim.Optimizer:
    """SGD with momentum, Nesterov's where asked."""
    return torch.optim.SGD(groups, lr=config.lr or 1e-3, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The config's optimizer over the parameters that are trained."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups: Groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    built: torch.optim.Optimizer = OPTIMIZERS.load(config.optimizer)(
        [group for group in groups if group["params"]], config, trained[0].is_cuda
    )
    return built
