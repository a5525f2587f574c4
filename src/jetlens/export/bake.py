"""Baking: the steps between uint8 pixels and a graph's float input become part of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from jetlens.errors import ModelError
from jetlens.registry import require
from jetlens.spec import PreprocessSpec

__all__ = ["INPUT_NAME", "bake_preprocessing", "graph_input", "opset_of"]

INPUT_NAME = "images"
"""The input of every deployable graph: uint8 RGB [N, H, W, 3]."""

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Weights of red, green and blue in a grey level: Pillow's fractions of BT.601, exact in float32, so that its rounding is met to the bit."""


def bake_preprocessing(model: Any, spec: PreprocessSpec) -> Any:
    """A copy of an ONNX model that takes uint8 RGB ``images`` [N, H, W, 3] of ``spec.size_hw``.

    Cast comes first, then channel order and ``(x - mean) / std`` in NHWC with constants of shape [3], and Transpose last: the one order
    that TensorRT 8.6 accepts with uint8 input and with int8 layers behind it. The batch axis stays as the graph has it, static or dynamic.

    Args:
        model: an ``onnx.ModelProto``; it is left as it was.
        spec: what the graph expects; its ``baked`` is not looked at.

    Raises:
        ModelError: the graph has not exactly one image input, or one that contradicts the spec.
    """
    onnx = require("onnx", extra="export", why="baking")
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    graph = baked.graph
    if opset_of(baked) < 7:
        raise ModelError("the graph's opset is below 7, whose broadcasting differs; convert it with onnx.version_converter first")
    source = graph_input(graph)
    batch = _checked_batch(source, spec)
    final_type = source.type.tensor_type.elem_type
    if final_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8):
        raise ModelError(
            f"input {source.name!r} is neither float32, float16 nor uint8, so no pixels can be baked into it; feed it yourself"
        )
    target = _free_input_name(graph, source.name)
    nodes = _steps(onnx, graph, spec, final_type, target)
    images = onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, [batch, *spec.size_hw, 3])
    kept = [row for row in graph.input if row.name != source.name]
    del graph.input[:]
    graph.input.extend([images, *kept])
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    return baked


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a model uses; 0 where it names none."""
    return max((int(row.version) for row in model.opset_import if row.domain in ("", "ai.onnx")), default=0)


def graph_input(graph: Any) -> Any:
    """The one input of a graph that is no initializer (files of IR 3 list both).

    Raises:
        ModelError: there is none, or more than one.
    """
    constants = {row.name for row in graph.initializer}
    inputs = [row for row in graph.input if row.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(row.name for row in inputs) or "none"
        raise ModelError(f"the graph has {len(inputs)} inputs ({names}); one image input is needed")
    return inputs[0]


def _checked_batch(source: Any, spec: PreprocessSpec) -> int | str:
    """The batch axis of the graph's input, after its other axes were found to fit the spec."""
    dims = [row.dim_value if row.HasField("dim_value") else row.dim_param or "?" for row in source.type.tensor_type.shape.dim]
    channels = 1 if spec.channel_order == "gray" else 3
    expected = [channels, *spec.size_hw] if spec.layout == "nchw" else [*spec.size_hw, channels]
    fits = len(dims) == 4 and all(isinstance(have, str) or have == want for have, want in zip(dims[1:], expected, strict=True))
    if not fits:
        raise ModelError(
            f"input {source.name!r} has shape {dims}; {spec.layout} of {spec.size_hw[0]}x{spec.size_hw[1]} with {channels} channels "
            f"is {['N', *expected]}: mend size, layout or channel order"
        )
    return "N" if dims[0] == "?" else dims[0]


def _free_input_name(graph: Any, name: str) -> str:
    """The tensor that the graph's own nodes read: its old input, renamed where that is called as the new one."""
    taken = {text for node in graph.node for text in (*node.input, *node.output)} | {row.name for row in graph.initializer}
    if name != INPUT_NAME:
        if INPUT_NAME in taken:
            raise ModelError(f"the graph has an inner tensor named {INPUT_NAME!r}, the name of the deployable input; rename it")
        return name
    renamed = f"{INPUT_NAME}.normalized"
    while renamed in taken:
        renamed += "_"
    for node in graph.node:
        for index, text in enumerate(node.input):
            if text == INPUT_NAME:
                node.input[index] = renamed
    for row in graph.output:
        if row.name == INPUT_NAME:
            raise ModelError(f"the graph answers with its own input {INPUT_NAME!r}; remove that output first")
    return renamed


def _steps(onnx: Any, graph: Any, spec: PreprocessSpec, final_type: int, target: str) -> list[Any]:
    """The nodes from ``images`` to ``target``; their constants are added to the graph."""
    nodes: list[Any] = []

    def constant(name: str, values: Any) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), f"jetlens.{name}"))
        return f"jetlens.{name}"

    def add(op: str, *extra: str, **attributes: Any) -> None:
        before = nodes[-1].output[0] if nodes else INPUT_NAME
        step = f"jetlens.{len(nodes)}.{op.lower()}"
        nodes.append(onnx.helper.make_node(op, [before, *extra], [step], name=step, **attributes))

    add("Cast", to=onnx.TensorProto.FLOAT)
    if spec.channel_order == "bgr":
        add("Gather", constant("bgr", np.array([2, 1, 0], np.int64)), axis=3)
    if spec.channel_order == "gray":
        add("MatMul", constant("luma", np.array(LUMA, np.float32)[:, None]))
        add("Add", constant("half", np.array(0.5, np.float32)))
        add("Floor")
    if any(spec.mean):
        add("Sub", constant("mean", np.array(spec.mean, np.float32)))
    if any(value != 1 for value in spec.std):
        add("Mul", constant("inverse_std", (1 / np.array(spec.std, np.float64)).astype(np.float32)))
    if final_type != onnx.TensorProto.FLOAT:
        add("Cast", to=final_type)
    if spec.layout == "nchw":
        add("Transpose", perm=[0, 3, 1, 2])
    nodes[-1].output[0] = target
    return nodes
