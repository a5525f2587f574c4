"""Detection: candidates of a decoder to boxes in the source picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.ops.boxes import nms
from jetlens.ops.placement import Placement
from jetlens.results import Detections
from jetlens.spec import ModelSpec
from jetlens.tasks.base import Arrays, Batch, Task, TaskOptions
from jetlens.tasks.heads import HEADS, Candidates, Decoder
from jetlens.tasks.outputs import MODEL_DEFAULTS, check_finite, check_options

__all__ = ["DetectionTask"]


class DetectionTask(Task[Detections]):
    """Pictures to boxes: the decoder of the spec, non-maximum suppression a class, and the way back to source pixels."""

    def __init__(self, spec: ModelSpec, options: TaskOptions = MODEL_DEFAULTS) -> None:
        """Raises UnknownNameError for a decoder that is in no table, and UsageError for options out of range."""
        check_options(options)
        self.spec = spec
        self.options = options
        self._decode: Decoder = HEADS.load(spec.decoder)
        self._confidence = spec.confidence if options.confidence is None else options.confidence
        self._iou = spec.iou if options.iou is None else options.iou

    def postprocess(self, outputs: Arrays, batch: Batch) -> list[Detections]:
        """The objects of each picture, most confident first; boxes are clipped to the picture, and those without an area dropped.

        Raises:
            ModelError: an output is absent, of another shape, or gives NaN or infinity for a score or for a box that counts.
        """
        found = self._decode(outputs, self.spec, self._confidence)
        count = len(batch.placements)
        if len(found) < count:
            raise ModelError(f"{self.spec.name}: the graph answers for {len(found)} pictures, and {count} went in; check the batch axis")
        return [self._to_source(c, p, outputs) for c, p in zip(found, batch.placements, strict=False)]

    def _to_source(self, candidates: Candidates, placement: Placement, outputs: Arrays) -> Detections:
        if not (_finite(candidates.xyxy) and _finite(candidates.confidence)):
            for name, array in outputs.items():
                check_finite(self.spec, name, array)
            raise ModelError(
                f"{self.spec.name}: decoder {self.spec.decoder!r} gives boxes that are not finite; choose another --decoder or check the weights"
            )
        class_id = candidates.class_id - self.spec.label_offset
        kept = nms(candidates.xyxy, candidates.confidence, class_id, self._iou)
        # Below the offset stand backgrounds.
        kept = kept[class_id[kept] >= 0]
        xyxy = placement.boxes_to_source(candidates.xyxy[kept])
        solid = np.logical_and.reduce(xyxy[:, 2:] > xyxy[:, :2], axis=1)
        kept = kept[solid]
        return Detections(xyxy[solid], candidates.confidence[kept], class_id[kept], placement.source_hw, self.spec.labels)


def _finite(array: NDArray[np.float32]) -> bool:
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))
