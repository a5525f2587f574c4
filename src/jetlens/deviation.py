"""How far a runtime's outputs are from a reference on identical input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.ops.boxes import iou_matrix

__all__ = ["DEVIATIONS", "deviation"]

MATCH_IOU = 0.9
MATCH_CONFIDENCE = 0.25


def deviation(task: str, reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Figures for one batch of raw outputs beside the reference's.

    Raises:
        ModelError: an output is missing, has another shape, or holds NaN or infinity where the reference has none.
    """
    for name, expected in reference.items():
        got = outputs.get(name)
        if got is None or got.shape != expected.shape:
            raise ModelError(f"output {name!r}: expected shape {expected.shape}, got {None if got is None else got.shape}")
        if got.dtype.kind == "f" and np.isfinite(expected).all() and not np.isfinite(got).all():
            raise ModelError(
                f"output {name!r} holds {int((~np.isfinite(got)).sum())} values that are NaN or infinite; the reference has none"
            )
    return DEVIATIONS[task](reference, outputs)


def _classification(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    name = next(iter(reference))
    expected = reference[name].astype(np.float32, copy=False)
    got = outputs[name].astype(np.float32, copy=False)
    return {"max_abs": float(np.abs(expected - got).max()), "top1_agreement": float((expected.argmax(1) == got.argmax(1)).mean())}


def _detection(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    name = next(iter(reference))
    matched = total = 0
    furthest = 0.0
    for expected, got in zip(reference[name], outputs[name], strict=True):
        expected = expected[expected[:, 4] >= MATCH_CONFIDENCE]
        total += len(expected)
        if not len(expected):
            continue
        # The order of equals may differ between runtimes, so each box looks for its own partner of the same class.
        iou = iou_matrix(expected[:, :4], got[:, :4])
        iou[expected[:, 5][:, None] != got[:, 5][None]] = 0
        best = iou.argmax(1)
        found = iou[np.arange(len(expected)), best] >= MATCH_IOU
        matched += int(found.sum())
        if found.any():
            furthest = max(furthest, float(np.abs(expected[found, :5] - got[best[found], :5])[:, :4].max()))
    return {"max_box_pixels": furthest, "matched_boxes": matched / total if total else 1.0}


def _segmentation(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    name = next(iter(reference))
    return {"mask_agreement": float((reference[name] == outputs[name]).mean())}


DEVIATIONS: dict[str, Callable[[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], dict[str, float]]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
