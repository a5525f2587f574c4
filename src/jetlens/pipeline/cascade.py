"""Cascade: find objects, grade each one on its own crop, mark the defects of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.predictor import Predictor
from jetlens.results import Classification, Detections, Segmentation

__all__ = ["Cascade", "Inspection"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a cascade says of one picture.

    Attributes:
        objects: one row an object: box, the confidence of the detector, and as class_id the grade that its crop got.
        segmentation: a class id for every pixel of the picture.
        defect_ratio: float32 [N], the share of each object's area (the ellipse in its box) that is not background.
    """

    objects: Detections
    segmentation: Segmentation
    defect_ratio: NDArray[np.float32]


class Cascade:
    """Three predictors as one: a detector, a classifier of its crops and a segmenter of the whole picture."""

    def __init__(self, detector: Predictor, grader: Predictor, segmenter: Predictor) -> None:
        for predictor, task in ((detector, "detection"), (grader, "classification"), (segmenter, "segmentation")):
            if predictor.spec.task != task:
                raise UsageError(f"the cascade needs a model for {task}; {predictor.spec.name} is for {predictor.spec.task}")
        self.detector = detector
        self.grader = grader
        self.segmenter = segmenter

    def __call__(self, image_rgb: Image) -> Inspection:
        """Inspects one picture: uint8 RGB [height, width, 3]."""
        found = self.detector(image_rgb)
        marked = self.segmenter(image_rgb)
        assert isinstance(found, Detections)
        assert isinstance(marked, Segmentation)
        boxes = whole_pixels(found)
        grades = self.grader.batch([image_rgb[top:bottom, left:right] for left, top, right, bottom in boxes])
        class_id = np.array([grade.class_id[0] for grade in grades if isinstance(grade, Classification)], np.int64)
        objects = replace(found, class_id=class_id, labels=self.grader.spec.labels)
        return Inspection(objects, marked, defect_ratios(marked.mask, boxes))


def whole_pixels(detections: Detections) -> NDArray[np.int64]:
    """Boxes [N, 4] grown to whole pixels of the picture, each at least one pixel wide and high."""
    height, width = detections.size_hw
    boxes = np.concatenate([np.floor(detections.xyxy[:, :2]), np.ceil(detections.xyxy[:, 2:])], axis=1).astype(np.int64)
    boxes[:, :2] = np.clip(boxes[:, :2], 0, (width - 1, height - 1))
    boxes[:, 2:] = np.clip(boxes[:, 2:], boxes[:, :2] + 1, (width, height))
    return boxes


def defect_ratios(mask: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.float32]:
    """For each box [left, top, right, bottom] the pixels in it that are not class 0, over the area of the ellipse that fills it."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * (np.pi / 4)
    counts = [np.count_nonzero(mask[top:bottom, left:right]) for left, top, right, bottom in boxes]
    return np.minimum(np.array(counts, np.float64) / np.maximum(areas, 1), 1).astype(np.float32)
