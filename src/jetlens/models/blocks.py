"""Convolution blocks that the compact networks share: plain convolutions, normalisation and activation."""

from __future__ import annotations

from torch import Tensor, nn

from jetlens.errors import ModelError
from jetlens.models.style import PLAIN, Style

__all__ = ["Bottleneck", "ConvBlock", "check_multiple"]


class ConvBlock(nn.Sequential):
    """Convolution without bias, normalisation and activation; padded so that stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, style: Style = PLAIN) -> None:
        padding = dilation * (kernel // 2)
        before, stride = style.halving(stride)
        super().__init__(
            *before,
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            style.normalise(outputs),
            style.activate(),
        )


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3, 1x1 with half the channels inside (He et al. 2016); the 3x3 may be dilated."""

    def __init__(self, channels: int, dilation: int = 1, style: Style = PLAIN) -> None:
        super().__init__()
        inner = channels // 2
        self.style = style
        self.reduce = ConvBlock(channels, inner, 1, style=style)
        self.mix = ConvBlock(inner, inner, 3, dilation=dilation, style=style)
        self.expand = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), style.normalise(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.style.activated(x + self.expand(self.mix(self.reduce(x))))


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
