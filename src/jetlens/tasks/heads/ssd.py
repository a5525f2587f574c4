"""The decoder of SSD-style graphs: an output of boxes, an output of scores, perhaps one of class ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import Candidates, Floats, best_class, corners_from_center, keep, made

__all__ = ["ssd"]


def ssd(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Boxes [N, A, 4] with scores [N, A, C], or with scores [N, A] and class ids [N, A]; each without the axis N if the graph has none.

    Options: ``boxes``, ``scores``, ``classes`` name the outputs; ``normalised`` (true): boxes are parts of the canvas and not pixels;
    ``corners``: ``xyxy``, ``yxyx`` or ``cxcywh``; ``activation`` of the scores: ``none``, ``softmax`` or ``sigmoid``.
    Classes below the spec's label offset are background and never found.
    """
    options = spec.decoder_options
    boxes = _batched(_named(outputs, spec, "boxes"), 3, spec)
    with_ids = "classes" in options
    scores = _batched(_named(outputs, spec, "scores"), 2 if with_ids else 3, spec)
    ids = _batched(_named(outputs, spec, "classes"), 2, spec) if with_ids else None
    if boxes.shape[:2] != scores.shape[:2] or boxes.shape[2] != 4:
        raise ModelError(
            f"{spec.name}: boxes {list(boxes.shape)} and scores {list(scores.shape)} do not belong together: check the options boxes and scores"
        )
    found = []
    for index in range(len(boxes)):
        if ids is None:
            background = max(0, spec.label_offset)
            best, class_id = best_class(_activated(scores[index], spec)[:, background:], classes_axis=1)
            class_id += background
        else:
            class_id = np.rint(ids[index]).astype(np.int64)
            best = np.where(class_id >= spec.label_offset, scores[index], 0)
        kept = keep(best, confidence, spec)
        found.append(made(_corners(boxes[index, kept], spec), best[kept], class_id[kept]))
    return found


def _named(outputs: Arrays, spec: ModelSpec, key: str) -> Floats:
    name = str(spec.decoder_options.get(key, key))
    if name not in outputs:
        raise ModelError(f"{spec.name}: decoder 'ssd' has no output {name!r} for its {key}; the graph answers {', '.join(outputs)}")
    return outputs[name]


def _batched(array: Floats, ndim: int, spec: ModelSpec) -> Floats:
    if array.ndim == ndim - 1:
        return array[None]
    if array.ndim != ndim:
        raise ModelError(
            f"{spec.name}: an output has shape {list(array.shape)}; decoder 'ssd' needs {ndim} axes there: choose another --decoder"
        )
    return array


def _activated(scores: Floats, spec: ModelSpec) -> Floats:
    kind = spec.decoder_options.get("activation", "none")
    if kind == "none":
        return scores
    scores = scores.astype(np.float32, copy=False)
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-scores)), np.float32)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _corners(boxes: Floats, spec: ModelSpec) -> NDArray[np.float32]:
    layout = spec.decoder_options.get("corners", "xyxy")
    corners = boxes.astype(np.float32, copy=False)
    if layout == "yxyx":
        corners = corners[:, [1, 0, 3, 2]]
    elif layout == "cxcywh":
        corners = corners_from_center(corners)
    if spec.decoder_options.get("normalised", True):
        height, width = spec.preprocess.size_hw
        corners = corners * np.array([width, height, width, height], np.float32)
    return corners
