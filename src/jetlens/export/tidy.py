"""Tidying: what the exporter leaves behind is taken out of a graph, without changing what it computes."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import numpy as np

from jetlens.export.bake import opset_of
from jetlens.registry import resolve

__all__ = ["infer_outputs", "keep_outputs", "tidy"]

Shape = tuple[int, ...]
_SMALL = 4096
_SYMBOLIC_RESHAPE = 14
"""Before this opset inference follows Reshape and Resize only where their target is a constant."""
_STRETCHING = ("Add", "Sub", "Mul", "Div")
_ARITHMETIC = ("Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Constant")


def tidy(onnx: Any, model: Any) -> Any:
    """A copy without Identity nodes and without shape arithmetic whose outcome is known but for the batch axis."""
    tidied = onnx.ModelProto()
    tidied.CopyFrom(model)
    _fix_shapes(onnx, tidied)
    _drop_identities(tidied.graph)
    _drop_expansions(tidied.graph)
    _drop_unread(tidied.graph)
    del tidied.graph.value_info[:]
    return tidied


def keep_outputs(onnx: Any, model: Any, names: tuple[str, ...]) -> Any:
    """A copy that answers with some of its outputs only."""
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    kept = [row for row in smaller.graph.output if row.name in names]
    del smaller.graph.output[:]
    smaller.graph.output.extend(kept)
    _drop_unread(smaller.graph)
    return smaller


def infer_outputs(onnx: Any, model: Any) -> None:
    """Writes what can be inferred of the outputs' shapes into the model."""
    inferred = onnx.shape_inference.infer_shapes(_light(onnx, model), data_prop=True)
    shapes = {row.name: row for row in inferred.graph.output}
    for row in model.graph.output:
        row.CopyFrom(shapes[row.name])


def _light(onnx: Any, model: Any) -> Any:
    """A copy without the weights' values, which inference copies several times and never reads."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for row in light.graph.initializer:
        if len(row.raw_data) > _SMALL:
            row.raw_data = b""
    return light


def _shapes(onnx: Any, model: Any, batch: int) -> dict[str, Shape]:
    """Every tensor's shape for a batch of a given size, where it can be found."""
    light = _light(onnx, model)
    for row in light.graph.input:
        row.type.tensor_type.shape.dim[0].dim_value = batch
    for row in light.graph.output:
        row.type.tensor_type.ClearField("shape")
    known = _known(onnx, light)
    if opset_of(model) < _SYMBOLIC_RESHAPE:
        while _work_out(onnx, light, known):
            known = _known(onnx, light)
    return known


def _known(onnx: Any, light: Any) -> dict[str, Shape]:
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    known = {}
    for row in (*graph.input, *graph.value_info, *graph.output):
        dims = row.type.tensor_type.shape.dim
        if row.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[row.name] = tuple(dim.dim_value for dim in dims)
    return known


def _work_out(onnx: Any, light: Any, known: dict[str, Shape]) -> bool:
    """Puts constants where the targets of Reshape and Resize follow from known shapes; whether there was one."""
    graph = light.graph
    values = {row.name: onnx.numpy_helper.to_array(row) for row in graph.initializer if row.raw_data and len(row.raw_data) <= _SMALL}
    constants, found = set(values), False
    for node in graph.node:
        if node.op_type in _ARITHMETIC and all(name in values for name in node.input if name) and node.op_type != "Shape":
            values[node.output[0]] = _computed(onnx, light, node, [values[name] for name in node.input])
        elif node.op_type == "Shape" and node.input[0] in known and not node.attribute:
            values[node.output[0]] = np.array(known[node.input[0]], np.int64)
        elif node.op_type in _FIXES and node.input[-1] in values and node.input[-1] not in constants:
            name = f"{node.output[0]}.target"
            graph.initializer.append(onnx.numpy_helper.from_array(values[node.input[-1]], name))
            node.input[len(node.input) - 1] = name
            found = True
    return found


def _computed(onnx: Any, light: Any, node: Any, inputs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What a node of shape arithmetic answers."""
    graph = onnx.helper.make_graph(
        [node],
        "shapes",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.input],
        [onnx.helper.make_value_info(node.output[0], onnx.TypeProto())],
    )
    run = resolve("onnx.reference:ReferenceEvaluator")(onnx.helper.make_model(graph, opset_imports=light.opset_import))
    answer: np.ndarray[Any, Any] = run.run(None, dict(zip(node.input, inputs, strict=True)))[0]
    return answer


def _fix_shapes(onnx: Any, model: Any) -> None:
    """Gives Reshape and Resize nodes that keep the batch axis constants in place of computed shapes."""
    graph = model.graph
    inputs = [row for row in graph.input if row.type.tensor_type.shape.dim]
    if len(inputs) != 1:
        return
    batch = inputs[0].type.tensor_type.shape.dim[0]
    # What differs between a batch of two and one of three depends on the batch, all else is constant.
    some, more = (batch.dim_value, batch.dim_value) if batch.HasField("dim_value") else (2, 3)
    shapes, others = _shapes(onnx, model, some), _shapes(onnx, model, more)

    def free_of_batch(name: str) -> Shape | None:
        """The shape behind the batch axis."""
        first, second = shapes.get(name, ()), others.get(name, ())
        return first[1:] if first[:1] == (some,) and second[:1] == (more,) and first[1:] == second[1:] else None

    constants = {row.name for row in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for index, node in enumerate(graph.node):
        fix = _FIXES.get(node.op_type)
        before, after = free_of_batch(node.input[0]) if node.input else None, free_of_batch(node.output[0])
        if fix is None or before is None or after is None or node.input[-1] in constants:
            continue
        inputs_after = fix(node, before, after)
        if inputs_after is None:
            continue
        name = f"jetlens.shape.{index}"
        values, position = inputs_after
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        kept = list(node.input)[:position]
        del node.input[:]
        node.input.extend([*kept, name])


Fix = Callable[[Any, Shape, Shape], "tuple[np.ndarray[Any, Any], int] | None"]


def _reshape(node: Any, before: Shape, after: Shape) -> tuple[np.ndarray[Any, Any], int] | None:
    """0 copies the batch."""
    return (np.array([0, *after], np.int64), 1) if 0 not in after else None


def _resize(node: Any, before: Shape, after: Shape) -> tuple[np.ndarray[Any, Any], int] | None:
    """Scales in place of sizes, where they say exactly the same."""
    if len(node.input) != 4 or len(before) != len(after):
        return None
    scales = np.array([1, *(new / old for old, new in zip(before, after, strict=True))], np.float32)
    exact = all(float(scale) * old == new == floor(float(scale) * old) for scale, old, new in zip(scales[1:], before, after, strict=True))
    return (scales, 2) if exact else None


_FIXES: dict[str, Fix] = {"Reshape": _reshape, "Resize": _resize}


def _drop_identities(graph: Any) -> None:
    outputs = {row.name for row in graph.output}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_expansions(graph: Any) -> None:
    """Passes by what stretches a tensor to the shape of the other one that it meets: these operators stretch it themselves."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in _STRETCHING:
            continue
        for index, other in enumerate(reversed(node.input)):
            expand = makers.get(node.input[index])
            if expand is None or expand.op_type != "Expand":
                continue
            shape = makers.get(expand.input[1])
            if shape is not None and shape.op_type == "Shape" and shape.input[0] == other and not shape.attribute:
                node.input[index] = expand.input[0]


def _drop_unread(graph: Any) -> None:
    """Takes out nodes and constants that no output depends on."""
    needed = {row.name for row in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [row for row in graph.initializer if row.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
