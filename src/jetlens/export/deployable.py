"""Deployable networks: a trained network with the decoding that belongs into the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jetlens.errors import ModelError
from jetlens.spec import TaskName

__all__ = ["BEST", "OUTPUTS", "TAPS", "Deployable"]

BEST = 300
"""How many (anchor, class) pairs a detector's graph keeps for NMS on the host."""

OUTPUTS: dict[str, str] = {"classification": "logits", "detection": "detections", "segmentation": "mask"}
"""The output of each task's deployable graph."""

TAPS: dict[str, tuple[str, ...]] = {"classification": (), "detection": ("logits", "boxes"), "segmentation": ("logits",)}
"""The raw outputs that the verification twin has besides."""


class Deployable(nn.Module):
    """Normalised float pixels [N, C, H, W] to the task's output, and the raw numbers behind it.

    A classifier gives logits [N, classes]; a segmenter logits [N, classes, h, w]; a detector gives class logits [N, A, classes] and raw
    boxes [N, A, 4], and has ``decode(logits, boxes)`` to boxes [N, A, 4] (left, top, right, bottom in input pixels) and scores [N, A, classes].
    """

    def __init__(self, network: nn.Module, task: TaskName) -> None:
        super().__init__()
        self.network = network
        self.task = task
        if task == "detection" and not callable(getattr(network, "decode", None)):
            raise ModelError(f"{type(network).__name__} has no decode(logits, boxes), so it is no detector that can be exported")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The decoded output first, then the raw ones in the order of TAPS."""
        answer: Any = self.network(pixels)
        if self.task == "classification":
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
