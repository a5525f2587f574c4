"""Guesses: which task and decoder a graph's answers fit, told by their names, shapes and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.spec import TaskName
from jetlens.tasks.base import Arrays

__all__ = ["Guess", "guesses"]

SizeHw = tuple[int, int]

_THREE, _FOUR = (8, 16, 32), (8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Guess:
    """One reading of a graph's answers.

    Attributes:
        options: the decoder's, as far as the answers tell them.
        classes: how many the graph tells apart, a background included; None where the shapes do not say.
        confidence: 0 to 1, how surely the answers mean this.
        why: what tells it.
        preset: the family's usual way to feed it, if nothing else is known.
    """

    task: TaskName
    decoder: str
    classes: int | None
    confidence: float
    why: str
    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)


def guesses(answers: Arrays, size_hw: SizeHw) -> list[Guess]:
    """Every reading that the answers to a probe picture of a size allow, the surest first."""
    found = [guess for rule in _RULES for guess in rule(answers, size_hw)]
    return sorted(found, key=lambda guess: -guess.confidence)


def _cells(size_hw: SizeHw, strides: tuple[int, ...]) -> list[int]:
    return [-(-size_hw[0] // s) * -(-size_hw[1] // s) for s in strides]


def _shape(name: str, array: NDArray[Any]) -> str:
    return f"{name} {list(array.shape)}"


def _detection(decoder: str, classes: int | None, confidence: float, why: str, preset: str, /, **options: Any) -> Guess:
    return Guess("detection", decoder, classes, confidence, why, preset, options)


def _probabilities(array: NDArray[Any]) -> bool:
    return bool(array.size and array.min() >= 0 and array.max() <= 1.001)


def _decoded_boxes(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    for name, array in answers.items():
        if array.ndim == 3 and array.shape[2] == 6:
            sure = 0.99 if name == "detections" else 0.75
            yield _detection("detections", None, sure, f"{_shape(name, array)}: corners, score, class", "yolov10", output=name)


def _yunet(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    if all(f"{part}_{stride}" in answers for part in ("cls", "obj", "bbox") for stride in _THREE):
        yield _detection("yunet", 1, 0.99, "outputs cls, obj and bbox at 8, 16, 32", "yunet")


def _rows(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    """Families with one row an anchor; the number of anchors tells the strides."""
    for name, array in answers.items():
        if array.ndim != 3 or array.shape[2] < 6:
            continue
        anchors, values = array.shape[1:]
        for strides in (_THREE, _FOUR):
            cells = sum(_cells(size_hw, strides))
            if anchors == 3 * cells:
                yield _detection("yolov5", values - 5, 0.95, f"{_shape(name, array)}: 3 anchors a cell", "yolov5", output=name)
            if anchors != cells:
                continue
            why = f"{_shape(name, array)}: one anchor a cell of strides {list(strides)}"
            # Offsets within cells are small, positions on the canvas are not.
            decoded = bool(np.abs(array[..., :2]).max() > max(size_hw) / 4)
            sure = 0.9 if strides == _THREE else 0.7
            yield _detection("yolox", values - 5, sure, why, "yolox", output=name, strides=strides, decoded=decoded)
            if decoded:
                yield _detection("yolov8", values - 4, 0.6, why, "yolov8", output=name)
            if strides == _FOUR and values > 32:
                options = {"output": name, "strides": strides, "center": 0.0, "bins": 8}
                yield _detection("nanodet", values - 32, 0.75, why, "nanodet-plus", **options)


def _columns(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    for name, array in answers.items():
        if array.ndim == 3 and array.shape[1] >= 5 and array.shape[2] in {sum(_cells(size_hw, s)) for s in (_THREE, _FOUR)}:
            yield _detection("yolov8", array.shape[1] - 4, 0.95, f"{_shape(name, array)}: one anchor a column", "yolov8", output=name)


def _nanodet(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    for strides in (_THREE, _FOUR):
        levels = [
            [name for name, array in answers.items() if array.ndim == 3 and array.shape[1] == cells] for cells in _cells(size_hw, strides)
        ]
        if len(answers) != 2 * len(strides) or any(len(level) != 2 for level in levels):
            continue
        # The class maps hold probabilities, the distributions logits; where values do not tell, classes come first.
        for scores, boxes in ([[a for a, _ in levels], [b for _, b in levels]], [[b for _, b in levels], [a for a, _ in levels]]):
            widths = {answers[name].shape[2] for name in scores}, {answers[name].shape[2] for name in boxes}
            bins, rest = divmod(max(widths[1]), 4)
            if len(widths[0]) == len(widths[1]) == 1 and rest == 0 and bins > 1 and all(_probabilities(answers[name]) for name in scores):
                why = f"{len(strides)} class maps and {len(strides)} maps of 4 x {bins} bins"
                options = {"scores": tuple(scores), "boxes": tuple(boxes), "strides": strides, "bins": bins}
                yield _detection("nanodet", max(widths[0]), 0.95, why, "nanodet", **options)
                return


def _fastestdet(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    for name, array in answers.items():
        if array.ndim == 4 and array.shape[1] > 5 and array.shape[2:] == (-(-size_hw[0] // 16), -(-size_hw[1] // 16)):
            softmax = np.allclose(array[:, 5:].astype(np.float32).sum(axis=1), 1, atol=0.02) and _probabilities(array[:, 0])
            why = f"{_shape(name, array)}: objectness, box and classes at stride 16"
            yield _detection("fastestdet", array.shape[1] - 5, 0.95 if softmax else 0.3, why, "fastestdet", output=name)


def _ssd(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    """An output of boxes, and scores of as many anchors."""
    for name, boxes in answers.items():
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
            continue
        anchors = boxes.shape[:-1]
        maps = [n for n, a in answers.items() if n != name and a.ndim == boxes.ndim and a.shape[:-1] == anchors and "kps" not in n]
        lists = [n for n, a in answers.items() if a.shape == anchors]
        normalised = not boxes.size or bool(np.abs(boxes).max() <= 2)
        cornered = bool((boxes[..., 2:] >= boxes[..., :2]).mean() > 0.99) if boxes.size else True
        tensorflow = "detection_boxes" in name or "Postprocessor" in name
        corners = ("yxyx" if tensorflow else "xyxy") if cornered else "cxcywh"
        options = {"boxes": name, "normalised": normalised, "corners": corners}
        if len(lists) == 2:
            scores, classes = sorted(lists, key=lambda n: _looks_like_ids(n, answers[n]))
            why = f"{_shape(name, boxes)} with scores {scores} and class ids {classes}"
            yield _detection("ssd", None, 0.9, why, "ssd-tf", **options, scores=scores, classes=classes)
        elif len(maps) == 1:
            scores = maps[0]
            classes_count = answers[scores].shape[-1]
            why = f"{_shape(name, boxes)} and {_shape(scores, answers[scores])}"
            usual = "ultraface" if classes_count == 2 else "ssd-signed"
            yield _detection("ssd", classes_count, 0.85, why, usual, **options, scores=scores, activation=_activation(answers[scores]))


def _looks_like_ids(name: str, array: NDArray[Any]) -> tuple[bool, bool]:
    """Sorts class ids after scores: by the type or the values, then by the name."""
    whole = array.dtype.kind in "iu" or bool(array.size and array.max() > 1 and np.array_equal(array, np.rint(array)))
    return whole, any(word in name.lower() for word in ("class", "label", "id"))


def _activation(scores: NDArray[Any]) -> str:
    return "none" if _probabilities(scores) else "softmax"


def _segmentation(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    # TensorFlow's DeepLab takes one pixel more than a multiple of its stride.
    usual = "deeplab" if all(side % 16 == 1 for side in size_hw) else "torchvision-segmentation"
    for name, array in answers.items():
        integers = array.dtype.kind in "iu"
        if integers and (array.ndim == 3 or (array.ndim == 4 and 1 in (array.shape[1], array.shape[3]))):
            yield Guess("segmentation", "mask", None, 0.95, f"{_shape(name, array)}: class ids", usual, {"output": name})
        elif array.ndim == 4 and not integers:
            for layout, classes, map_hw in (("nchw", array.shape[1], array.shape[2:]), ("nhwc", array.shape[3], array.shape[1:3])):
                # A class map keeps the picture's aspect ratio, to a pixel, and at least a 32nd of its size.
                skew = abs(map_hw[0] * size_hw[1] - map_hw[1] * size_hw[0])
                if min(map_hw) > 1 and skew <= max(size_hw) and map_hw[0] * 32 >= size_hw[0]:
                    options = {"output": name, **({"layout": layout} if layout == "nhwc" else {})}
                    sure = 0.9 if map_hw == size_hw else 0.6
                    yield Guess("segmentation", "logits", classes, sure, _shape(name, array), usual, options)


def _classification(answers: Arrays, size_hw: SizeHw) -> Iterator[Guess]:
    for name, array in answers.items():
        if array.ndim < 2 or array.size != array.shape[0] * max(array.shape[1:]) or max(array.shape[1:]) < 2:
            continue
        decoder = "probabilities" if _probabilities(array) else "logits"
        sure = 0.9 if len(answers) == 1 else 0.5
        classes = max(array.shape[1:])
        small = {28: "mnist", 32: "cifar10"}.get(size_hw[0]) if classes == 10 else None
        # Caffe keeps the picture's two axes through the softmax.
        usual = "caffe-classifier" if array.ndim == 4 and decoder == "probabilities" else "torchvision-classifier"
        why = f"{_shape(name, array)}: {'scores within 0 to 1' if decoder == 'probabilities' else 'scores beyond 0 to 1'}"
        yield Guess("classification", decoder, classes, sure, why, small or usual, {"output": name})


_RULES: tuple[Callable[[Arrays, SizeHw], Iterator[Guess]], ...] = (
    _decoded_boxes,
    _yunet,
    _rows,
    _columns,
    _nanodet,
    _fastestdet,
    _ssd,
    _segmentation,
    _classification,
)
