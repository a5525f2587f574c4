"""Taps: a graph that answers with its logits besides, so that raw numbers can be compared where the outputs are decoded ones."""

from __future__ import annotations

from pathlib import Path

from jetlens.registry import installed, require

__all__ = ["LOGITS", "read_taps", "with_logits"]

LOGITS = "logits"
"""What exported graphs call the raw scores."""


def with_logits(content: bytes) -> bytes | None:
    """The model with its logits as one more output; None where it has none that are not outputs already."""
    onnx = require("onnx", extra="export", why="the comparison of raw outputs")
    model = onnx.load_model_from_string(content)
    if any(row.name == LOGITS for row in model.graph.output):
        return None
    if not any(LOGITS in node.output for node in model.graph.node):
        return None
    inferred = onnx.shape_inference.infer_shapes(model).graph
    typed = [row for row in inferred.value_info if row.name == LOGITS]
    if not typed:
        return None
    model.graph.output.append(typed[0])
    tapped: bytes = model.SerializeToString()
    return tapped


def read_taps(path: Path, *, may_derive: bool) -> bytes | None:
    """The verification twin beside a model's file, else one made from the file where that is possible; None where there is neither."""
    twin = path.with_name(f"{path.stem}.taps{path.suffix}")
    if twin.is_file():
        return twin.read_bytes()
    if not may_derive or not installed("onnx"):
        return None
    return with_logits(path.read_bytes())
