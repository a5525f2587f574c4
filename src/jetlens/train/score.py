"""The figures of a trained network as `jetlens evaluate` computes them: at the pictures' own size, through the task, by the same metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from jetlens.data import Sample
from jetlens.errors import ImageError
from jetlens.frame import Image
from jetlens.metrics import ConfusionMatrix, accuracy_top_k, mean_average_precision
from jetlens.registry import installed
from jetlens.results import Detections
from jetlens.spec import ModelSpec, PreprocessSpec, TaskName
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions
from jetlens.train.feed import normaliser
from jetlens.train.losses import IGNORE
from jetlens.train.worst import Mistake, Worst

__all__ = ["Score", "final_score"]

BEST = 300
"""As many (anchor, class) pairs as a deployed detector keeps."""
LOWEST = 0.01
"""Confidence from which boxes count for mAP."""
TOP = 5
Answers: TypeAlias = "Iterator[tuple[Any, Image, Sample]]"
DECODERS: dict[str, str] = {"classification": "logits", "detection": "detections", "segmentation": "mask"}


@dataclass(slots=True)
class Score:
    """What was measured.

    Attributes:
        figures: by the names of ``jetlens evaluate``; empty where they cannot be had.
        count: pictures that were scored.
        matrix: true and predicted classes, of pictures or of pixels; None for detection.
        classes: a row a class, as ``jetlens evaluate`` has them.
        worst: the pictures on which the network did worst, worst first.
    """

    figures: dict[str, float] = field(default_factory=dict)
    count: int = 0
    matrix: ConfusionMatrix | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    worst: list[Mistake] = field(default_factory=list)


def final_score(
    network: nn.Module, task: TaskName, labels: tuple[str, ...], preprocess: PreprocessSpec, samples: Iterable[Sample], device: torch.device
) -> Score:
    """Scores a network on pictures of any size, in fp32; detection needs faster-coco-eval and has no figures without it."""
    if task == "detection" and not installed("faster_coco_eval"):
        return Score()
    spec = ModelSpec("trained", task, labels, replace(preprocess, baked=True), DECODERS[task])
    worst = Worst(labels)
    score = _SCORERS[task](_seen(_answers(network, spec, _readable(samples), device), worst), labels)
    if score.matrix is not None:
        score.classes = list(score.matrix.rows(labels))
    score.worst = worst.rows
    return score


def _seen(answers: Answers, worst: Worst) -> Answers:
    for prediction, image, sample in answers:
        worst.add(prediction, image, sample.truth, sample.name)
        yield prediction, image, sample


def _boxes(answers: Answers, labels: tuple[str, ...]) -> Score:
    predictions, truths = [], []
    for prediction, _, sample in answers:
        assert isinstance(sample.truth, Detections)
        predictions.append(prediction)
        truths.append(sample.truth)
    accuracy = mean_average_precision(predictions, truths)
    rows: list[dict[str, Any]] = [
        {"class_id": i, "label": labels[i], "ap50": ap50, "ap50_95": accuracy.ap50_95[i], "boxes": accuracy.boxes[i]}
        for i, ap50 in accuracy.ap50.items()
    ]
    return Score({"map50": accuracy.map50, "map50_95": accuracy.map50_95}, len(truths), classes=rows)


def _pictures(answers: Answers, labels: tuple[str, ...]) -> Score:
    ranked, truth, matrix = [], [], ConfusionMatrix(len(labels))
    for prediction, _, sample in answers:
        ranked.append(prediction.class_id)
        truth.append(int(sample.truth))  # type: ignore[arg-type]
    known = np.array(truth)
    matrix.add(known, np.stack(ranked)[:, 0])
    figures = {"top1": accuracy_top_k(np.stack(ranked), known), "macro_f1": matrix.macro_f1}
    if len(labels) > TOP:
        figures["top5"] = accuracy_top_k(np.stack(ranked), known, TOP)
    return Score(figures, len(truth), matrix)


def _pixels(answers: Answers, labels: tuple[str, ...]) -> Score:
    matrix, count = ConfusionMatrix(max(2, len(labels)), ignore=IGNORE), 0
    for prediction, _, sample in answers:
        matrix.add(np.asarray(sample.truth), prediction.mask)
        count += 1
    there = matrix.support[1:] > 0
    foreground = float(matrix.iou[1:][there].mean()) if there.any() else 0.0
    return Score({"miou": matrix.mean_iou, "miou_foreground": foreground, "pixel_accuracy": matrix.accuracy}, count, matrix)


_SCORERS: dict[str, Callable[[Answers, tuple[str, ...]], Score]] = {
    "classification": _pictures,
    "detection": _boxes,
    "segmentation": _pixels,
}


def _readable(samples: Iterable[Sample]) -> Iterator[tuple[Image, Sample]]:
    for sample in samples:
        try:
            yield sample.pixels(), sample
        except ImageError:
            continue


def _answers(network: nn.Module, spec: ModelSpec, pictures: Iterator[tuple[Image, Sample]], device: torch.device) -> Answers:
    """A prediction for each sample, through the task that a deployed model goes through."""
    task = TASKS.load(spec.task)(spec, TaskOptions(confidence=LOWEST) if spec.task == "detection" else TaskOptions())
    normalise = normaliser(spec.preprocess, device, channels_last=False)
    many = 64 if spec.task == "classification" else 1
    network = network.to(device).eval()
    while chunk := list(islice(pictures, many)):
        batch = task.preprocess([image for image, _ in chunk])
        with torch.inference_mode():
            pixels = torch.from_numpy(batch.array).to(device).permute(0, 3, 1, 2).float()
            outputs = {DECODERS[spec.task]: _decoded(network, spec.task, normalise(pixels)).cpu().numpy()}
        for prediction, (image, sample) in zip(task.postprocess(outputs, batch), chunk, strict=True):
            yield prediction, image, sample


def _decoded(network: nn.Module, task: TaskName, pixels: torch.Tensor) -> torch.Tensor:
    """The output that the deployed graph of the task has."""
    answer: Any = network(pixels)
    if task == "classification":
        return answer  # type: ignore[no-any-return]
    if task == "segmentation":
        return answer.argmax(1).to(torch.int32)  # type: ignore[no-any-return]
    xyxy, scores = network.decode(*answer)  # type: ignore[operator]
    confidence, index = scores.flatten(1).topk(min(BEST, scores[0].numel()), dim=1)
    anchor = index // scores.shape[2]
    boxes = xyxy.gather(1, anchor[..., None].expand(-1, -1, 4))
    return torch.cat([boxes, confidence[..., None], (index % scores.shape[2])[..., None].to(boxes)], dim=2)
