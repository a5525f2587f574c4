"""The decoder of YuNet, a face detector with a class, an objectness and a box map at each stride."""

from __future__ import annotations

import numpy as np

from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import Candidates, Floats, check_anchors, corners_from_center, keep, made, output_of, strides_of

__all__ = ["yunet"]


def yunet(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Outputs ``cls_S``, ``obj_S`` [N, A, 1] (probabilities) and ``bbox_S`` [N, A, 4] at each stride S; ``kps_S`` is not read.

    A box is the offset of its center from its cell in strides, and the log of its size in strides; the score is sqrt(class * objectness).
    """
    strides = strides_of(spec, (8, 16, 32))

    def joined(part: str) -> Floats:
        return np.concatenate([output_of(outputs, spec, f"{part}_{stride}", ndim=3) for stride in strides], axis=1)

    scores = np.sqrt(np.clip(joined("cls"), 0, 1) * np.clip(joined("obj"), 0, 1))[..., 0]
    boxes = joined("bbox").astype(np.float32, copy=False)
    table = check_anchors(spec, boxes.shape[1], strides)
    found = []
    for score, raw in zip(scores, boxes, strict=True):
        kept = keep(score, confidence, spec)
        cell = table[kept]
        box = np.concatenate([raw[kept, :2] + cell[:, :2], np.exp(raw[kept, 2:])], axis=1) * cell[:, 2:]
        found.append(made(corners_from_center(box), score[kept], np.zeros(len(kept), np.int64)))
    return found
