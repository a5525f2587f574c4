"""Classification: scores of classes to the most probable ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError, UnknownNameError
from jetlens.results import Classification
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays, Batch, Task, TaskOptions
from jetlens.tasks.outputs import MODEL_DEFAULTS, check_finite, check_options, main_output

__all__ = ["ClassificationTask"]

_DECODERS = ("logits", "probabilities")


class ClassificationTask(Task[Classification]):
    """Pictures to the classes that they most probably show.

    Decoders: ``logits`` (softmax here) and ``probabilities``; the output is [N, C], or has further axes of length 1.
    """

    def __init__(self, spec: ModelSpec, options: TaskOptions = MODEL_DEFAULTS) -> None:
        """Raises UnknownNameError for a decoder that is not this task's, and UsageError for options out of range."""
        if spec.decoder not in _DECODERS:
            raise UnknownNameError("classification decoder", spec.decoder, _DECODERS)
        check_options(options)
        self.spec = spec
        self.options = options

    def postprocess(self, outputs: Arrays, batch: Batch) -> list[Classification]:
        """The best classes of each picture.

        Raises:
            ModelError: the output is absent, of another shape, or not finite.
        """
        count = len(batch.placements)
        name, array = main_output(outputs, self.spec, count)
        scores = array[:count].reshape(count, -1)
        offset = self.spec.label_offset
        classes = scores.shape[1]
        if classes != max(array.shape[1:]) or classes <= offset:
            raise ModelError(
                f"{self.spec.name}: output {name!r} has shape {list(array.shape)}; a classification needs [N, classes] with more than {max(0, offset)} classes"
            )
        check_finite(self.spec, name, scores)
        probabilities = softmax(scores) if self.spec.decoder == "logits" else scores.astype(np.float32, copy=False)
        # Classes below the offset are backgrounds without a label: no answer to "what is this".
        named = probabilities[:, max(0, offset) :]
        first_id = max(0, offset) - offset
        best = np.argsort(-named, axis=1, kind="stable")[:, : self.options.top]
        return [
            Classification(row.astype(np.int64) + first_id, picture[row], placement.source_hw, self.spec.labels)
            for row, picture, placement in zip(best, named, batch.placements, strict=True)
        ]


def softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities float32 [N, C] from logits [N, C]."""
    shifted = logits.astype(np.float32)
    shifted -= shifted.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted
