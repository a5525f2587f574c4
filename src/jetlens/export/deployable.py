"""Deployable networks: a trained network with the decoding that belongs into the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from jetlens.errors import ModelError
from jetlens.spec import TaskName

__all__ = ["BEST", "OUTPUTS", "RAW_DECODERS", "RAW_OUTPUTS", "TAPS", "Deployable", "fix_pools"]

BEST = 300
"""How many (anchor, class) pairs a detector's graph keeps for NMS on the host."""

OUTPUTS: dict[str, str] = {"classification": "logits", "detection": "detections", "segmentation": "mask"}
"""The output of each task's deployable graph."""

TAPS: dict[str, tuple[str, ...]] = {"classification": (), "detection": ("logits", "boxes"), "segmentation": ("logits",)}
"""The raw outputs that the verification twin has besides."""


RAW_OUTPUTS: dict[str, tuple[str, ...]] = {"classification": ("output",), "detection": ("boxes", "scores"), "segmentation": ("output",)}
"""The outputs of each task's plain graph."""

RAW_DECODERS: dict[str, str] = {"classification": "logits", "detection": "ssd", "segmentation": "logits"}
"""How the host reads them."""


class Deployable(nn.Module):
    """Normalised float pixels [N, C, H, W] to the task's output, and the raw numbers behind it; with ``raw`` to what a plain graph answers.

    A classifier gives logits [N, classes]; a segmenter logits [N, classes, h, w]; a detector gives class logits [N, A, classes] and raw
    boxes [N, A, 4], and has ``decode(logits, boxes)`` to boxes [N, A, 4] (left, top, right, bottom in input pixels) and scores [N, A, classes].
    """

    def __init__(self, network: nn.Module, task: TaskName, *, raw: bool = False) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.raw = raw
        if task == "detection" and not callable(getattr(network, "decode", None)):
            raise ModelError(f"{type(network).__name__} has no decode(logits, boxes), so it is no detector that can be exported")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The decoded output first, then the raw ones in the order of TAPS; with ``raw`` the logits alone, or all boxes and scores."""
        answer: Any = self.network(pixels)
        if self.raw and self.task == "detection":
            return tuple(self.network.decode(*answer))  # type: ignore[operator]
        if self.raw or self.task == "classification":
            return (answer,)
        if self.task == "segmentation":
            return answer.argmax(1).to(torch.int32), answer
        logits, boxes = answer
        return self.best(*self.network.decode(logits, boxes)), logits, boxes  # type: ignore[operator]

    @staticmethod
    def best(xyxy: Tensor, scores: Tensor) -> Tensor:
        """The best pairs of anchor and class as [N, K, 6]: box, confidence, class id."""
        anchors, classes = int(scores.shape[1]), int(scores.shape[2])
        confidence, index = torch.topk(scores.flatten(1), min(BEST, anchors * classes), dim=1)
        anchor = torch.div(index, classes, rounding_mode="trunc")
        class_id = (index - anchor * classes).to(xyxy.dtype)
        # Four gathers of one column would do the same; a joined index keeps the graph free of shape arithmetic.
        corners = torch.stack([anchor] * 4, dim=2)
        boxes = torch.gather(xyxy, 1, corners)
        return torch.cat([boxes, confidence.unsqueeze(2), class_id.unsqueeze(2)], dim=2)


class FixedPool(nn.Module):
    """An adaptive average pool at the one size that it is traced with: ONNX has none, and the exporter refuses sizes that do not divide evenly.

    Each pixel of the result averages a whole number of rows and columns, so two matrix products with constants do the same; where the sizes
    divide, it is a plain average pool.
    """

    def __init__(self, size_hw: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.size_hw = size_hw

    def forward(self, x: Tensor) -> Tensor:
        before = (int(x.shape[-2]), int(x.shape[-1]))
        after = (self.size_hw[0] or before[0], self.size_hw[1] or before[1])
        if after == before:
            return x
        if all(side % wanted == 0 for side, wanted in zip(before, after, strict=True)):
            return F.avg_pool2d(x, (before[0] // after[0], before[1] // after[1]))
        rows, columns = (_averages(side, wanted) for side, wanted in zip(before, after, strict=True))
        return rows.to(x) @ (x @ columns.to(x).T)


def _averages(before: int, after: int) -> Tensor:
    """[after, before]: the weights of PyTorch's bins, from the floor of their start to the ceiling of their end."""
    weights = np.zeros((after, before), np.float32)
    for index in range(after):
        start, end = index * before // after, -(-(index + 1) * before // after)
        weights[index, start:end] = 1 / (end - start)
    return torch.from_numpy(weights)


def fix_pools(network: nn.Module) -> None:
    """Replaces every adaptive average pool of a network whose result is larger than a pixel, in place."""
    for name, module in list(network.named_modules()):
        if not name or type(module) is not nn.AdaptiveAvgPool2d:
            continue
        size: Any = module.output_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        if (height, width) != (1, 1):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, FixedPool((height, width)))
