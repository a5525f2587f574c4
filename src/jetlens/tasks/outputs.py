"""A graph's outputs as every task reads them: the right one, with a row a picture, and no NaN or infinity in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError, UsageError
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays, TaskOptions

__all__ = ["MODEL_DEFAULTS", "check_finite", "check_options", "main_output"]

MODEL_DEFAULTS = TaskOptions()
"""Nothing set by the user: the model's own values hold."""


def main_output(outputs: Arrays, spec: ModelSpec, count: int) -> tuple[str, NDArray[Any]]:
    """Name and array of the output that the option ``output`` names, otherwise of the first.

    Raises:
        ModelError: it is absent, or has fewer rows than the batch has pictures.
    """
    name = str(spec.decoder_options.get("output") or next(iter(outputs), ""))
    if name not in outputs:
        raise ModelError(f"{spec.name}: there is no output {name!r}; the graph answers {', '.join(outputs) or 'nothing'}")
    array = outputs[name]
    if array.ndim < 2 or len(array) < count:
        raise ModelError(f"{spec.name}: output {name!r} has shape {list(array.shape)}; decoder {spec.decoder!r} needs [{count}, ...]")
    return name, array


def check_finite(spec: ModelSpec, name: str, array: NDArray[Any]) -> None:
    """Refuses an output with NaN or infinity in it: such an answer means nothing, and must not pass for "nothing found".

    Raises:
        ModelError: a value is not finite.
    """
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite only if every term is: one pass without an array of flags.
        if np.isfinite(np.sum(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)):
            return
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise ModelError(
            f"{spec.name}: output {name!r} has {wrong} of {array.size} values NaN or infinite; "
            "check mean and std, the weights and the precision (fp16 overflows where fp32 does not)"
        )


def check_options(options: TaskOptions) -> None:
    """Refuses thresholds and counts that mean nothing.

    Raises:
        UsageError: confidence or iou is not in 0 to 1, or top is below 1.
    """
    for name in ("confidence", "iou"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name} is {value}; give a number from 0 to 1")
    if options.top < 1:
        raise UsageError(f"top is {options.top}; give at least 1")
