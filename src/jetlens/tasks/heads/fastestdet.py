"""The decoder of FastestDet, which has a single feature map."""

from __future__ import annotations

import numpy as np

from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import Candidates, best_class, corners_from_center, first_output, keep, made

__all__ = ["fastestdet"]


def fastestdet(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Output [N, 5 + C, rows, columns]: objectness, center (tanh: an offset from the cell), size (sigmoid: a part of the canvas), class scores.

    Objectness and class scores are probabilities already; the score is objectness^0.6 * class^0.4.
    """
    array = first_output(outputs, spec, ndim=4)
    rows, columns = array.shape[2:]
    height, width = spec.preprocess.size_hw
    cell_wh = np.array([width / columns, height / rows], np.float32)
    found = []
    for picture in array.reshape(*array.shape[:2], rows * columns).astype(np.float32, copy=False):
        # A class score is at most 1, so a cell whose objectness^0.6 is too low cannot be saved by its class.
        likely = keep(picture[0] ** 0.6, confidence, spec)
        best, class_id = best_class(picture[5:, likely], classes_axis=0)
        score = picture[0, likely] ** 0.6 * best**0.4
        kept = keep(score, confidence, spec)
        cell = likely[kept]
        raw = picture[1:5, cell].T
        middle = (np.stack([cell % columns, cell // columns], axis=1) + np.tanh(raw[:, :2])) * cell_wh
        size = np.array([width, height], np.float32) / (1 + np.exp(-raw[:, 2:]))
        found.append(made(corners_from_center(np.concatenate([middle, size], axis=1)), score[kept], class_id[kept]))
    return found
