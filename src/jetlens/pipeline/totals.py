"""ClassTotals: how many pixels each class of a segmentation had in all frames of a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.results import Prediction, Segmentation

__all__ = ["ClassTotals"]


class ClassTotals:
    """Adds up segmentations; other predictions have no pixels and are left out.

    Attributes:
        frames: segmentations that were added.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._pixels: NDArray[np.int64] = np.zeros(0, np.int64)
        self._frames: NDArray[np.int64] = np.zeros(0, np.int64)
        self._labels: tuple[str, ...] = ()

    def add(self, prediction: Prediction) -> None:
        """One frame's answer."""
        if not isinstance(prediction, Segmentation):
            return
        pixels = prediction.pixels()
        more = (0, max(0, len(pixels) - len(self._pixels)))
        self._pixels, self._frames = np.pad(self._pixels, more), np.pad(self._frames, more)
        self._pixels[: len(pixels)] += pixels
        self._frames[: len(pixels)] += pixels > 0
        self._labels = prediction.labels
        self.frames += 1

    def rows(self) -> list[dict[str, Any]]:
        """By class that occurred its id, label, pixels, ratio of all pixels and the frames that it was in; the ratios sum to 1."""
        total = int(self._pixels.sum())
        return [
            {
                "class_id": int(i),
                "label": self._labels[i] if i < len(self._labels) else str(i),
                "pixels": int(self._pixels[i]),
                "ratio": int(self._pixels[i]) / total,
                "frames": int(self._frames[i]),
            }
            for i in np.flatnonzero(self._pixels)
        ]
