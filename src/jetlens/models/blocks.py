"""Convolution blocks that the compact networks share: plain convolutions, batch norm and ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jetlens.errors import ModelError

__all__ = ["Bottleneck", "ConvBlock", "check_multiple"]


class ConvBlock(nn.Sequential):
    """Convolution without bias, batch norm and ReLU; padded so that stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1 with half the channels inside (He et al. 2016); the 3x3 may be dilated."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        inner = channels // 2
        self.reduce = ConvBlock(channels, inner, 1)
        self.mix = ConvBlock(inner, inner, 3, dilation=dilation)
        self.expand = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.expand(self.mix(self.reduce(x))))


def check_multiple(size_hw: tuple[int, int], step: int, network: str) -> None:
    """Refuses a size whose sides the network cannot halve evenly.

    Raises:
        ModelError: a side is no positive multiple of ``step``.
    """
    height, width = size_hw
    if height < step or width < step or height % step or width % step:
        near = tuple(max(step, round(side / step) * step) for side in size_hw)
        raise ModelError(
            f"{network} takes sizes whose height and width are multiples of {step}, not {height}x{width}; the nearest is {near[0]}x{near[1]}"
        )
