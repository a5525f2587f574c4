"""The choices that our own networks share: normalisation, activation and how a size is halved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.errors import UsageError
from jetlens.models.options import Activation, Norm, Pool

__all__ = ["PLAIN", "ChannelNorm", "Style"]

GROUPS = 8
SLOPE = 0.1


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel: [N, C, H, W] to the same."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.channels = channels  # a plain number, so that the traced graph has it as a constant
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.permute(0, 2, 3, 1), (self.channels,), self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Style:
    """What the blocks of a network are made of.

    Attributes:
        norm: batch norm; group norm in up to 8 groups; layer norm over the channels of each pixel. The last two do not depend on the batch.
        pool: how a size is halved: by a convolution's stride, or by 2x2 max or average pooling before a convolution without stride.
    """

    norm: Norm = "batch"
    activation: Activation = "relu"
    pool: Pool = "stride"

    def __post_init__(self) -> None:
        for key, value, kind in (("norm", self.norm, Norm), ("activation", self.activation, Activation), ("pool", self.pool, Pool)):
            if value not in get_args(kind):
                raise UsageError(f"{key} is {value!r}; allowed: {', '.join(get_args(kind))}")

    def normalise(self, channels: int) -> nn.Module:
        """A new layer of normalisation."""
        if self.norm == "group":
            return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
        return nn.BatchNorm2d(channels) if self.norm == "batch" else ChannelNorm(channels)

    def activate(self) -> nn.Module:
        """A new activation layer, working in place."""
        if self.activation == "leaky_relu":
            return nn.LeakyReLU(SLOPE, inplace=True)
        return nn.ReLU(inplace=True) if self.activation == "relu" else nn.ELU(inplace=True)

    def activated(self, x: Tensor) -> Tensor:
        """The activation as a function, not in place."""
        if self.activation == "leaky_relu":
            return F.leaky_relu(x, SLOPE)
        return torch.relu(x) if self.activation == "relu" else F.elu(x)

    def pooling(self) -> nn.Module:
        """A new 2x2 pooling layer.

        Raises:
            UsageError: ``pool`` is ``stride``.
        """
        if self.pool == "stride":
            raise UsageError("pool is 'stride', and this network halves its size by pooling; allowed: max, avg")
        return nn.MaxPool2d(2) if self.pool == "max" else nn.AvgPool2d(2)

    def halving(self, stride: int) -> tuple[list[nn.Module], int]:
        """The layers to put before a convolution so that it halves the size (stride 2) or keeps it (1), and the stride left for it."""
        return ([], stride) if stride == 1 or self.pool == "stride" else ([self.pooling()], 1)


PLAIN = Style()
"""Batch norm, ReLU and strides: what the networks are made of unless something else is asked for."""
