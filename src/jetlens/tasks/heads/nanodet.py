"""The decoder of NanoDet, whose box sides are distributions over distances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays
from jetlens.tasks.heads.base import Candidates, Floats, best_class, check_anchors, keep, made, output_of, strides_of

__all__ = ["nanodet"]


def nanodet(outputs: Arrays, spec: ModelSpec, confidence: float) -> list[Candidates]:
    """Class scores [N, A, C] (probabilities already) and, for each of the four sides, logits over the distances 0 ... bins - 1 in strides.

    The options ``scores`` and ``boxes`` name the outputs, one a feature map; without them a single output [N, A, C + 4 * bins] holds both.
    ``strides``, ``bins`` (8) and ``center`` (0.5: where in its cell an anchor stands) complete them.
    """
    options = spec.decoder_options
    bins, center = int(options.get("bins", 8)), float(options.get("center", 0.5))
    scores, sides = _halves(outputs, spec, bins)
    table = check_anchors(spec, scores.shape[1], strides_of(spec, (8, 16, 32)))
    found = []
    for picture_scores, picture_sides in zip(scores, sides, strict=True):
        best, class_id = best_class(picture_scores, classes_axis=1)
        kept = keep(best, confidence, spec)
        cell = table[kept]
        middle = (cell[:, :2] + np.float32(center)) * cell[:, 2:]
        distance = _expectation(picture_sides[kept].reshape(-1, 4, bins)) * cell[:, 2:]
        found.append(made(np.concatenate([middle - distance[:, :2], middle + distance[:, 2:]], axis=1), best[kept], class_id[kept]))
    return found


def _halves(outputs: Arrays, spec: ModelSpec, bins: int) -> tuple[Floats, Floats]:
    options = spec.decoder_options
    if options.get("scores") and options.get("boxes"):
        scores, sides = (np.concatenate(list(_named(outputs, spec, key)), axis=1) for key in ("scores", "boxes"))
    else:
        joint = output_of(outputs, spec, str(options.get("output") or next(iter(outputs), "")), ndim=3)
        scores, sides = joint[..., : -4 * bins], joint[..., -4 * bins :]
    if sides.shape[-1] != 4 * bins or scores.shape[-1] < 1 or scores.shape[:2] != sides.shape[:2]:
        raise ModelError(
            f"{spec.name}: scores {list(scores.shape)} and box distributions {list(sides.shape)} do not fit 4 sides of {bins} bins: "
            "set the options scores, boxes and bins"
        )
    return scores, sides


def _named(outputs: Arrays, spec: ModelSpec, key: str) -> Iterator[Floats]:
    return (output_of(outputs, spec, str(name), ndim=3) for name in spec.decoder_options[key])


def _expectation(logits: Floats) -> NDArray[np.float32]:
    """The mean of each distribution [..., bins] whose logits are given."""
    logits = logits.astype(np.float32, copy=False)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mean: NDArray[np.float32] = weights @ np.arange(logits.shape[-1], dtype=np.float32) / weights.sum(axis=-1)
    return mean
