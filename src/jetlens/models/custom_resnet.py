"""custom_resnet: residual networks of plain blocks, 18 layers deep by default, with a stem for small or for large pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from jetlens.errors import ModelError, UsageError
from jetlens.models.options import Activation, Norm, Pool
from jetlens.models.style import Style

__all__ = ["CustomResNet", "custom_resnet"]

BLOCKS: dict[int, tuple[int, ...]] = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Residual blocks in each stage, by the number of layers."""

Stem = Literal["cifar", "imagenet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); the names of the layers are torchvision's."""

    def __init__(self, inputs: int, outputs: int, stride: int, style: Style) -> None:
        super().__init__()
        before, stride = style.halving(stride)
        self.shrink = nn.Sequential(*before)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = style.normalise(outputs)
        self.act1 = style.activate()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = style.normalise(outputs)
        self.act2 = style.activate()
        self.downsample: nn.Module = nn.Identity()
        if before or stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), style.normalise(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(x)
        inner = self.act1(self.bn1(self.conv1(x)))
        answer: Tensor = self.act2(self.bn2(self.conv2(inner)) + self.downsample(x))
        return answer


class CustomResNet(nn.Module):
    """A stem, stages of basic blocks that halve the size from the second on, the average over what is left, and classes.

    Input float [N, channels, H, W] of any size that leaves a pixel after the stages; output logits [N, classes].
    """

    def __init__(
        self, num_classes: int, in_channels: int, blocks: Sequence[int], widths: Sequence[int], stem: Stem, dropout: float, style: Style
    ) -> None:
        super().__init__()
        self.smallest = (4 if stem == "imagenet" else 1) * 2 ** (len(blocks) - 1)
        first: list[nn.Module] = []
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, 3, bias=False)
            first = [nn.AvgPool2d(3, 2, 1) if style.pool == "avg" else nn.MaxPool2d(3, 2, 1)]
        else:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = style.normalise(widths[0])
        self.act1 = style.activate()
        self.maxpool = nn.Sequential(*first)
        inputs = widths[0]
        self.stages: list[str] = []
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (count - 1)
            stage = nn.Sequential(*(BasicBlock(inputs if at == 0 else width, width, stride, style) for at, stride in enumerate(strides)))
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], stage)
            inputs = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        if min(height, width) < self.smallest:
            raise ModelError(
                f"custom_resnet of this depth takes pictures of at least {self.smallest}x{self.smallest}, not {height}x{width}"
            )
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return logits


def custom_resnet(
    num_classes: int = 10,
    in_channels: int = 3,
    depth: int = 18,
    blocks: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    stem: Stem = "cifar",
    dropout: float = 0.0,
    norm: Norm = "batch",
    activation: Activation = "relu",
    pool: Pool = "stride",
) -> CustomResNet:
    """A ResNet: [N, channels, H, W] -> logits [N, classes], whatever the size from 8x8 on (32x32 with the stem of ImageNet).

    11,173,962 parameters for 18 layers, 3 channels and 10 classes; 11,181,642 with ``stem="imagenet"``, which then is torchvision's resnet18
    and takes its weights.

    Args:
        depth: 10, 18 or 34 layers.
        blocks: residual blocks in each stage, instead of ``depth``.
        widths: channels of each stage; 64, doubled from stage to stage, by default.
        stem: ``cifar`` is a 3x3 convolution that keeps the size; ``imagenet`` a 7x7 one of stride 2 and a pooling that halves again.

    Raises:
        UsageError: a depth without a plan, or stages without blocks or widths.
    """
    if blocks is None and depth not in BLOCKS:
        raise UsageError(f"depth is {depth!r}; allowed: {', '.join(map(str, BLOCKS))}, or give the blocks of each stage, such as [3, 3, 3]")
    plan = tuple(BLOCKS[depth] if blocks is None else blocks)
    channels = tuple(64 * 2**index for index in range(len(plan))) if widths is None else tuple(widths)
    if not plan or len(plan) != len(channels) or min(plan) < 1 or min(channels) < 1:
        raise UsageError(f"blocks are {list(plan)} and widths {list(channels)}; give one number of 1 or more for each stage")
    if stem not in get_args(Stem):
        raise UsageError(f"stem is {stem!r}; allowed: {', '.join(get_args(Stem))}")
    return CustomResNet(num_classes, in_channels, plan, channels, stem, dropout, Style(norm, activation, pool))
