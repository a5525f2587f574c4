"""Accuracy: top-k, the confusion matrix of classes or pixels, and the mean average precision of boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import DataError
from jetlens.registry import require
from jetlens.results import Detections, label_of

__all__ = ["ConfusionMatrix", "DetectionAccuracy", "accuracy_top_k", "mean_average_precision", "require_map", "wilson_interval"]

_Z = 1.96
"""Standard deviations on both sides of the mean that hold 95 % of a normal distribution."""


def accuracy_top_k(class_id: NDArray[Any], truth: NDArray[Any], k: int = 1) -> float:
    """The share of pictures whose true class [N] is among the first k of their predicted ones [N, K], best first.

    Raises:
        DataError: there is no picture, or the two do not match.
    """
    if not len(truth) or len(class_id) != len(truth):
        raise DataError(f"{len(class_id)} predictions came for {len(truth)} true classes; give one for each, and at least one")
    return float(np.mean(np.any(class_id[:, :k] == truth[:, None], axis=1)))


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The interval of 95 % of a share that ``correct`` of ``total`` trials leave open; 0 to 1 without trials."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = correct / total, _Z * _Z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * (share * (1 - share) / total + z2 / (4 * total * total)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


class ConfusionMatrix:
    """Counts of (true class, predicted class) over pictures or pixels, and the rates that follow from them.

    A rate without anything to count (a class never predicted, never there) is 0; means are over the classes that are in the truth.

    Attributes:
        counts: int64 [classes, classes + 1]: a row a true class, a column a predicted one; the last column counts predictions of other ids.
    """

    def __init__(self, classes: int, *, ignore: int | None = None) -> None:
        """``ignore``: a true id that is not counted, such as 255 at the borders of VOC's masks."""
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)
        self._ignore = ignore

    def add(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Counts pairs of class ids; the two arrays have one shape.

        Raises:
            DataError: the shapes differ, or the truth holds an id that is no class.
        """
        if truth.shape != predicted.shape:
            raise DataError(f"the truth has shape {list(truth.shape)}, the prediction {list(predicted.shape)}; they must be equal")
        classes = len(self.counts)
        true_ids, ids = truth.ravel().astype(np.int32), predicted.ravel().astype(np.int32)
        if self._ignore is not None:
            counted = true_ids != self._ignore
            true_ids, ids = true_ids[counted], ids[counted]
        if true_ids.size and (true_ids.min() < 0 or true_ids.max() >= classes):
            wrong = int(true_ids.max() if true_ids.max() >= classes else true_ids.min())
            raise DataError(
                f"the truth holds class id {wrong}; allowed: 0 to {classes - 1}" + (f" and {self._ignore}" if self._ignore else "")
            )
        ids[(ids < 0) | (ids >= classes)] = classes
        self.counts += np.bincount(true_ids * (classes + 1) + ids, minlength=self.counts.size).reshape(self.counts.shape)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def total(self) -> int:
        """How many pairs were counted."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of right predictions: of pictures, or pixel accuracy."""
        return float(self._right.sum() / max(1, self.total))

    @property
    def support(self) -> NDArray[np.int64]:
        """How often each class is in the truth: int64 [classes]."""
        support: NDArray[np.int64] = self.counts.sum(axis=1)
        return support

    @property
    def precision(self) -> NDArray[np.float64]:
        """Of the predictions of each class, the share that is right: [classes]."""
        return _share(self._right, self._predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Of what is each class in truth, the share that was predicted so: [classes]."""
        return _share(self._right, self.support)

    @property
    def f1(self) -> NDArray[np.float64]:
        """The harmonic mean of precision and recall: [classes]."""
        return _share(2 * self._right, self._predicted + self.support)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of truth and prediction: [classes]."""
        return _share(self._right, self._predicted + self.support - self._right)

    @property
    def mean_iou(self) -> float:
        """mIoU over the classes that are in the truth."""
        return self._mean(self.iou)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that are in the truth."""
        return self._mean(self.f1)

    def rows(self, labels: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """For each class its id, label, precision, recall, F1, IoU and support, ready for JSON."""
        rates = (self.precision, self.recall, self.f1, self.iou)
        for class_id, support in enumerate(self.support):
            label = label_of(labels, class_id)
            row = dict(zip(("precision", "recall", "f1", "iou"), (round(float(rate[class_id]), 6) for rate in rates), strict=True))
            yield {"class_id": class_id, "label": label, **row, "support": int(support)}

    @property
    def _right(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def _predicted(self) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.counts[:, :-1].sum(axis=0)
        return predicted

    def _mean(self, rates: NDArray[np.float64]) -> float:
        there = self.support > 0
        return float(rates[there].mean()) if there.any() else 0.0


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    shares = np.zeros(len(whole))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


@dataclass(frozen=True, slots=True)
class DetectionAccuracy:
    """Average precision of boxes after COCO's rules (101 recalls, at most 100 boxes a picture), 0 to 1.

    Attributes:
        map50: mean over classes at IoU 0.50.
        map50_95: mean over classes and over IoU 0.50 to 0.95 in steps of 0.05.
        ap50: of each class id that is in the truth.
        ap50_95: of each class id that is in the truth.
        boxes: true boxes of each of these.
    """

    map50: float
    map50_95: float
    ap50: Mapping[int, float]
    ap50_95: Mapping[int, float]
    boxes: Mapping[int, int]


def mean_average_precision(predictions: Sequence[Detections], truths: Sequence[Detections]) -> DetectionAccuracy:
    """How well predicted boxes meet the true ones; one of each a picture, and the confidence of the true ones is not read.

    Raises:
        DataError: the counts differ, or there is no true box.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    if len(predictions) != len(truths):
        raise DataError(f"{len(predictions)} predictions came for {len(truths)} pictures; give one for each")
    class_ids = np.unique(np.concatenate([truth.class_id for truth in truths])) if truths else np.empty(0, np.int64)
    if not len(class_ids):
        raise DataError("there is no true box in the dataset, so mAP means nothing; check the labels")
    precision = _precisions(predictions, truths, [int(i) for i in class_ids])
    at50, at50_95 = precision[0].mean(axis=0), precision.mean(axis=(0, 1))
    counts = np.bincount(np.searchsorted(class_ids, np.concatenate([truth.class_id for truth in truths])))

    def by_class(values: NDArray[Any]) -> dict[int, Any]:
        return {int(i): value.item() for i, value in zip(class_ids, values, strict=True)}

    return DetectionAccuracy(float(at50.mean()), float(at50_95.mean()), by_class(at50), by_class(at50_95), by_class(counts))


def require_map() -> None:
    """Raises MissingDependencyError where the package behind mAP is not installed."""
    require("faster_coco_eval", extra="map", why="mAP")


def _precisions(predictions: Sequence[Detections], truths: Sequence[Detections], class_ids: list[int]) -> NDArray[np.float64]:
    """Precision [IoU thresholds, recalls, classes] from faster-coco-eval (Apache-2.0)."""
    require_map()
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    coco = COCO(
        {
            "images": [{"id": i, "height": t.size_hw[0], "width": t.size_hw[1]} for i, t in enumerate(truths, 1)],
            "categories": [{"id": i, "name": str(i)} for i in class_ids],
            "annotations": list(_annotations(truths, class_ids)),
        },
        print_function=_silent,
    )
    found = COCO(print_function=_silent)
    found.dataset = {**coco.dataset, "annotations": list(_annotations(predictions, class_ids))}
    found.createIndex()
    run = COCOeval_faster(coco, found, "bbox", print_function=_silent)
    run.params.maxDets = [100]
    run.params.areaRng = [[0, 1e10]]
    run.params.areaRngLbl = ["all"]
    run.evaluate()
    run.accumulate()
    precision: NDArray[np.float64] = np.asarray(run.eval["precision"])[:, :, :, 0, 0]
    return precision


def _silent(*_: object) -> None:
    """In place of the library's prints."""


def _annotations(pictures: Sequence[Detections], class_ids: list[int]) -> Iterator[dict[str, Any]]:
    """COCO's form of boxes; those of classes that are in no picture's truth cannot count and are left out."""
    known = set(class_ids)
    number = 0
    for image_id, picture in enumerate(pictures, 1):
        for (left, top, right, bottom), score, class_id in zip(
            picture.xyxy.tolist(), picture.confidence.tolist(), picture.class_id.tolist(), strict=True
        ):
            if class_id not in known:
                continue
            number += 1
            yield {
                "id": number,
                "image_id": image_id,
                "category_id": class_id,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "score": score,
            }
