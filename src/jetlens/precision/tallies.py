"""Tallies: what a graph answered to each picture, kept so that two graphs can be compared picture by picture."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import IGNORED
from jetlens.data.samples import Truth
from jetlens.errors import DataError
from jetlens.metrics import ConfusionMatrix
from jetlens.ops.boxes import iou_matrix
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec

__all__ = ["TALLIES", "Tally"]

MATCH_IOU = 0.5
AGREE_IOU = 0.75
HYSTERESIS = 0.1
"""A box that one graph gives just above the threshold, the other may give this much below it."""

_RECALLS = np.linspace(0, 1, 101)
_MOST_BOXES = 100

Floats = NDArray[np.floating[Any]]


class Tally(Protocol):
    """The answers to N pictures.

    Attributes:
        metric: the score that the task is judged by: top1, map50 or miou.
    """

    metric: str

    def add(self, prediction: Any, truth: Truth | None) -> None:
        """Counts one picture; the truth is None where there is none."""
        ...

    def agreement(self, other: Any) -> float:
        """The share of answers that another tally of the same pictures has too: 0 to 1."""
        ...

    def images(self) -> NDArray[np.int64]:
        """How many pictures hold each class: [classes]."""
        ...

    def score(self, weights: Floats) -> tuple[Floats, Floats]:
        """Of pictures that count ``weights`` times [B, N] the score [B] and that of each class [B, classes]; absent classes have 0."""
        ...


class ClassificationTally:
    """Top-1, and of each class the share of its pictures that were known."""

    metric = "top1"

    def __init__(self, spec: ModelSpec) -> None:
        self._classes = len(spec.labels)
        self._found: list[int] = []
        self._truth: list[int] = []

    def add(self, prediction: Classification, truth: Truth | None) -> None:
        """Counts one picture."""
        self._found.append(int(prediction.class_id[0]))
        if truth is not None:
            self._truth.append(_checked(truth, int, "a class id"))

    def agreement(self, other: ClassificationTally) -> float:
        """The share of pictures with the same best class."""
        return float(np.mean(np.array(self._found) == np.array(other._found)))

    def images(self) -> NDArray[np.int64]:
        """Pictures of each class."""
        counts: NDArray[np.int64] = np.bincount(self._truth, minlength=self._classes)
        return counts

    def score(self, weights: Floats) -> tuple[Floats, Floats]:
        """Top-1, and the recall of each class."""
        truth = np.array(self._truth)
        right = (np.array(self._found) == truth).astype(np.float32)
        member = np.eye(len(self.images()), dtype=np.float32)[truth]
        known, there = weights.astype(np.float32) @ (member * right[:, None]), weights.astype(np.float32) @ member
        return (weights @ right) / weights.sum(axis=1), _share(known, there)


class SegmentationTally:
    """mIoU over the classes that are in the truth."""

    metric = "miou"

    def __init__(self, spec: ModelSpec) -> None:
        self._classes = max(2, len(spec.labels))
        self._masks: list[bytes] = []
        self._counts: list[NDArray[np.int64]] = []

    def add(self, prediction: Segmentation, truth: Truth | None) -> None:
        """Counts one picture; its mask is kept packed."""
        self._masks.append(zlib.compress(np.ascontiguousarray(prediction.mask).tobytes(), 1))
        if truth is not None:
            matrix = ConfusionMatrix(self._classes, ignore=IGNORED)
            matrix.add(_checked(truth, np.ndarray, "a mask"), prediction.mask)
            self._counts.append(matrix.counts)

    def agreement(self, other: SegmentationTally) -> float:
        """The mean share of a picture's pixels with the same class."""
        pairs = zip(self._masks, other._masks, strict=True)
        return float(np.mean([np.mean(_bytes(first) == _bytes(second)) for first, second in pairs]))

    def images(self) -> NDArray[np.int64]:
        """Pictures that show each class."""
        counts: NDArray[np.int64] = (np.stack(self._counts).sum(axis=2) > 0).sum(axis=0)
        return counts

    def score(self, weights: Floats) -> tuple[Floats, Floats]:
        """mIoU and the IoU of each class."""
        pictures = np.stack(self._counts).astype(np.float64)
        counts = (weights @ pictures.reshape(len(pictures), -1)).reshape(len(weights), *pictures.shape[1:])
        right = np.diagonal(counts, axis1=1, axis2=2)
        support = counts.sum(axis=2)
        iou = _share(right, support + counts[:, :, :-1].sum(axis=1) - right) * (support > 0)
        return iou.sum(axis=1) / np.maximum(1, (support > 0).sum(axis=1)), iou


class DetectionTally:
    """mAP at IoU 0.5 after COCO's rules."""

    metric = "map50"

    def __init__(self, spec: ModelSpec) -> None:
        self._classes = len(spec.labels)
        self._confidence = spec.confidence
        self._found: list[Detections] = []
        self._true: list[NDArray[np.int64]] = []
        self._rows: list[tuple[int, int, float, bool]] = []

    def add(self, prediction: Detections, truth: Truth | None) -> None:
        """Counts one picture; boxes of low confidence are wanted too."""
        self._found.append(prediction)
        if truth is None:
            return
        boxes: Detections = _checked(truth, Detections, "boxes")
        self._true.append(np.bincount(boxes.class_id, minlength=self._classes))
        image = len(self._true) - 1
        for class_id in np.unique(prediction.class_id):
            mine = prediction[prediction.class_id == class_id]
            mine = mine[np.argsort(-mine.confidence, kind="stable")[:_MOST_BOXES]]
            hits = _hits(mine, boxes[boxes.class_id == class_id])
            self._rows += [(image, int(class_id), float(c), hit) for c, hit in zip(mine.confidence, hits, strict=True)]

    def agreement(self, other: DetectionTally) -> float:
        """The share of boxes above the model's confidence, of either, that have their partner in the other."""
        shares = [
            _partnered(one, two, self._confidence)
            for mine, theirs in zip(self._found, other._found, strict=True)
            for one, two in ((mine, theirs), (theirs, mine))
        ]
        total = sum(count for _, count in shares)
        return sum(found for found, _ in shares) / total if total else 1.0

    def images(self) -> NDArray[np.int64]:
        """Pictures that show each class."""
        counts: NDArray[np.int64] = (np.stack(self._true) > 0).sum(axis=0)
        return counts

    def score(self, weights: Floats) -> tuple[Floats, Floats]:
        """mAP50 and the average precision of each class."""
        true = weights @ np.stack(self._true)
        ap = np.zeros(true.shape)
        image = np.array([row[0] for row in self._rows], np.int64)
        class_id = np.array([row[1] for row in self._rows], np.int64)
        confidence = np.array([row[2] for row in self._rows])
        hit = np.array([row[3] for row in self._rows], np.bool_)
        for k in range(true.shape[1]):
            rows = np.flatnonzero(class_id == k)
            rows = rows[np.argsort(-confidence[rows], kind="stable")]
            if not len(rows):
                continue
            for b, weight in enumerate(weights):
                if true[b, k] > 0:
                    ap[b, k] = _average_precision(weight[image[rows]], hit[rows], float(true[b, k]))
        there = true > 0
        return ap.sum(axis=1) / np.maximum(1, there.sum(axis=1)), ap


def _checked(truth: Any, kind: type, needed: str) -> Any:
    if not isinstance(truth, kind):
        raise DataError(f"the truth is {type(truth).__name__}; this model's task needs {needed}")
    return truth


def _bytes(packed: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(packed), np.uint8)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _hits(found: Detections, true: Detections) -> list[bool]:
    """Of boxes, best first, whether each meets a true one that none before it met."""
    iou = iou_matrix(found.xyxy, true.xyxy) if len(true) else np.zeros((len(found), 0))
    hits = []
    for row in iou:
        best = int(row.argmax()) if len(row) else -1
        hit = best >= 0 and bool(row[best] >= MATCH_IOU)
        hits.append(hit)
        if hit:
            iou[:, best] = -1
    return hits


def _partnered(mine: Detections, theirs: Detections, confidence: float) -> tuple[int, int]:
    """How many of the confident boxes have a partner, and how many there are."""
    mine, theirs = mine[mine.confidence >= confidence], theirs[theirs.confidence >= confidence - HYSTERESIS]
    if not len(mine) or not len(theirs):
        return 0, len(mine)
    iou = iou_matrix(mine.xyxy, theirs.xyxy)
    iou[mine.class_id[:, None] != theirs.class_id[None]] = 0
    return int((iou.max(axis=1) >= AGREE_IOU).sum()), len(mine)


def _average_precision(weight: Floats, hit: NDArray[np.bool_], true: float) -> float:
    """The mean precision at 101 recalls of boxes, best first, that count ``weight`` times each."""
    right, all_of_them = np.cumsum(weight * hit), np.cumsum(weight)
    precision = _share(right, all_of_them)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(right / true, _RECALLS, side="left")
    return float(np.where(place < len(precision), precision[np.minimum(place, len(precision) - 1)], 0.0).mean())


TALLIES: dict[str, Callable[[ModelSpec], Tally]] = {
    "classification": ClassificationTally,
    "detection": DetectionTally,
    "segmentation": SegmentationTally,
}
