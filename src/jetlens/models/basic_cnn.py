"""basic_cnn: the small image classifier of the tutorials, three convolution blocks and two fully connected layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.models.blocks import check_multiple
from jetlens.models.options import Activation, Norm, Pool
from jetlens.models.style import Style

__all__ = ["BasicCNN", "basic_cnn"]

POOLED = 4


def _block(inputs: int, outputs: int, style: Style) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), style.normalise(outputs), style.activate(), style.pooling())


class BasicCNN(nn.Module):
    """Three blocks (3x3 convolution, normalisation, activation, 2x2 pooling) of 32, 64 and 128 channels, averaged to 4x4, then 512 and classes.

    Input float [N, channels, H, W], H and W multiples of 32; output logits [N, classes].
    """

    def __init__(self, num_classes: int, in_channels: int, dropout: float, style: Style) -> None:
        super().__init__()
        self.style = style
        self.features = nn.Sequential(_block(in_channels, 32, style), _block(32, 64, style), _block(64, 128, style))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(128 * POOLED * POOLED, 512)
        self.output = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        # Adaptive pooling exports only where the sizes divide, and there it is this plain average.
        check_multiple((height, width), 8 * POOLED, "basic_cnn")
        pooled = F.avg_pool2d(self.features(x), (height // (8 * POOLED), width // (8 * POOLED)))
        hidden = self.style.activated(self.hidden(self.dropout(pooled.flatten(1))))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


def basic_cnn(
    num_classes: int = 10,
    in_channels: int = 3,
    dropout: float = 0.5,
    norm: Norm = "batch",
    activation: Activation = "relu",
    pool: Pool = "max",
) -> BasicCNN:
    """The classifier of the PyTorch tutorials' kind: [N, channels, H, W] -> logits [N, classes].

    1,147,914 parameters for 3 channels and 10 classes, whatever the input size: 32x32, 64x64, 224x224 or any multiples of 32.
    """
    return BasicCNN(num_classes, in_channels, dropout, Style(norm, activation, pool))
