"""An ONNX model opened to look inside: names for its layers, and values that are no outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.backends.choice import open_session
from jetlens.graph import read_graph
from jetlens.registry import require

__all__ = ["OnnxGraph", "run_operator"]

WHY = "looking into an ONNX model"
KINDS: Mapping[str, str] = {
    "Conv": "Conv2d",
    "ConvTranspose": "ConvTranspose2d",
    "Gemm": "Linear",
    "MatMul": "Linear",
    "Relu": "ReLU",
    "Clip": "ReLU6",
    "LeakyRelu": "LeakyReLU",
    "Elu": "ELU",
    "MaxPool": "MaxPool2d",
    "AveragePool": "AvgPool2d",
    "GlobalAveragePool": "AdaptiveAvgPool2d",
    "BatchNormalization": "BatchNorm2d",
    "LayerNormalization": "LayerNorm",
    "InstanceNormalization": "InstanceNorm2d",
}
"""Operators and what PyTorch calls their modules; the others keep their name."""


class OnnxGraph:
    """A model with its batch set to one picture and its shapes inferred.

    Args:
        size_hw: for the axes of the input that the file leaves open.

    Attributes:
        open_axes: how many axes besides the batch the file leaves open.

    Raises:
        ModelError: the bytes are no ONNX model, or keep values in other files.
        MissingDependencyError: onnx is not installed.
    """

    def __init__(self, content: bytes, name: str, size_hw: tuple[int, int] | None = None) -> None:
        facts = read_graph(content, name)
        facts.require_whole()
        self._onnx = require("onnx", extra="export", why=WHY)
        self.name = name
        self.input = facts.inputs[0]
        self.model = self._onnx.load_model_from_string(content)
        self.weights = {row.name: row for row in self.model.graph.initializer}
        self.nodes: list[Any] = [node for node in self.model.graph.node if node.op_type != "Constant"]
        self.names = _layer_names(self.nodes)
        self.open_axes = sum(isinstance(axis, str) for axis in self.input.shape[1:])
        self.shapes = self._shapes(size_hw)

    def _shapes(self, size_hw: tuple[int, int] | None) -> dict[str, tuple[int, ...]]:
        """Shapes of all values for a batch of one, where they can be told."""
        fixed = self._onnx.ModelProto()
        fixed.CopyFrom(self.model)
        for row in fixed.graph.input:
            free = [axis for axis in row.type.tensor_type.shape.dim[1:] if not axis.dim_value]
            for axis in row.type.tensor_type.shape.dim[:1]:
                axis.dim_value = axis.dim_value or 1
            for axis, side in zip(free, size_hw or (), strict=False):
                axis.dim_value = side
        # What a dynamic batch declared of the outputs would contradict the batch of one.
        for row in fixed.graph.output:
            row.type.tensor_type.ClearField("shape")
        del fixed.graph.value_info[:]
        inferred = self._onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
        shapes = {}
        for row in (*inferred.input, *inferred.value_info, *inferred.output):
            axes = row.type.tensor_type.shape.dim
            if axes and all(axis.dim_value for axis in axes):
                shapes[row.name] = tuple(axis.dim_value for axis in axes)
        return shapes

    def tapped(self, values: Sequence[str]) -> bytes:
        """The model with further values among its outputs."""
        copy = self._onnx.ModelProto()
        copy.CopyFrom(self.model)
        there = {row.name for row in copy.graph.output}
        copy.graph.output.extend(self._onnx.ValueInfoProto(name=value) for value in values if value not in there)
        content: bytes = copy.SerializeToString()
        return content

    def run(self, array: NDArray[Any], values: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Values of the graph for an input [N, ...]."""
        return _run(self.tapped(values), {self.input.name: array})

    def tail(self, start: str, end: str) -> bytes | None:
        """The part of the model that makes one value out of another; None where more than that value is needed."""
        wanted, kept = {end}, []
        for node in reversed(self.model.graph.node):
            if any(value in wanted for value in node.output) and start not in node.output:
                kept.append(node)
                wanted.update(name for name in node.input if name)
        made = {value for node in kept for value in node.output}
        missing = wanted - made - set(self.weights) - {start}
        if missing or start not in wanted:
            return None
        helper = self._onnx.helper
        rank = self.shapes[start]
        graph = helper.make_graph(
            kept[::-1],
            "tail",
            [helper.make_tensor_value_info(start, self._onnx.TensorProto.FLOAT, ["N", *rank[1:]])],
            [self._onnx.ValueInfoProto(name=end)],
            [row for name, row in self.weights.items() if name in wanted],
        )
        content: bytes = helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        ).SerializeToString()
        return content

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """An attribute of a node, or its default."""
        return next((self._onnx.helper.get_attribute_value(row) for row in node.attribute if row.name == name), default)


def run_operator(operator: str, inputs: Sequence[NDArray[Any]], **attributes: Any) -> NDArray[Any]:
    """One ONNX operator by itself in ONNX Runtime: arrays of one type (float32 or float64) in, its first output back.

    Raises:
        MissingDependencyError: onnx is not installed.
        BackendError: ONNX Runtime is not.
    """
    onnx = require("onnx", extra="export", why="the comparison with ONNX Runtime")
    names = [f"x{index}" for index in range(len(inputs))]
    arrays = [np.ascontiguousarray(array) for array in inputs]
    kind = onnx.helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, names, ["y"], **attributes)],
        operator,
        [onnx.helper.make_tensor_value_info(name, kind, array.shape) for name, array in zip(names, arrays, strict=True)],
        [onnx.ValueInfoProto(name="y")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return _run(model.SerializeToString(), dict(zip(names, arrays, strict=True)))["y"]


def _run(content: bytes, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    # ONNX Runtime alone finds out the types of outputs that the file does not declare.
    session, _ = open_session(content, "onnxruntime", SessionOptions(device="cpu"))
    with session:
        return session.run(inputs)


def _layer_names(nodes: Sequence[Any]) -> list[str]:
    """A short name for each node, as PyTorch names modules where the exporter kept that; each once."""
    plain = [_module_path(node) for node in nodes]
    shared = _common_head([name for name in plain if name.count(".")])
    found: dict[str, int] = {}
    names = []
    for name in plain:
        short = name.removeprefix(f"{shared}.") if shared else name
        found[short] = found.get(short, 0) + 1
        names.append(short if found[short] == 1 else f"{short}_{found[short]}")
    return names


def _module_path(node: Any) -> str:
    """``/network/features/features.0/Conv`` is network.features.0; the operator stays where no module is left."""
    parts = [part for part in (node.name or node.output[0]).split("/") if part]
    if len(parts) < 2:
        return parts[0] if parts else str(node.op_type)
    path: list[str] = []
    for part in parts[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    # A node of a module of its own carries the module's name; others of the same module are told apart by their operator.
    own = node.op_type in ("Conv", "ConvTranspose", "Gemm", "Relu", "Clip", "MaxPool", "BatchNormalization") and len(path) > 1
    return ".".join(path if own else [*path, parts[-1]])


def _common_head(names: Sequence[str]) -> str:
    """The first part of all names, if it is the same."""
    heads = {name.partition(".")[0] for name in names} - {"jetlens"}  # our own preprocessing in the graph
    return heads.pop() if len(heads) == 1 else ""
