"""small_det: a compact anchor-free detector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.models.blocks import Bottleneck, ConvBlock, check_multiple
from jetlens.models.options import Activation, Norm, Pool
from jetlens.models.style import Style

__all__ = ["SmallDetector", "small_det"]

STRIDES = (8, 16, 32)
PRIOR = 0.01


class Tower(nn.Module):
    """A convolution that all levels share, with a normalisation for each.

    In training, batch norm sees one level at a time; statistics kept for all levels together would be no level's own when they are used.
    """

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(style.normalise(channels) for _ in STRIDES)
        self.activate = style.activate()

    def forward(self, x: Tensor, level: int) -> Tensor:
        answer: Tensor = self.activate(self.norms[level](self.mix(x)))
        return answer


class SmallDetector(nn.Module):
    """Residual backbone, a top-down pyramid over strides 8, 16 and 32, and one decoupled head that the levels share.

    Input float [N, channels, H, W] at ``size_hw``; ``forward`` gives raw numbers, ``decode`` boxes and scores.
    An anchor is the centre of a cell; its box is four distances to the sides.

    Attributes:
        size_hw: height and width of the input, multiples of 32.
        centres: x and y of the A anchors in input pixels, [A, 2].
        strides: the cell size of each anchor in pixels, [A, 1].
    """

    centres: Tensor
    strides: Tensor

    def __init__(
        self, num_classes: int, in_channels: int, size_hw: tuple[int, int], channels: Sequence[int], neck: int, style: Style
    ) -> None:
        super().__init__()
        check_multiple(size_hw, STRIDES[-1], "small_det")
        self.size_hw = size_hw
        c2, c4, c8, c16, c32 = channels
        self.stem = nn.Sequential(ConvBlock(in_channels, c2, stride=2, style=style), ConvBlock(c2, c4, stride=2, style=style))
        self.stage8 = nn.Sequential(ConvBlock(c4, c8, stride=2, style=style), Bottleneck(c8, style=style))
        self.stage16 = nn.Sequential(ConvBlock(c8, c16, stride=2, style=style), Bottleneck(c16, style=style), Bottleneck(c16, style=style))
        self.stage32 = nn.Sequential(ConvBlock(c16, c32, stride=2, style=style), Bottleneck(c32, style=style), Bottleneck(c32, style=style))
        self.laterals = nn.ModuleList(ConvBlock(c, neck, 1, style=style) for c in (c8, c16, c32))
        self.class_tower = Tower(neck, style)
        self.box_tower = Tower(neck, style)
        self.class_output = nn.Conv2d(neck, num_classes, 1)
        self.box_output = nn.Conv2d(neck, 4, 1)
        nn.init.constant_(_bias(self.class_output), -math.log((1 - PRIOR) / PRIOR))
        nn.init.constant_(_bias(self.box_output), 2.0)
        centres, strides = _anchors(size_hw)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N, A, classes] and raw distances [N, A, 4], finest level first."""
        f8 = self.stage8(self.stem(x))
        f16 = self.stage16(f8)
        f32 = self.stage32(f16)
        p32 = self.laterals[2](f32)
        p16 = self.laterals[1](f16) + F.interpolate(p32, scale_factor=2.0, mode="nearest")
        p8 = self.laterals[0](f8) + F.interpolate(p16, scale_factor=2.0, mode="nearest")
        levels = (p8, p16, p32)
        logits = torch.cat([self.class_output(self.class_tower(p, level)).flatten(2) for level, p in enumerate(levels)], dim=2)
        boxes = torch.cat([self.box_output(self.box_tower(p, level)).flatten(2) for level, p in enumerate(levels)], dim=2)
        return logits.transpose(1, 2), boxes.transpose(1, 2)

    def decode(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, A, 4] as x1, y1, x2, y2 in input pixels, not clipped, and scores [N, A, classes]."""
        reach = F.softplus(boxes) * self.strides
        xyxy = torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=-1)
        return xyxy, torch.sigmoid(logits)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _anchors(size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres [A, 2] and cell sizes [A, 1], row by row, finest level first."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(*(torch.arange(side // stride) for side in size_hw), indexing="ij")
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((x.numel(), 1), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def small_det(
    num_classes: int = 1,
    in_channels: int = 3,
    size_hw: Sequence[int] = (288, 512),
    channels: Sequence[int] = (16, 32, 64, 96, 160),
    neck: int = 48,
    norm: Norm = "batch",
    activation: Activation = "relu",
    pool: Pool = "stride",
) -> SmallDetector:
    """The detector: [N, channels, H, W] -> class logits [N, A, classes] and raw distances [N, A, 4], A = 21/1024 of the pixels.

    517,221 parameters for one class. The weights do not depend on ``size_hw`` (multiples of 32; 288x512 gives A = 3024), only the constants of ``decode`` do.
    After FCOS (Tian et al. 2019: one point a cell, distances to the sides) and YOLOX (Ge et al. 2021: decoupled head).
    """
    height, width = size_hw
    return SmallDetector(num_classes, in_channels, (int(height), int(width)), channels, neck, Style(norm, activation, pool))
