"""What every task has: options, a batch, two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from jetlens.frame import Image
from jetlens.ops.images import prepare
from jetlens.ops.placement import Placement
from jetlens.spec import ModelSpec

__all__ = ["Arrays", "Batch", "Task", "TaskOptions"]

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
P_co = TypeVar("P_co", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a user may set of a task; None takes the model's own value.

    Attributes:
        confidence: detections below it are dropped.
        iou: threshold of non-maximum suppression.
        top: how many classes a classification lists.
    """

    confidence: float | None = None
    iou: float | None = None
    top: int = 5


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures made ready for a graph.

    Attributes:
        array: [N, ...] in the type and layout of the graph's input.
        placements: where each of the N pictures stands on its canvas.
    """

    array: NDArray[Any]
    placements: tuple[Placement, ...]


class Task(Protocol[P_co]):
    """Built as ``SomeTask(spec, options)``."""

    spec: ModelSpec
    options: TaskOptions

    def __init__(self, spec: ModelSpec, options: TaskOptions = ...) -> None: ...

    def preprocess(self, images_rgb: Sequence[Image], out: NDArray[Any] | None = None) -> Batch:
        """Resizes (and, where the graph does not, normalises) N pictures into one array; ``out`` [>= N, ...] is written into if given."""
        return Batch(*prepare(images_rgb, self.spec.preprocess, out))

    def postprocess(self, outputs: Arrays, batch: Batch) -> Sequence[P_co]:
        """One result a picture, in the pixels of its source picture."""
        ...
