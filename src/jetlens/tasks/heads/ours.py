"""The decoder of jetlens's own exports, whose graph has decoded already."""

from __future__ import annotations

import numpy as np

from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import Candidates, first_output, keep, made

__all__ = ["detections"]


def detections(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Output [N, K, 6]: left, top, right, bottom in canvas pixels, confidence, class id."""
    found = []
    for rows in first_output(outputs, spec, ndim=3):
        rows = rows[keep(rows[:, 4], confidence, spec)]
        found.append(made(rows[:, :4], rows[:, 4], np.rint(rows[:, 5])))
    return found
