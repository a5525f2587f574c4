"""Scorers: one a task, which collect predictions and truths and turn them into scores with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import IGNORED
from jetlens.data.samples import Sample
from jetlens.errors import DataError
from jetlens.evaluate.bootstrap import draws, interval_of, match_boxes
from jetlens.evaluate.evaluation import Evaluation, Interval
from jetlens.metrics import ConfusionMatrix, accuracy_top_k, mean_average_precision, require_map, wilson_interval
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec

__all__ = ["SCORERS"]

_RESAMPLES = 1000
_BOX_RESAMPLES = 200  # average precision sorts and sums all boxes each time
_MOST_BOX_STEPS = 3e8
_MOST_PIXEL_VALUES = 5e7
_RATES = ("class_id", "label", "precision", "recall", "f1", "support")


class _Scorer(Protocol):
    def __init__(self, spec: ModelSpec) -> None: ...
    def add(self, prediction: Any, sample: Sample) -> None: ...
    def result(self, count: int, skipped: tuple[str, ...]) -> Evaluation: ...


class _ClassificationScorer:
    """Top-1 and top-5, and precision and recall of the classes."""

    def __init__(self, spec: ModelSpec) -> None:
        self._labels = spec.labels
        self._ranked: list[NDArray[np.int64]] = []
        self._truths: list[int] = []

    def add(self, prediction: Classification, sample: Sample) -> None:
        if not isinstance(sample.truth, int):
            raise _wrong_truth(sample, "a class id")
        self._ranked.append(prediction.class_id)
        self._truths.append(sample.truth)

    def result(self, count: int, skipped: tuple[str, ...]) -> Evaluation:
        ranked, truth = np.stack(self._ranked), np.array(self._truths)
        matrix = ConfusionMatrix(max(len(self._labels), int(truth.max()) + 1))
        matrix.add(truth, ranked[:, 0])
        metrics = {"top1": accuracy_top_k(ranked, truth)}
        if 5 <= ranked.shape[1] < len(matrix):
            metrics["top5"] = accuracy_top_k(ranked, truth, 5)
        intervals = {name: wilson_interval(round(value * count), count) for name, value in metrics.items()}
        metrics["macro_f1"] = matrix.macro_f1
        f1 = _drawn_f1(truth, ranked[:, 0], len(matrix))
        present = matrix.support > 0
        # A class that no draw holds has no F1 there.
        intervals["macro_f1"] = interval_of(np.nanmean(f1[:, present], axis=1))
        rows = tuple(self._rows(matrix, f1))
        return Evaluation("top1", metrics["top1"], metrics, rows, count, skipped, intervals)

    def _rows(self, matrix: ConfusionMatrix, f1: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        right, predicted = np.diagonal(matrix.counts), matrix.counts[:, :-1].sum(axis=0)
        for row in matrix.rows(self._labels):
            class_id = row["class_id"]
            if not row["support"]:
                continue
            shares = {"precision": int(predicted[class_id]), "recall": int(row["support"])}
            intervals: dict[str, Interval] = {name: wilson_interval(int(right[class_id]), whole) for name, whole in shares.items()}
            drawn = f1[:, class_id]
            intervals["f1"] = interval_of(drawn[~np.isnan(drawn)])
            yield {**{key: row[key] for key in _RATES}, "intervals": intervals}


class _DetectionScorer:
    """COCO's average precision; making it raises MissingDependencyError where the package behind it is not installed."""

    def __init__(self, spec: ModelSpec) -> None:
        require_map()
        self._spec = spec
        self._predictions: list[Detections] = []
        self._truths: list[Detections] = []

    def add(self, prediction: Detections, sample: Sample) -> None:
        if not isinstance(sample.truth, Detections):
            raise _wrong_truth(sample, "boxes")
        self._predictions.append(prediction)
        self._truths.append(sample.truth)

    def result(self, count: int, skipped: tuple[str, ...]) -> Evaluation:
        accuracy = mean_average_precision(self._predictions, self._truths)
        drawn = _drawn_precision(self._predictions, self._truths)
        stacked = np.stack(list(drawn.values()))
        rows = tuple(
            {
                "class_id": class_id,
                "label": self._spec.label(class_id),
                "ap50": round(ap50, 6),
                "ap50_95": round(accuracy.ap50_95[class_id], 6),
                "boxes": accuracy.boxes[class_id],
                "intervals": {
                    "ap50": interval_of(_known(drawn[class_id][:, 0])),
                    "ap50_95": interval_of(_known(drawn[class_id].mean(axis=1))),
                },
            }
            for class_id, ap50 in accuracy.ap50.items()
        )
        metrics = {"map50": accuracy.map50, "map50_95": accuracy.map50_95}
        intervals = {
            "map50": interval_of(np.nanmean(stacked[:, :, 0], axis=0)),
            "map50_95": interval_of(np.nanmean(stacked.mean(axis=2), axis=0)),
        }
        return Evaluation("map50", accuracy.map50, metrics, rows, count, skipped, intervals)


class _SegmentationScorer:
    """mIoU and pixel accuracy over all pixels of all pictures."""

    def __init__(self, spec: ModelSpec) -> None:
        self._labels: Sequence[str] = spec.labels
        self._counts: list[NDArray[np.int64]] = []

    def add(self, prediction: Segmentation, sample: Sample) -> None:
        if not isinstance(sample.truth, np.ndarray):
            raise _wrong_truth(sample, "a mask")
        self._labels = prediction.labels or self._labels
        matrix = ConfusionMatrix(max(2, len(self._labels)), ignore=IGNORED)
        matrix.add(sample.truth, prediction.mask)
        self._counts.append(matrix.counts)

    def result(self, count: int, skipped: tuple[str, ...]) -> Evaluation:
        per_picture = np.stack(self._counts)
        matrix = ConfusionMatrix(per_picture.shape[1])
        matrix.counts = per_picture.sum(axis=0)
        iou, support, pixel_accuracy = _drawn_iou(per_picture)
        there = support > 0
        foreground = there & (np.arange(len(matrix)) > 0)
        metrics = {
            "miou": matrix.mean_iou,
            "miou_foreground": _mean(matrix.iou[None], (matrix.support > 0)[None] & (np.arange(len(matrix)) > 0))[0],
            "pixel_accuracy": matrix.accuracy,
        }
        intervals = {
            "miou": interval_of(_mean(iou, there)),
            "miou_foreground": interval_of(_mean(iou, foreground)),
            "pixel_accuracy": interval_of(pixel_accuracy),
        }
        rows = tuple(
            {
                **{key: row[key] for key in ("class_id", "label", "iou", "support")},
                "intervals": {"iou": interval_of(iou[there[:, row["class_id"]], row["class_id"]])} if row["support"] else {},
            }
            for row in matrix.rows(self._labels)
        )
        return Evaluation("miou", matrix.mean_iou, {name: float(value) for name, value in metrics.items()}, rows, count, skipped, intervals)


def _wrong_truth(sample: Sample, needed: str) -> DataError:
    return DataError(f"{sample.name}: the truth is {type(sample.truth).__name__}; this model's task needs {needed}")


def _drawn_f1(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """F1 of every class over pictures drawn again [resamples, classes]; NaN where a draw has no picture of the class."""
    right = predicted == truth
    valid = (predicted >= 0) & (predicted < classes)
    rows = []
    for times in draws(len(truth), _RESAMPLES):
        support = np.bincount(truth, times, classes)
        whole = support + np.bincount(predicted[valid], times[valid], classes)
        hit = 2 * np.bincount(truth[right], times[right], classes)
        rows.append(np.where(support > 0, np.divide(hit, whole, out=np.zeros(classes), where=whole > 0), np.nan))
    return np.stack(rows)


def _drawn_precision(predictions: Sequence[Detections], truths: Sequence[Detections]) -> Mapping[int, NDArray[np.float64]]:
    """Average precision of every class over pictures drawn again: [resamples, thresholds]."""
    matches = match_boxes(predictions, truths)
    boxes = sum(found.right.size for found in matches.values())
    resamples = int(min(_BOX_RESAMPLES, max(50, _MOST_BOX_STEPS / max(1, boxes))))
    drawn = draws(len(truths), resamples)
    return {class_id: np.stack([found.average_precisions(times) for times in drawn]) for class_id, found in matches.items()}


def _drawn_iou(per_picture: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """IoU and support [resamples, classes] and pixel accuracy [resamples] over pictures drawn again; counts [pictures, classes, classes + 1]."""
    number, classes, columns = per_picture.shape
    resamples = int(min(_RESAMPLES, max(100, _MOST_PIXEL_VALUES / (classes * columns))))
    counts = (draws(number, resamples) @ per_picture.reshape(number, -1).astype(np.float64)).reshape(resamples, classes, columns)
    right = np.diagonal(counts, axis1=1, axis2=2)
    support = counts.sum(axis=2)
    union = support + counts[:, :, :-1].sum(axis=1) - right
    iou = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    return iou, support, right.sum(axis=1) / np.maximum(1, support.sum(axis=1))


def _mean(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Row by row the mean of the values that are there, 0 where none is."""
    means: NDArray[np.float64] = (values * there).sum(axis=1) / np.maximum(1, there.sum(axis=1))
    return means


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


SCORERS: dict[str, type[_Scorer]] = {
    "classification": _ClassificationScorer,
    "detection": _DetectionScorer,
    "segmentation": _SegmentationScorer,
}
