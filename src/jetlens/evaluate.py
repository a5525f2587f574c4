"""The accuracy of a predictor over pictures whose truth is known, whatever its task and runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import IGNORED, PartName
from jetlens.data.matching import Matched
from jetlens.data.opening import ORANGE_LINE, open_listed, take_split
from jetlens.data.orange import FIRST_SEEDS
from jetlens.data.samples import ORANGE_LINE_LABELS, Sample, orange_line_samples
from jetlens.errors import DataError, ImageError, InputError, UnknownNameError, UsageError
from jetlens.metrics import ConfusionMatrix, accuracy_top_k, mean_average_precision, wilson_interval
from jetlens.predictor import Predictor
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec

__all__ = ["ORANGE_LINE", "Evaluation", "dataset", "evaluate"]

_RESAMPLES = 1000
_BOOTSTRAP_SEED = 20_000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes:
        metric: the name of the score that the task is judged by: top1, map50 or miou.
        score: 0 to 1.
        interval: 95 % of the score over pictures drawn again, or None where that is not computed.
        metrics: all scores by name.
        classes: a row a class.
        count: pictures that were scored.
        skipped: what could not be read, with the reasons; these pictures are in no score.
    """

    metric: str
    score: float
    interval: tuple[float, float] | None
    metrics: Mapping[str, float]
    classes: tuple[Mapping[str, Any], ...]
    count: int
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "metric": self.metric,
            "score": round(self.score, 6),
            "interval": None if self.interval is None else [round(bound, 6) for bound in self.interval],
            "images": self.count,
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
            "classes": [dict(row) for row in self.classes],
            "skipped": list(self.skipped),
        }


def evaluate(predictor: Predictor, samples: Iterable[Sample], *, on_sample: Callable[[int], None] | None = None) -> Evaluation:
    """Scores a predictor; pictures that cannot be read, or whose truth cannot, are named in the result and left out.

    Boxes below the predictor's confidence are not seen: for mAP load it with a low one, such as ``TaskOptions(confidence=0.01)``.

    Raises:
        DataError: no picture could be scored, or a truth is not of the model's task.
    """
    scorer = _SCORERS[predictor.spec.task](predictor.spec)
    skipped: list[str] = []
    count = 0
    for sample in _each(samples):
        if isinstance(sample, InputError):
            skipped.append(str(sample))
            continue
        try:
            prediction = predictor(sample.image)
        except ImageError as error:
            if not isinstance(sample.image, Path):
                raise
            skipped.append(str(error))
            continue
        scorer.add(prediction, sample)
        count += 1
        if on_sample is not None:
            on_sample(count)
    if not count:
        why = f": {skipped[0]}" if skipped else "; the dataset is empty"
        raise DataError(f"no picture could be scored{why}")
    return scorer.result(count, tuple(skipped))


def _each(samples: Iterable[Sample]) -> Iterator[Sample | InputError]:
    """The samples; in the place of one that cannot be read its error. After an error only a sequence can go on."""
    if not isinstance(samples, (Sequence, Matched)):
        yield from samples
        return
    for index in range(len(samples)):
        try:
            yield samples[index]
        except (ImageError, DataError) as error:
            yield error


def dataset(
    data: str | Path,
    spec: ModelSpec,
    count: int | None = None,
    size_hw: tuple[int, int] | None = None,
    *,
    layout: str | None = None,
    split: PartName | None = None,
) -> Iterable[Sample]:
    """The samples that ``orange-line`` or a folder in any layout holds for a model, in the model's class ids.

    Args:
        count: so many pictures, evenly spread; all of a folder and 100 of the orange line if not given.
        size_hw: of the orange line's pictures.
        split: if not given, the test part where the dataset has its own, else its own validation part, else all of it.

    Raises:
        DataError: the folder does not fit, or a class of it is none of the model's.
        UsageError: the folder has no truth for the model's task.
    """
    if str(data) == ORANGE_LINE:
        if layout is not None:
            raise UsageError(f"--layout goes with a folder; {ORANGE_LINE} has none")
        return _orange_line(spec, count, size_hw, split)
    if size_hw is not None:
        raise UsageError(f"--size goes with --data {ORANGE_LINE}; the pictures in {data} have their own sizes")
    listed = open_listed(data, spec.task, layout=layout)
    own: list[PartName] = [part for part in ("test", "val") if part in listed.parts]
    return Matched(take_split(listed, split or [*own, "all"][0]), spec.labels, count)


def _orange_line(spec: ModelSpec, count: int | None, size_hw: tuple[int, int] | None, split: PartName | None) -> Iterable[Sample]:
    expected = ORANGE_LINE_LABELS[spec.task]
    if tuple(label.casefold() for label in spec.labels) != tuple(label.casefold() for label in expected):
        raise DataError(
            f"{spec.name} answers {len(spec.labels)} classes ({', '.join(spec.labels[:4])[:80]}), "
            f"the orange line has {', '.join(expected)}: give --data FOLDER with this model's classes"
        )
    if split not in (None, *FIRST_SEEDS):
        raise UnknownNameError("split of the orange line", str(split), FIRST_SEEDS)
    return orange_line_samples(spec.task, 100 if count is None else count, size_hw or (360, 640), FIRST_SEEDS[split or "test"])


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
        top1 = accuracy_top_k(ranked, truth)
        metrics = {"top1": top1}
        if 5 <= ranked.shape[1] < len(matrix):
            metrics["top5"] = accuracy_top_k(ranked, truth, 5)
        metrics["macro_f1"] = matrix.macro_f1
        interval = wilson_interval(round(top1 * count), count)
        rows = tuple({key: row[key] for key in _RATES} for row in matrix.rows(self._labels) if row["support"])
        return Evaluation("top1", top1, interval, metrics, rows, count, skipped)


class _DetectionScorer:
    """COCO's average precision."""

    def __init__(self, spec: ModelSpec) -> None:
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
        rows = tuple(
            {
                "class_id": class_id,
                "label": self._spec.label(class_id),
                "ap50": round(ap50, 6),
                "ap50_95": round(accuracy.ap50_95[class_id], 6),
                "boxes": accuracy.boxes[class_id],
            }
            for class_id, ap50 in accuracy.ap50.items()
        )
        metrics = {"map50": accuracy.map50, "map50_95": accuracy.map50_95}
        return Evaluation("map50", accuracy.map50, None, metrics, rows, count, skipped)


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
        defects = matrix.iou[1:][matrix.support[1:] > 0]
        metrics = {
            "miou": matrix.mean_iou,
            "miou_foreground": float(defects.mean()) if len(defects) else 0.0,
            "pixel_accuracy": matrix.accuracy,
        }
        rows = tuple({key: row[key] for key in ("class_id", "label", "iou", "support")} for row in matrix.rows(self._labels))
        return Evaluation("miou", matrix.mean_iou, _bootstrap_miou(per_picture), metrics, rows, count, skipped)


_RATES = ("class_id", "label", "precision", "recall", "f1", "support")
_SCORERS: dict[str, type[_Scorer]] = {
    "classification": _ClassificationScorer,
    "detection": _DetectionScorer,
    "segmentation": _SegmentationScorer,
}


def _wrong_truth(sample: Sample, needed: str) -> DataError:
    return DataError(f"{sample.name}: the truth is {type(sample.truth).__name__}; this model's task needs {needed}")


def _bootstrap_miou(per_picture: NDArray[np.int64]) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of mIoU over pictures drawn with replacement; counts [pictures, classes, classes + 1]."""
    number, classes, columns = per_picture.shape
    weights = np.random.default_rng(_BOOTSTRAP_SEED).multinomial(number, np.full(number, 1 / number), _RESAMPLES)
    counts = (weights @ per_picture.reshape(number, -1).astype(np.float64)).reshape(_RESAMPLES, classes, columns)
    right = np.diagonal(counts, axis1=1, axis2=2)
    support = counts.sum(axis=2)
    union = support + counts[:, :, :-1].sum(axis=1) - right
    there = support > 0
    iou = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    scores = (iou * there).sum(axis=1) / np.maximum(1, there.sum(axis=1))
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)
