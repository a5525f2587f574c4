"""Segmentation: a mask of class ids, or the scores of classes, to class ids of the source picture's pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError, UnknownNameError
from jetlens.ops.buffers import BufferPool
from jetlens.ops.masks import class_ids, resize_mask
from jetlens.results import Segmentation
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays, Batch, Task, TaskOptions
from jetlens.tasks.outputs import MODEL_DEFAULTS, check_finite, check_options, main_output

__all__ = ["SegmentationTask", "segment_labels"]

_DECODERS = ("mask", "logits")


class SegmentationTask(Task[Segmentation]):
    """Pictures to one class id a pixel.

    Decoders: ``mask`` (class ids [N, h, w], perhaps with an axis of length 1) and ``logits`` ([N, C, h, w], or [N, h, w, C] with the option
    ``layout`` = ``nhwc``; with one class, what is above the option ``threshold``, 0 unless given, is class 1). h and w may differ from the input's.
    """

    def __init__(self, spec: ModelSpec, options: TaskOptions = MODEL_DEFAULTS) -> None:
        """Raises UnknownNameError for a decoder that is not this task's, and UsageError for options out of range."""
        if spec.decoder not in _DECODERS:
            raise UnknownNameError("segmentation decoder", spec.decoder, _DECODERS)
        check_options(options)
        self.spec = spec
        self.options = options
        self._masks = BufferPool()
        self._labels = segment_labels(spec)

    def postprocess(self, outputs: Arrays, batch: Batch) -> list[Segmentation]:
        """The mask of each picture at its own size; pixels that a crop cut off are 0, the background.

        Raises:
            ModelError: the output is absent, of another shape, not finite, or holds ids outside of 0 to 255.
        """
        count = len(batch.placements)
        name, array = main_output(outputs, self.spec, count)
        ids_of = self._from_mask if self.spec.decoder == "mask" else self._from_logits
        return [
            Segmentation(resize_mask(ids_of(name, one), placement, self._masks.take(placement.source_hw)), self._labels)
            for one, placement in zip(array[:count], batch.placements, strict=True)
        ]

    def _from_mask(self, name: str, mask: NDArray[Any]) -> NDArray[np.uint8]:
        if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
            mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
        if mask.ndim != 2:
            raise ModelError(
                f"{self.spec.name}: output {name!r} has shape {list(mask.shape)} a picture; decoder 'mask' needs [h, w] class ids (or use decoder 'logits')"
            )
        check_finite(self.spec, name, mask)
        if mask.dtype == np.uint8:
            return mask
        # Read as unsigned, an id below 0 is a very large one: one pass finds both.
        unsigned = mask.view(f"u{mask.itemsize}") if mask.dtype.kind == "i" else mask
        if unsigned.max() > 255 or (mask.dtype.kind == "f" and mask.min() < 0):
            raise ModelError(f"{self.spec.name}: output {name!r} holds class ids from {mask.min()} to {mask.max()}; allowed: 0 to 255")
        return mask.astype(np.uint8)

    def _from_logits(self, name: str, logits: NDArray[Any]) -> NDArray[np.uint8]:
        if self.spec.decoder_options.get("layout") == "nhwc" and logits.ndim == 3:
            logits = logits.transpose(2, 0, 1)
        if logits.ndim != 3 or not 1 <= len(logits) <= 256:
            raise ModelError(
                f"{self.spec.name}: output {name!r} has shape {list(logits.shape)} a picture; decoder 'logits' needs [classes, h, w] with 1 to 256 classes"
            )
        check_finite(self.spec, name, logits)
        if len(logits) == 1:
            above: NDArray[np.bool_] = logits[0] > float(self.spec.decoder_options.get("threshold", 0.0))
            return above.view(np.uint8)
        return class_ids(logits)


def segment_labels(spec: ModelSpec) -> tuple[str, ...]:
    """Names by the graph's own ids, in which 0 stays the background: with an offset the labels move instead."""
    offset = spec.label_offset
    return ("background", *("",) * (offset - 1), *spec.labels) if offset > 0 else spec.labels[-offset:]
