"""Scores that a graph's own ArgMax hides: it turns NaN into a class as if nothing were wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jetlens.errors import ModelError
from jetlens.frame import Image
from jetlens.imagefile import load_image
from jetlens.predictor import Predictor
from jetlens.registry import installed, require

__all__ = ["LOOKED_BEHIND", "check_behind_argmax"]

LOOKED_BEHIND = 4
"""Pictures whose hidden scores are looked at: each costs a second run."""


def check_behind_argmax(predictor: Predictor, images: Sequence[Image | Path]) -> None:
    """Runs the graph's twin that answers with the scores besides; nothing where there is none, as with TensorRT, or no onnx package.

    Raises:
        ModelError: a score is NaN or infinite.
    """
    twin = predictor.twin(_with_scores) if predictor.twin is not None and installed("onnx") else None
    if twin is None:
        return
    with Predictor(predictor.task, twin) as other:
        for image in images:
            batch = other.task.preprocess([load_image(image) if isinstance(image, Path) else image])
            for name, array in other.infer(batch).items():
                # A graph may mask with minus infinity; plus infinity is an overflow, and as good as NaN to an ArgMax.
                wrong = int((np.isnan(array) | (array == np.inf)).sum()) if array.dtype.kind == "f" else 0
                if wrong:
                    raise ModelError(
                        f"{predictor.spec.name}: {wrong} of {array.size} scores {name[:60]!r} behind the graph's ArgMax are NaN or infinite, so its classes mean "
                        "nothing; check mean and std, the weights and the precision (fp16 overflows where fp32 does not)"
                    )


def _with_scores(content: bytes) -> bytes | None:
    """The model, answering besides with what its ArgMax nodes read; None where they read nothing that is hidden."""
    onnx = require("onnx", extra="export", why="the scores behind an ArgMax")
    model = onnx.load_model_from_string(content)
    made = {name for node in model.graph.node for name in node.output}
    read = {node.input[0] for node in model.graph.node if node.op_type == "ArgMax"}
    hidden = (read & made) - {row.name for row in model.graph.output}
    rows = [row for row in onnx.shape_inference.infer_shapes(model).graph.value_info if row.name in hidden]
    model.graph.output.extend(rows)
    changed: bytes = model.SerializeToString()
    return changed if rows else None
