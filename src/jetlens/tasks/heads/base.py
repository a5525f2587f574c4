"""Candidates, what every detection decoder returns, and the steps that decoders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays

__all__ = [
    "Candidates",
    "Decoder",
    "Floats",
    "best_class",
    "cells",
    "check_anchors",
    "corners_from_center",
    "first_output",
    "keep",
    "made",
    "output_of",
    "strides_of",
]

Floats: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The boxes of one picture before non-maximum suppression, none below the asked confidence, in no order.

    Attributes:
        xyxy: float32 [M, 4], left, top, right, bottom in pixels of the network's canvas, not clipped.
        confidence: float32 [M].
        class_id: int64 [M], ids of the graph: the spec's label offset is not subtracted yet.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.xyxy)


Decoder: TypeAlias = Callable[[Arrays, ModelSpec, float], list[Candidates]]
"""A row of HEADS: outputs of the graph, spec and lowest confidence to one Candidates a picture."""


def first_output(outputs: Arrays, spec: ModelSpec, *, ndim: int) -> Floats:
    """The output that the option ``output`` names, otherwise the first.

    Raises:
        ModelError: it is absent or has another number of axes.
    """
    name = spec.decoder_options.get("output") or next(iter(outputs), "")
    return output_of(outputs, spec, str(name), ndim=ndim)


def output_of(outputs: Arrays, spec: ModelSpec, name: str, *, ndim: int) -> Floats:
    """An output by its name.

    Raises:
        ModelError: it is absent or has another number of axes.
    """
    array = outputs.get(name)
    if array is None:
        raise ModelError(
            f"{spec.name}: decoder {spec.decoder!r} needs output {name!r}; the graph answers {', '.join(outputs) or 'nothing'}"
        )
    if array.ndim != ndim:
        raise ModelError(
            f"{spec.name}: output {name!r} has shape {list(array.shape)}; decoder {spec.decoder!r} needs {ndim} axes: choose another --decoder"
        )
    return array


def best_class(scores: Floats, *, classes_axis: int) -> tuple[Floats, NDArray[np.int64]]:
    """The highest score and its class of each anchor; ``scores`` is one picture's [anchors, classes] or [classes, anchors]."""
    class_id = scores.argmax(axis=classes_axis)
    best = np.take_along_axis(scores, np.expand_dims(class_id, classes_axis), axis=classes_axis).squeeze(classes_axis)
    return best, class_id.astype(np.int64, copy=False)


def keep(score: Floats, confidence: float, spec: ModelSpec) -> NDArray[np.int64]:
    """Indices of the anchors at or above the confidence; a score of exactly 0 is padding and never kept.

    Raises:
        ModelError: a score is NaN, so the graph's answer means nothing.
    """
    if score.size and np.isnan(np.maximum.reduce(score, axis=None)):  # NaN is the maximum of all that it is among
        raise ModelError(
            f"{spec.name}: the graph answers NaN scores; check mean and std, and the precision (fp16 overflows where fp32 does not)"
        )
    kept = score >= confidence if confidence > 0 else score > 0
    return kept.nonzero()[0]


def corners_from_center(cxcywh: Floats) -> NDArray[np.float32]:
    """Boxes [..., 4] as center x, center y, width, height to left, top, right, bottom."""
    boxes = cxcywh.astype(np.float32, copy=False)
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


@lru_cache(maxsize=16)
def cells(size_hw: tuple[int, int], strides: tuple[int, ...]) -> NDArray[np.float32]:
    """The cells of feature maps of a canvas, one map after another, row by row: read-only float32 [A, 3] of column, row, stride."""
    maps = []
    for stride in strides:
        rows, columns = np.mgrid[0 : -(-size_hw[0] // stride), 0 : -(-size_hw[1] // stride)]
        maps.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    table = np.concatenate(maps).astype(np.float32)
    table.setflags(write=False)
    return table


def strides_of(spec: ModelSpec, default: tuple[int, ...]) -> tuple[int, ...]:
    """The option ``strides``, or the family's usual ones."""
    return tuple(int(stride) for stride in spec.decoder_options.get("strides", default))


def check_anchors(spec: ModelSpec, count: int, strides: tuple[int, ...]) -> NDArray[np.float32]:
    """The cells of the spec's canvas, if they are as many as the graph has anchors.

    Raises:
        ModelError: they are not.
    """
    table = cells(tuple(spec.preprocess.size_hw), strides)
    if len(table) != count:
        height, width = spec.preprocess.size_hw
        raise ModelError(
            f"{spec.name}: the graph has {count} anchors; {height}x{width} with strides {list(strides)} has {len(table)}: "
            f"check the size, the option strides, or choose another --decoder"
        )
    return table


def made(xyxy: Floats, confidence: Floats, class_id: NDArray[Any]) -> Candidates:
    """Candidates from arrays of any number type."""
    return Candidates(
        np.ascontiguousarray(xyxy, np.float32).reshape(-1, 4),
        np.ascontiguousarray(confidence, np.float32),
        np.ascontiguousarray(class_id, np.int64),
    )
