"""basic_cnn: the small image classifier of the tutorials, three convolution blocks and two fully connected layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.models.blocks import check_multiple

__all__ = ["BasicCNN", "basic_cnn"]

POOLED = 4


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2))


class BasicCNN(nn.Module):
    """Three blocks (3x3 convolution, batch norm, ReLU, 2x2 max pooling) of 32, 64 and 128 channels, averaged to 4x4, then 512 and classes.

    Input float [N, channels, H, W], H and W multiples of 32; output logits [N, classes].
    """

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(in_channels, 32), _block(32, 64), _block(64, 128))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(128 * POOLED * POOLED, 512)
        self.output = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        # Adaptive pooling exports only where the sizes divide, and there it is this plain average.
        check_multiple((height, width), 8 * POOLED, "basic_cnn")
        pooled = F.avg_pool2d(self.features(x), (height // (8 * POOLED), width // (8 * POOLED)))
        hidden = torch.relu(self.hidden(self.dropout(pooled.flatten(1))))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


def basic_cnn(num_classes: int = 10, in_channels: int = 3, dropout: float = 0.5) -> BasicCNN:
    """The classifier of the PyTorch tutorials' kind: [N, channels, H, W] -> logits [N, classes].

    1,147,914 parameters for 3 channels and 10 classes, whatever the input size: 32x32, 64x64, 224x224 or any multiples of 32.
    """
    return BasicCNN(num_classes, in_channels, dropout)
