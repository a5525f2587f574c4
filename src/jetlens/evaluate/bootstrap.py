"""The bootstrap: how scores move when the pictures are drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jetlens.evaluate.evaluation import Interval
from jetlens.results import Detections

__all__ = ["BoxMatches", "draws", "interval_of", "match_boxes"]

_SEED = 20_000
_RECALLS = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
_MOST_BOXES = 100


def draws(pictures: int, resamples: int) -> NDArray[np.float64]:
    """How often each picture is drawn in each resample: [resamples, pictures]; the same for the same numbers."""
    return np.random.default_rng(_SEED).multinomial(pictures, np.full(pictures, 1 / pictures), resamples).astype(np.float64)


def interval_of(values: NDArray[np.float64]) -> Interval:
    """The 2.5 and 97.5 % points."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


class BoxMatches:
    """The boxes of one class in all pictures, most confident first, and which of them are right at each IoU threshold.

    Attributes:
        right: bool [thresholds, boxes].
        picture: of each box.
        truths: true boxes of each picture.
    """

    def __init__(self, right: NDArray[np.bool_], picture: NDArray[np.intp], truths: NDArray[np.float64]) -> None:
        self.right = right
        self.picture = picture
        self.truths = truths

    def average_precisions(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """COCO's average precision at each threshold with every picture counted as often as it was drawn [pictures]; NaN without truths."""
        total = float(drawn @ self.truths)
        if total == 0:
            return np.full(len(self.right), np.nan)
        times = drawn[self.picture]
        found = np.cumsum(self.right * times, axis=1)
        given = np.cumsum(times)
        precision = np.divide(found, given, out=np.zeros_like(found), where=given > 0)
        # Each recall takes the best precision from there on.
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        averages = np.zeros(len(self.right))
        for number, recall in enumerate(found / total):
            places = np.searchsorted(recall, _RECALLS, side="left")
            reached = places < recall.size
            averages[number] = envelope[number, places[reached]].sum() / len(_RECALLS)
        return averages


def match_boxes(predictions: Sequence[Detections], truths: Sequence[Detections]) -> Mapping[int, BoxMatches]:
    """For each class that is in the truth its boxes, matched as COCO does: the most confident first, each to the best truth that is free."""
    class_ids = np.unique(np.concatenate([truth.class_id for truth in truths]))
    return {int(class_id): _of_class(int(class_id), predictions, truths) for class_id in class_ids}


def _of_class(class_id: int, predictions: Sequence[Detections], truths: Sequence[Detections]) -> BoxMatches:
    rights: list[NDArray[np.bool_]] = []
    scores: list[NDArray[np.float32]] = []
    pictures: list[NDArray[np.intp]] = []
    counts = np.zeros(len(truths))
    for number, (found, truth) in enumerate(zip(predictions, truths, strict=True)):
        wanted = truth.xyxy[truth.class_id == class_id].astype(np.float64)
        mine = np.flatnonzero(found.class_id == class_id)
        mine = mine[np.argsort(-found.confidence[mine], kind="stable")][:_MOST_BOXES]
        counts[number] = len(wanted)
        rights.append(_matched(_iou(found.xyxy[mine].astype(np.float64), wanted)))
        scores.append(found.confidence[mine])
        pictures.append(np.full(len(mine), number))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return BoxMatches(np.concatenate(rights, axis=1)[:, order], np.concatenate(pictures)[order], counts)


def _matched(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes [B, T] find a truth of their own, at each threshold: [thresholds, B]."""
    right = np.zeros((len(THRESHOLDS), len(iou)), bool)
    if not iou.size:
        return right
    for number, threshold in enumerate(THRESHOLDS):
        free = np.ones(iou.shape[1], bool)
        for box, overlaps in enumerate(iou):
            candidates = np.where(free, overlaps, -1.0)
            # Of equal overlaps the later one, as COCO's own loop ends up with.
            best = len(candidates) - 1 - int(candidates[::-1].argmax())
            if candidates[best] >= min(threshold, 1 - 1e-10):
                right[number, box] = True
                free[best] = False
    return right


def _iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union [A, B] of boxes in double precision: a threshold may be met exactly."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(opposite - corner, 0, None)
    inner = sides[..., 0] * sides[..., 1]
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - inner
    shares: NDArray[np.float64] = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return shares
