"""Lanes for runtimes that answer at once: submit() runs, and the answer is there when it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import DeviceTimings, Lane
from jetlens.backends.checks import check_pictures
from jetlens.spec import TensorSpec

__all__ = ["ImmediateLanes"]


class ImmediateLane:
    """Input arrays to write into; any number may be lent at once."""

    def __init__(self, specs: tuple[TensorSpec, ...], batch: int) -> None:
        shapes = {row.name: tuple(batch if isinstance(axis, str) and i == 0 else axis for i, axis in enumerate(row.shape)) for row in specs}
        self.inputs: Mapping[str, NDArray[Any]] = {row.name: np.zeros(shapes[row.name], row.dtype) for row in specs}  # type: ignore[arg-type]

    def borrow(self, name: str, pictures: Sequence[NDArray[Any]]) -> None:
        """Copies pictures into the first rows of an input."""
        page = self.inputs[name]
        check_pictures(name, page, pictures)
        for row, picture in zip(page, pictures, strict=False):
            np.copyto(row, picture)

    def release(self) -> None:
        """Gives the lane back unused."""


class ImmediatePending:
    """An answer that is there already."""

    timings: DeviceTimings | None = None

    def __init__(self, outputs: dict[str, NDArray[Any]]) -> None:
        self._outputs = outputs

    def done(self) -> bool:
        """True: there is nothing to wait for."""
        return True

    def result(self) -> dict[str, NDArray[Any]]:
        """The outputs; the caller owns the arrays."""
        return self._outputs

    def view(self) -> dict[str, NDArray[Any]]:
        """The outputs."""
        return self._outputs

    def release(self) -> None:
        """Nothing is held."""


class ImmediateLanes:
    """Gives a session that has ``run`` its ``lane`` and ``submit``.

    Attributes:
        at_once: how many runs several threads may have at once; 1 where only one thread at a time may call ``run``.
    """

    inputs: tuple[TensorSpec, ...]
    at_once: int = 1

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output."""
        raise NotImplementedError

    def lane(self, batch: int = 1) -> ImmediateLane:
        """Input arrays for ``batch`` pictures."""
        return ImmediateLane(self.inputs, batch)

    def submit(self, inputs: Mapping[str, NDArray[Any]] | Lane) -> ImmediatePending:
        """Runs, and returns the finished answer."""
        return ImmediatePending(self.run(inputs if isinstance(inputs, Mapping) else inputs.inputs))
