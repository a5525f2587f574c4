"""Decoders of the YOLO families: one row (or column) an anchor, box first, then objectness where the family has it, then classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import (
    Candidates,
    Floats,
    best_class,
    check_anchors,
    corners_from_center,
    first_output,
    keep,
    made,
    strides_of,
)

__all__ = ["yolov5", "yolov8", "yolox"]


def yolov5(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Output [N, A, 5 + C]: center x, center y, width, height in canvas pixels, objectness, class scores; the score is their product."""
    found = []
    for rows in first_output(outputs, spec, ndim=3):
        kept, score, class_id = _scored(rows, confidence, spec)
        found.append(made(corners_from_center(rows[kept, :4]), score, class_id))
    return found


def yolov8(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Output [N, 4 + C, A], or [N, A, 4 + C]: center x, center y, width, height in canvas pixels, class scores without objectness."""
    array = first_output(outputs, spec, ndim=3)
    values = 4 + len(spec.labels) + spec.label_offset
    if values not in array.shape[1:]:
        raise ModelError(
            f"{spec.name}: an output of shape {list(array.shape)} does not hold 4 box values and {values - 4} classes: check --labels or --decoder"
        )
    if array.shape[1] != values:
        array = array.transpose(0, 2, 1)
    found = []
    for columns in array:
        best, class_id = best_class(columns[4:], classes_axis=0)
        kept = keep(best, confidence, spec)
        found.append(made(corners_from_center(columns[:4, kept].T), best[kept], class_id[kept]))
    return found


def yolox(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Output [N, A, 5 + C]: offset of the center from its cell in strides, log of width and height in strides, objectness, class scores.

    The scores are probabilities already. With the option ``decoded`` the boxes are center x, center y, width, height in canvas pixels.
    """
    array = first_output(outputs, spec, ndim=3)
    table = None if spec.decoder_options.get("decoded") else check_anchors(spec, array.shape[1], strides_of(spec, (8, 16, 32)))
    found = []
    for rows in array:
        kept, score, class_id = _scored(rows, confidence, spec)
        boxes = rows[kept, :4].astype(np.float32, copy=False)
        if table is not None:
            cell = table[kept]
            boxes = np.concatenate([boxes[:, :2] + cell[:, :2], np.exp(boxes[:, 2:])], axis=1) * cell[:, 2:]
        found.append(made(corners_from_center(boxes), score, class_id))
    return found


def _scored(rows: Floats, confidence: float, spec: ModelSpec) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Kept anchors, their scores and classes where the score is objectness times class score; few anchors survive the objectness alone."""
    likely = keep(rows[:, 4], confidence, spec)
    best, class_id = best_class(rows[likely, 5:], classes_axis=1)
    score = rows[likely, 4] * best
    kept = keep(score, confidence, spec)
    return likely[kept], score[kept], class_id[kept]
