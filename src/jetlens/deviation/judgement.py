"""Whether outputs differ from a reference's by no more than honest arithmetic of their precision does.

Two rules look at raw outputs. One bounds the error of every picture, and the median over all, by what the model itself makes of a small
change of its input: the reference's answers to pictures 5 % darker say how sensitive it is. The other looks along that change: rounding
goes in every direction, while pixels divided by 256 in place of 255 move all answers a little the same way, far below any bound on size.
A third rule looks at what the task makes of the outputs: classes, boxes, masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.deviation.figures import DEVIATIONS, Arrays, check_outputs, raw_figures
from jetlens.errors import ModelError

__all__ = ["DARKER", "Verdict", "judge"]

DARKER = 0.95
"""What the pictures of the second set of reference outputs are multiplied by."""

_SENSITIVITY = 0.25  # of the effect of that darkening
_SINGLE = 3.0  # how much further than the median one picture may be off
_GAIN = 0.0012  # of the pixels' scale, plus as much again over the root of the number of pictures; 255/256 is 0.0039
_STEPS: Mapping[str, float] = {"fp32": 1, "tf32": 1, "fp16": 1, "bf16": 8, "int8": 40}
_LEAST_RELATIVE = 0.004  # of the outputs' spread at fp16, where the model's sensitivity is not known
_LEAST_SENSITIVE = 0.0015  # where it is known and very small
_MOST_RELATIVE = 0.5  # whatever the precision


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, the figures behind it and, in words, what decided.

    Attributes:
        picture: the index of the picture that shows it most, where one does.
    """

    passed: bool
    why: str
    figures: Mapping[str, float] = field(default_factory=dict)
    picture: int | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """What a rule sees; arrays are [pictures, ...]."""

    task: str
    reference: Arrays
    darker: Arrays
    outputs: Arrays
    precision: str

    @property
    def raw(self) -> list[str]:
        """Outputs that are compared as numbers: floats that no decoding has put in order."""
        names = [name for name, array in self.reference.items() if array.dtype.kind == "f"]
        return [name for name in names if not (self.task == "detection" and name == next(iter(self.reference)))]

    @property
    def step(self) -> float:
        """How coarse the precision's rounding is beside fp16's."""
        return _STEPS.get(self.precision, 1)

    def flat(self, which: str, name: str) -> NDArray[np.float64]:
        arrays: Arrays = getattr(self, which)
        rows = np.asarray(arrays[name], np.float64).reshape(len(arrays[name]), -1)
        # What is infinite is so in both, or was refused before: as a number it says nothing.
        return np.where(np.isfinite(rows), rows, 0.0)


def judge(
    task: str, reference: Arrays, outputs: Arrays, precision: str, *, darker: Arrays | None = None, names: Sequence[str] = ()
) -> Verdict:
    """Compares one batch of raw outputs [pictures, ...] with the reference's.

    Args:
        precision: of the arithmetic that gave the outputs.
        darker: the reference's outputs for the same pictures times DARKER; without them raw errors have a fixed bound, and none on direction.
        names: of the pictures, for the message.
    """
    try:
        check_outputs(reference, outputs, names)
    except ModelError as error:
        return Verdict(False, str(error))
    case = _Case(task, reference, darker or {}, outputs, precision)
    figures = {**raw_figures(task, reference, outputs), **DEVIATIONS[task](reference, outputs)}
    for rule in (_size, _direction, _TASKS[task]):
        found = rule(case)
        if found is not None:
            why, picture = found
            where = "" if picture is None else f", most for {names[picture] if picture < len(names) else f'picture {picture}'}"
            return Verdict(False, why + where, figures, picture)
    return Verdict(True, "no further off than its precision explains", figures)


_Found = tuple[str, "int | None"]


def _size(case: _Case) -> _Found | None:
    for name in case.raw:
        expected = case.flat("reference", name)
        spread = float(expected.std()) or 1.0
        errors = _rms(case.flat("outputs", name) - expected) / spread
        allowed = _LEAST_RELATIVE * case.step
        if name in case.darker:
            effect = float(np.median(_rms(case.flat("darker", name) - expected))) / spread
            allowed = min(_MOST_RELATIVE, max(_SENSITIVITY * effect, _LEAST_SENSITIVE) * case.step)
        worst = int(errors.argmax())
        if float(np.median(errors)) > allowed:
            return f"output {name!r} is off by {np.median(errors):.2g} of its spread (allowed for {case.precision}: {allowed:.2g})", worst
        if float(errors[worst]) > _SINGLE * allowed:
            return f"output {name!r} is off by {errors[worst]:.2g} of its spread on one picture (allowed: {_SINGLE * allowed:.2g})", worst
    return None


def _direction(case: _Case) -> _Found | None:
    if case.step > 1:
        return None
    for name in case.raw:
        if name not in case.darker:
            continue
        expected = case.flat("reference", name)
        change = case.flat("darker", name) - expected
        off = case.flat("outputs", name) - expected
        lengths = (change**2).sum(axis=1)
        known = lengths > 0
        if not known.any():
            continue
        gains = (1 - DARKER) * (off * change).sum(axis=1)[known] / lengths[known]
        gain = float(np.median(gains))
        if abs(gain) > _GAIN * (1 + len(gains) ** -0.5):
            return f"output {name!r} moves as if the pixels were multiplied by {1 - gain:.4f}: check the scale, mean and std", None
    return None


def _classes(case: _Case) -> _Found | None:
    least = {"int8": 0.9, "bf16": 0.95}.get(case.precision, 0.97)
    figures = DEVIATIONS["classification"](case.reference, case.outputs)
    if figures["top1_agreement"] < least:
        return f"the first class agrees on {figures['top1_agreement']:.1%} of the pictures (needed: {least:.0%})", None
    return None


@dataclass(frozen=True, slots=True)
class _Boxes:
    matched: float
    pixels: float
    confidence: float


_BOX_LIMITS = {"int8": _Boxes(0.85, 8.0, 0.3), "bf16": _Boxes(0.95, 3.0, 0.15)}
_EXACT_BOXES = _Boxes(0.98, 0.75, 0.03)
_MASK_LIMITS = {"int8": 0.97, "bf16": 0.995}
_EXACT_MASK = 0.999


def _boxes(case: _Case) -> _Found | None:
    limit = _BOX_LIMITS.get(case.precision, _EXACT_BOXES)
    each = [_one(case, number, DEVIATIONS["detection"]) for number in range(len(next(iter(case.reference.values()))))]
    whole = DEVIATIONS["detection"](case.reference, case.outputs)
    worst = int(np.argmin([figures["matched_boxes"] for figures in each]))
    if whole["matched_boxes"] < limit.matched:
        return f"{whole['matched_boxes']:.1%} of the boxes are found again (needed: {limit.matched:.0%})", worst
    for key, allowed, unit in (("max_box_pixels", limit.pixels, " pixels"), ("max_confidence", limit.confidence, "")):
        values = [figures[key] for figures in each]
        typical, worst = float(np.median(values)), int(np.argmax(values))
        what = "sides of boxes are" if unit else "confidences are"
        if typical > allowed or values[worst] > _SINGLE * allowed:
            return f"{what} off by {max(typical, values[worst]):.3g}{unit} (allowed: {allowed:g}{unit})", worst
    return None


def _masks(case: _Case) -> _Found | None:
    least = _MASK_LIMITS.get(case.precision, _EXACT_MASK)
    shares = [
        _one(case, number, DEVIATIONS["segmentation"])["mask_agreement"] for number in range(len(next(iter(case.reference.values()))))
    ]
    typical, worst = float(np.mean(shares)), int(np.argmin(shares))
    if typical < least or shares[worst] < 1 - _SINGLE * (1 - least):
        return f"{min(typical, shares[worst]):.2%} of the pixels have the same class (needed: {least:.1%})", worst
    return None


_TASKS: dict[str, Callable[[_Case], _Found | None]] = {"classification": _classes, "detection": _boxes, "segmentation": _masks}


def _one(case: _Case, number: int, figures: Callable[[Arrays, Arrays], dict[str, float]]) -> dict[str, float]:
    """The task's figures of one picture."""
    first = next(iter(case.reference))
    piece = slice(number, number + 1)
    return figures({first: case.reference[first][piece]}, {first: case.outputs[first][piece]})


def _rms(rows: NDArray[Any]) -> NDArray[np.float64]:
    root: NDArray[np.float64] = np.sqrt(np.mean(rows**2, axis=1))
    return root
