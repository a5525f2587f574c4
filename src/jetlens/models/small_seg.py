"""small_seg: a compact segmentation network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.models.blocks import Bottleneck, ConvBlock, check_multiple
from jetlens.models.options import Activation, Norm, Pool
from jetlens.models.style import Style

__all__ = ["SmallSegmenter", "small_seg"]

STEP = 8
FINE = 4


class SmallSegmenter(nn.Module):
    """Encoder to 1/8 with dilated residual blocks for context, joined with the 1/4 features; each 1/4 cell answers for its 4x4 pixels.

    Input float [N, channels, H, W], H and W multiples of 8; output logits [N, classes, H, W].
    """

    def __init__(
        self, num_classes: int, in_channels: int, channels: Sequence[int], dilations: Sequence[int], join: int, style: Style
    ) -> None:
        super().__init__()
        c2, c4, c8 = channels
        self.stem = nn.Sequential(ConvBlock(in_channels, c2, stride=2, style=style), ConvBlock(c2, c4, stride=2, style=style))
        self.context = nn.Sequential(ConvBlock(c4, c8, stride=2, style=style), *(Bottleneck(c8, dilation, style) for dilation in dilations))
        self.coarse = ConvBlock(c8, join, 1, style=style)
        self.fine = ConvBlock(c4, join, 1, style=style)
        self.join = ConvBlock(join, join, style=style)
        self.output = nn.Conv2d(join, num_classes * FINE**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple((int(x.shape[-2]), int(x.shape[-1])), STEP, "small_seg")
        fine = self.stem(x)
        coarse = F.interpolate(self.coarse(self.context(fine)), scale_factor=2.0, mode="bilinear", align_corners=False)
        joined = self.join(self.fine(fine) + coarse)
        # Cracks are a pixel or two wide: sub-pixel logits keep them where an interpolated 1/4 map would not, at the same cost.
        return F.pixel_shuffle(self.output(joined), FINE)


def small_seg(
    num_classes: int = 4,
    in_channels: int = 3,
    channels: Sequence[int] = (16, 32, 64),
    dilations: Sequence[int] = (1, 2, 4, 8),
    join: int = 32,
    norm: Norm = "batch",
    activation: Activation = "relu",
    pool: Pool = "stride",
) -> SmallSegmenter:
    """The segmenter: [N, channels, H, W] -> logits [N, classes, H, W] at any height and width that are multiples of 8.

    92,560 parameters for 4 classes. After DeepLabv3+ (Chen et al. 2018: dilated context joined with finer features) and
    ESPCN (Shi et al. 2016: sub-pixel output), with plain convolutions.
    """
    return SmallSegmenter(num_classes, in_channels, channels, dilations, join, Style(norm, activation, pool))
