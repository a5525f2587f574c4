"""A four-class segmenter of the kind of source 004, written anew: pooling in place of attention, GroupNorm, a pyramid of bilinear enlargements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class PoolingBlock(nn.Module):
    """Mixes neighbours by what an average differs from the pixel, then channels by two 1x1 convolutions; each scaled and added."""

    def __init__(self, channels: int, growth: int = 4) -> None:
        super().__init__()
        self.before_mixing = nn.GroupNorm(1, channels)
        self.before_channels = nn.GroupNorm(1, channels)
        self.widen = nn.Conv2d(channels, channels * growth, 1)
        self.narrow = nn.Conv2d(channels * growth, channels, 1)
        self.mixing_scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))
        self.channel_scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before_mixing(x)
        x = x + self.mixing_scale * (F.avg_pool2d(normal, 3, 1, 1, count_include_pad=False) - normal)
        return x + self.channel_scale * self.narrow(F.gelu(self.widen(self.before_channels(x))))


class PoolingSegmenter(nn.Module):
    """Four stages of strides 4 to 32, each brought to one width, enlarged to stride 4, summed, and enlarged to the picture."""

    def __init__(self, num_classes: int, widths: Sequence[int], depths: Sequence[int], pyramid: int) -> None:
        super().__init__()
        patches = [nn.Conv2d(3, widths[0], 7, 4, 2)]
        patches += [nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths)]
        self.patches = nn.ModuleList(patches)
        self.stages = nn.ModuleList(nn.Sequential(*(PoolingBlock(w) for _ in range(d))) for w, d in zip(widths, depths, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(1, w) for w in widths)
        self.laterals = nn.ModuleList(nn.Conv2d(w, pyramid, 1) for w in widths)
        self.smooth = nn.Sequential(nn.Conv2d(pyramid, pyramid, 3, padding=1), nn.GroupNorm(8, pyramid), nn.ReLU())
        self.head = nn.Conv2d(pyramid, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        levels = []
        for patch, stage, norm, lateral in zip(self.patches, self.stages, self.norms, self.laterals, strict=True):
            x = stage(patch(x))
            levels.append(lateral(norm(x)))
        finest = levels[0]
        for level in levels[1:]:
            finest = finest + F.interpolate(level, size=levels[0].shape[2:], mode="bilinear", align_corners=False)
        answer: Tensor = F.interpolate(self.head(self.smooth(finest)), size=size, mode="bilinear", align_corners=False)
        return answer


def s12(num_classes: int = 4) -> PoolingSegmenter:
    """The widths and depths of S12: 11.7 million parameters."""
    return PoolingSegmenter(num_classes, (64, 128, 320, 512), (2, 2, 6, 2), 128)


def tiny(num_classes: int = 4) -> PoolingSegmenter:
    """The same kinds of layers, small."""
    return PoolingSegmenter(num_classes, (8, 16, 24, 32), (1, 1, 2, 1), 16)


def not_a_segmenter(num_classes: int = 4) -> nn.Module:
    """Answers one number too many, as a class list that misses the background would show."""
    return nn.Sequential(nn.Conv2d(3, num_classes + 1, 3, padding=1))
