"""The pictures of a validation on which a network did worst, with what is drawn of them."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from jetlens.frame import Image
from jetlens.metrics import ConfusionMatrix
from jetlens.ops.boxes import iou_matrix
from jetlens.overlay import draw
from jetlens.results import Classification, Detections, Prediction, Segmentation
from jetlens.train.losses import IGNORE

__all__ = ["Mistake", "Worst", "box_f1"]

SHOWN = 24
SIDE = 480
"""Pixels of a kept picture's longer side."""
CONFIDENCE = 0.5
IOU = 0.5


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture as it is shown, what is true of it, what was predicted, and how surely or how well.

    Attributes:
        badness: what the worst are chosen by, higher is worse.
        figure: confidence of a class, F1 of boxes or mIoU of a mask, 0 to 1.
    """

    badness: float
    image: Image
    true: str
    predicted: str
    figure: float
    name: str


@dataclass(slots=True)
class Worst:
    """Collects them; of a classifier the surest wrong answers, else the pictures with the lowest F1 or mIoU, true and predicted side by side."""

    labels: tuple[str, ...]
    rows: list[Mistake] = field(default_factory=list)

    def add(self, prediction: Prediction, image: Image, truth: Any, name: str) -> None:
        """Looks at one picture; keeps it, reduced, if it is among the worst so far."""
        if isinstance(prediction, Classification):
            best, true, figure = int(prediction.class_id[0]), int(truth), float(prediction.confidence[0])
            if best != true and self._enters(figure):
                self._keep(Mistake(figure, _reduced(image), self.labels[true], self.labels[best], figure, name))
            return
        if isinstance(prediction, Detections):
            prediction = prediction[prediction.confidence >= CONFIDENCE]
            word, figure = "F1", box_f1(prediction, truth)
        else:
            word, figure = "mIoU", _mask_iou(prediction, truth, len(self.labels))
        if figure < 1 and self._enters(1 - figure):
            real = (
                truth if isinstance(truth, Detections) else Segmentation(np.where(truth == IGNORE, 0, truth).astype(np.uint8), self.labels)
            )
            pair = np.concatenate([draw(image, result, legend=False) for result in (real, prediction)], axis=1)
            self._keep(Mistake(1 - figure, _reduced(pair), "left", f"right: {word}", figure, name))

    def _enters(self, badness: float) -> bool:
        return len(self.rows) < SHOWN or badness > self.rows[-1].badness

    def _keep(self, row: Mistake) -> None:
        insort(self.rows, row, key=lambda other: -other.badness)
        del self.rows[SHOWN:]


def box_f1(found: Detections, true: Detections) -> float:
    """F1 of one picture's boxes at IoU 0.5, matched one to one in the order of the found; 1 where there is nothing and nothing was found."""
    if not len(found) or not len(true):
        return float(len(found) == len(true))
    fits = iou_matrix(found.xyxy, true.xyxy) * (found.class_id[:, None] == true.class_id)
    right = 0
    for row in fits:
        best = int(row.argmax())
        if row[best] >= IOU:
            right += 1
            fits[:, best] = 0
    return 2 * right / (len(found) + len(true))


def _mask_iou(prediction: Segmentation, truth: Any, classes: int) -> float:
    matrix = ConfusionMatrix(max(2, classes), ignore=IGNORE)
    matrix.add(np.asarray(truth), prediction.mask)
    return matrix.mean_iou


def _reduced(image: Image) -> Image:
    picture = PillowImage.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)
