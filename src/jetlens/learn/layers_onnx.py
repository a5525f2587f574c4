"""The layers of an ONNX graph as rows: output shape, parameters and multiplications of each node."""

from __future__ import annotations

from math import prod
from typing import Any

from jetlens.learn.onnx_graph import KINDS, OnnxGraph
from jetlens.models.summary import LayerRow

__all__ = ["onnx_rows"]

_PLUMBING = frozenset(("Shape", "Gather", "Cast", "Identity", "Unsqueeze", "Squeeze", "Slice", "Reshape", "Transpose", "Flatten"))
"""Nodes that move values and compute nothing; they are left out of the rows."""


def onnx_rows(graph: OnnxGraph) -> list[LayerRow]:
    """A row a node in the order of the graph, for one picture; a weight that several nodes read counts once, at the first."""
    counted: set[str] = set()
    rows = []
    for node, name in zip(graph.nodes, graph.names, strict=True):
        own = [value for value in node.input if value in graph.weights and value not in counted]
        counted.update(own)
        if node.op_type in _PLUMBING:
            continue
        weight = next((graph.weights[value] for value in node.input[1:2] if value in graph.weights), None)
        shape = graph.shapes.get(node.output[0], ())
        learnt = node.op_type in KINDS or node.op_type == "PRelu"
        rows.append(
            LayerRow(
                name=name,
                kind=_kind(node, weight),
                output_shape=shape,
                parameters=sum(prod(graph.weights[value].dims) for value in own) if learnt and node.op_type != "Clip" else 0,
                macs=_macs(graph, node, weight, shape),
                detail=_detail(graph, node),
            )
        )
    return rows


def _kind(node: Any, weight: Any) -> str:
    if node.op_type == "MatMul" and weight is None:
        return "MatMul"  # of two activations, as in attention
    return KINDS.get(node.op_type, str(node.op_type))


def _macs(graph: OnnxGraph, node: Any, weight: Any, shape: tuple[int, ...]) -> int:
    """As ``models.summary`` counts: convolutions and linear layers, the rest as 0."""
    if weight is None or not shape:
        return 0
    if node.op_type == "Conv":
        return prod(shape) * int(prod(weight.dims[1:]))
    if node.op_type == "ConvTranspose":
        return prod(graph.shapes.get(node.input[0], ())) * int(prod(weight.dims[1:]))
    if node.op_type in ("Gemm", "MatMul"):
        inner = weight.dims[1] if node.op_type == "Gemm" and graph.attribute(node, "transB", 0) else weight.dims[-2]
        return prod(shape) * int(inner)
    return 0


def _detail(graph: OnnxGraph, node: Any) -> str:
    """Kernel, stride, dilation and groups, where they say something."""
    kernel = graph.attribute(node, "kernel_shape")
    if node.op_type in ("Conv", "ConvTranspose") and kernel is None:
        kernel = list(graph.weights[node.input[1]].dims[2:]) if node.input[1] in graph.weights else None
    if not kernel:
        return ""
    words = ["x".join(map(str, kernel))]
    for name, key in (("stride", "strides"), ("dilation", "dilations")):
        values = graph.attribute(node, key, [1])
        if values[0] != 1:
            words.append(f"{name} {values[0]}")
    groups = graph.attribute(node, "group", 1)
    return ", ".join([*words, f"groups {groups}"] if groups != 1 else words)
