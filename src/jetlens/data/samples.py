"""Sample: a picture with its truth; and the pictures of the orange line that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetlens.data.orange_line import CLASSES, DETECTION_CLASSES, GRADES, still
from jetlens.frame import Image
from jetlens.imagefile import load_image
from jetlens.results import Detections
from jetlens.spec import ModelSpec, TaskName

__all__ = ["ORANGE_LINE_LABELS", "TEST_SEED", "Sample", "Truth", "is_orange_line_model", "orange_line_samples"]

Truth: TypeAlias = "int | Detections | NDArray[np.uint8]"
"""A class id, boxes, or a mask of class ids [height, width] of the picture's size."""

TEST_SEED = 2_000_000
"""Stills from this seed on are for testing; training and its validation stay below."""

ORANGE_LINE_LABELS: dict[TaskName, tuple[str, ...]] = {
    "classification": GRADES,
    "detection": DETECTION_CLASSES,
    "segmentation": CLASSES,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is true of it.

    Attributes:
        image: uint8 RGB [height, width, 3], or the file to read.
        name: for messages.
    """

    image: Image | Path
    truth: Truth
    name: str

    def pixels(self) -> Image:
        """The picture, read if it is a file.

        Raises:
            ImageError: the file cannot be read.
        """
        return load_image(self.image) if isinstance(self.image, Path) else self.image


def is_orange_line_model(spec: ModelSpec) -> bool:
    """Whether a model answers with the classes of the orange line."""
    return [label.casefold() for label in spec.labels] == [label.casefold() for label in ORANGE_LINE_LABELS[spec.task]]


def orange_line_samples(
    task: TaskName, count: int = 100, size_hw: tuple[int, int] = (360, 640), first_seed: int = TEST_SEED
) -> Iterator[Sample]:
    """The task's samples of ``count`` stills; for classification every fruit, cut out by its true box, with its grade."""
    for seed in range(first_seed, first_seed + count):
        image, truth = still(seed, size_hw)
        name = f"orange-line:{seed}"
        if task == "segmentation":
            yield Sample(image, truth.mask, name)
        elif task == "detection":
            number = len(truth)
            boxes = Detections(truth.xyxy, np.ones(number, np.float32), np.zeros(number, np.int64), size_hw, DETECTION_CLASSES)
            yield Sample(image, boxes, name)
        else:
            for (left, top, right, bottom), grade in zip(truth.xyxy.astype(int), truth.grade, strict=True):
                yield Sample(image[top:bottom, left:right], int(grade), name)
