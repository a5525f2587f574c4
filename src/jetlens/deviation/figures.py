"""How far a runtime's outputs are from a reference on identical input, in figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.ops.boxes import iou_matrix

__all__ = ["DEVIATIONS", "Arrays", "check_outputs", "deviation", "raw_figures"]

Arrays = Mapping[str, NDArray[Any]]
MATCH_IOU = 0.9
MATCH_CONFIDENCE = 0.25
_TOP = 5


def deviation(task: str, reference: Arrays, outputs: Arrays) -> dict[str, float]:
    """Figures for one batch of raw outputs beside the reference's; the first output is the task's, others are compared as numbers.

    Raises:
        ModelError: an output is missing, has another shape, or holds NaN, or infinity where the reference has none.
    """
    check_outputs(reference, outputs)
    return {**raw_figures(task, reference, outputs), **DEVIATIONS[task](reference, outputs)}


def check_outputs(reference: Arrays, outputs: Arrays, names: Sequence[str] = ()) -> None:
    """Names the output and the picture of what cannot be compared.

    Args:
        names: of the pictures, in the order of the batch.

    Raises:
        ModelError: an output is missing, has another shape, or holds NaN, or infinity where the reference has none.
    """
    for name, expected in reference.items():
        got = outputs.get(name)
        if got is None or got.shape != expected.shape:
            raise ModelError(f"output {name!r}: expected shape {expected.shape}, got {None if got is None else got.shape}")
        if got.dtype.kind != "f":
            continue
        # A graph may mask with infinity, and then it does so everywhere; NaN is never an answer.
        wrong = np.isnan(got) | (np.isinf(got) & (got != expected))
        if wrong.any():
            first = int(np.argmax(wrong.reshape(len(got), -1).any(axis=1)))
            picture = names[first] if first < len(names) else f"picture {first}"
            kinds = "NaN" if np.isnan(got).any() else "infinite"
            raise ModelError(f"output {name!r} holds {int(wrong.sum())} values that are NaN or infinite ({kinds}), first for {picture}")


def raw_figures(task: str, reference: Arrays, outputs: Arrays) -> dict[str, float]:
    """Largest and mean absolute difference, RMSE, relative error (RMSE over the reference's own spread) and cosine, the worst output of each.

    Boxes after decoding are left out: runtimes put equals in different orders; so are class ids.
    """
    worst: dict[str, float] = {}
    for number, (name, expected) in enumerate(reference.items()):
        if expected.dtype.kind != "f" or (task == "detection" and number == 0):
            continue
        first, second = expected.astype(np.float64).ravel(), outputs[name].astype(np.float64).ravel()
        finite = np.isfinite(first) & np.isfinite(second)
        first, second = first[finite], second[finite]
        if not first.size:
            continue
        off = np.abs(second - first)
        rmse = float(np.sqrt(np.mean(off**2)))
        spread, length = float(first.std()), float(np.linalg.norm(first) * np.linalg.norm(second))
        figures = {"max_abs": float(off.max(initial=0)), "mean_abs": float(off.mean()), "rmse": rmse}
        figures["relative"] = rmse / spread if spread else (0.0 if rmse == 0 else np.inf)
        for key, value in figures.items():
            worst[key] = max(worst.get(key, 0.0), value)
        worst["cosine"] = min(worst.get("cosine", 1.0), float(first @ second) / length if length else float(rmse == 0))
    return worst


def _classification(reference: Arrays, outputs: Arrays) -> dict[str, float]:
    name = next(iter(reference))
    expected = reference[name].reshape(len(reference[name]), -1)
    got = outputs[name].reshape(expected.shape)
    figures = {"top1_agreement": float((expected.argmax(1) == got.argmax(1)).mean())}
    if expected.shape[1] > _TOP:
        tops = [np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :_TOP], axis=1) for scores in (expected, got)]
        figures["top5_agreement"] = float((tops[0] == tops[1]).all(axis=1).mean())
    return figures


def _detection(reference: Arrays, outputs: Arrays) -> dict[str, float]:
    name = next(iter(reference))
    matched = total = 0
    furthest = surest = 0.0
    for expected, got in zip(reference[name], outputs[name], strict=True):
        expected = expected[expected[:, 4] >= MATCH_CONFIDENCE]
        total += len(expected)
        if not len(expected):
            continue
        # The order of equals may differ between runtimes, so each box looks for its own partner of the same class: before NMS several lie
        # on one another, and of these the one with the nearest confidence is meant.
        near = iou_matrix(expected[:, :4], got[:, :4]) >= MATCH_IOU
        near &= expected[:, 5][:, None] == got[:, 5][None]
        best = np.where(near, np.abs(expected[:, 4][:, None] - got[:, 4][None]), np.inf).argmin(1)
        found = near[np.arange(len(expected)), best]
        matched += int(found.sum())
        if found.any():
            off = np.abs(expected[found, :5] - got[best[found], :5])
            furthest = max(furthest, float(off[:, :4].max()))
            surest = max(surest, float(off[:, 4].max()))
    return {"max_box_pixels": furthest, "max_confidence": surest, "matched_boxes": matched / total if total else 1.0}


def _segmentation(reference: Arrays, outputs: Arrays) -> dict[str, float]:
    name = next(iter(reference))
    return {"mask_agreement": float((reference[name] == outputs[name]).mean())}


DEVIATIONS: dict[str, Callable[[Arrays, Arrays], dict[str, float]]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
