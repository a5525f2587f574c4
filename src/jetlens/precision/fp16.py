"""fp16: the body of a network in half precision by casts; its inputs, outputs, normalisation and decoding stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.export.bake import opset_of
from jetlens.precision.activations import largest_values
from jetlens.precision.graph import HEAVY, Graph

__all__ = ["halvable", "overflowing", "rounded", "to_half"]

LARGEST_HALF = 65504.0
HEADROOM = 2.0
"""A picture that was not seen may be so much brighter: what exceeds the largest half over this stays fp32."""

MOVING = ("Concat", "Expand", "Flatten", "Identity", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample")
POOLING = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
ARITHMETIC = """
Abs Add BatchNormalization Ceil Clip DepthToSpace Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish InstanceNormalization
LayerNormalization LeakyRelu Log Max Min Mish Mul Neg PRelu Pad Pow Reciprocal ReduceMax ReduceMean ReduceSum Relu
Sigmoid Softmax Softplus SpaceToDepth Sqrt Sub Sum Tanh Where
"""
QUANTIZING = ("DequantizeLinear", "QuantizeLinear")
HALF = frozenset((*HEAVY, *MOVING, *POOLING, *ARITHMETIC.split()))
TRAILING = frozenset((*MOVING, *POOLING, "Relu"))
"""What may follow the last heavy node in half precision: it moves numbers and makes none that half cannot hold."""

SPARED: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2), "Upsample": (1,)}
"""Float inputs that ONNX fixes at fp32: the region and scales of a resize."""


def to_half(content: bytes, keep: Collection[str] = ()) -> bytes:
    """The model with its body in fp16; every input and output keeps its name and type.

    Args:
        keep: names of nodes that stay fp32, such as those that ``overflowing`` found.

    Raises:
        ModelError: nothing of the graph can be halved.
    """
    graph = Graph(content)
    _Casts(graph, _chosen(graph, keep)).apply()
    return graph.to_bytes()


def rounded(content: bytes, keep: Collection[str] = ()) -> bytes:
    """The model in fp32 with every number rounded to fp16 where ``to_half`` would keep it in fp16.

    On x86 ONNX Runtime leaves out the casts between halves and never rounds: its answers would hide what a GPU does.
    """
    graph = Graph(content)
    chosen = _chosen(graph, keep)
    types, onnx = graph.types(), graph.onnx
    real = onnx.TensorProto.FLOAT
    halved = {name for node in chosen for name in node.output if types.get(name) == real}
    twins: dict[str, str] = {}
    after: dict[str, list[Any]] = {}
    for node in chosen:
        for index, name in enumerate(node.input):
            if types.get(name) != real or index in SPARED.get(node.op_type, ()):
                continue
            values = graph.value(name)
            if values is not None:
                node.input[index] = graph.add_value(f"{name}.rounded", values.astype(np.float16).astype(np.float32))
            elif name not in halved:
                twins[name] = node.input[index] = f"{name}.rounded"
                after.setdefault(name, _rounding(onnx, name, twins[name]))
        for index, name in enumerate(node.output):
            if name in halved:
                node.output[index] = f"{name}.exact"
                after[f"{name}.exact"] = _rounding(onnx, f"{name}.exact", name)
    graph.insert(after)
    return graph.to_bytes()


def _rounding(onnx: Any, source: str, target: str) -> list[Any]:
    make, types, half = onnx.helper.make_node, onnx.TensorProto, f"{target}.half"
    return [make("Cast", [source], [half], half, to=types.FLOAT16), make("Cast", [half], [target], f"{target}.cast", to=types.FLOAT)]


def _chosen(graph: Graph, keep: Collection[str]) -> list[Any]:
    chosen = [node for node in _body(graph) if node.name not in keep and _weights_fit(graph, node)]
    if not any(node.op_type in HEAVY for node in chosen):
        raise ModelError("the graph has no convolution or matrix product that can run in fp16")
    return chosen


def halvable(graph: Graph) -> list[str]:
    """The names of the nodes that ``to_half`` would make fp16."""
    return [node.name for node in _body(graph)]


def overflowing(graph: Graph, batches: Sequence[NDArray[Any]]) -> dict[str, float]:
    """The nodes of an fp32 graph that would leave fp16 on these batches of its input, with the largest magnitude that they touch."""
    types = graph.types()
    body = _body(graph)
    touched = {name for node in body for name in (*node.input, *node.output) if types.get(name) == graph.onnx.TensorProto.FLOAT}
    tensors = [name for name in graph.real_activations() if name in touched]
    largest = largest_values(graph, batches, tensors)
    limit = LARGEST_HALF / HEADROOM
    found = {}
    for node in body:
        values = [largest[name] for name in (*node.input, *node.output) if name in largest]
        # Written so that NaN counts as too large.
        if not all(value <= limit for value in values):
            found[node.name] = max(values)
    return found


def _body(graph: Graph) -> list[Any]:
    """The nodes that may be halved: from the first to the last heavy one, and what only moves numbers behind that."""
    types = graph.types()
    before, after = _reached(graph)
    quantized = any(row.op_type in QUANTIZING for row in graph.proto.node) and opset_of(graph.model) >= 19
    allowed = HALF | set(QUANTIZING) if quantized else HALF
    body: list[Any] = []
    made: set[str] = set()
    for node in graph.proto.node:
        if node.op_type not in allowed or not _has_float(graph, node, types):
            continue
        inside = (node.name in before or node.op_type in QUANTIZING) and node.name in after
        computed = [name for name in node.input if name in graph.producers and types.get(name) == graph.onnx.TensorProto.FLOAT]
        trailing = node.op_type in TRAILING and bool(computed) and all(name in made for name in computed)
        if inside or trailing:
            body.append(node)
            made.update(node.output)
    return body


def _has_float(graph: Graph, node: Any, types: Mapping[str, int]) -> bool:
    return any(types.get(name) == graph.onnx.TensorProto.FLOAT for name in (*node.input, *node.output))


def _reached(graph: Graph) -> tuple[set[str], set[str]]:
    """Names of the nodes that a heavy node comes before, and of those that one comes after; heavy nodes are in both."""
    before: set[str] = set()
    after: set[str] = set()
    tensors: set[str] = set()
    for node in graph.proto.node:
        if node.op_type in HEAVY or tensors.intersection(node.input):
            before.add(node.name)
            tensors.update(node.output)
    tensors = set()
    for node in reversed(graph.proto.node):
        if node.op_type in HEAVY or tensors.intersection(node.output):
            after.add(node.name)
            tensors.update(node.input)
    return before, after


def _weights_fit(graph: Graph, node: Any) -> bool:
    values = [graph.value(name) for name in node.input]
    return all(value is None or value.dtype != np.float32 or not value.size or np.abs(value).max() <= LARGEST_HALF for value in values)


class _Casts:
    """Makes the chosen nodes read and write halves, with casts wherever they meet the others."""

    def __init__(self, graph: Graph, chosen: Sequence[Any]) -> None:
        self._graph = graph
        self._types = graph.types()
        self._float = graph.onnx.TensorProto.FLOAT
        self._names = {node.name for node in chosen}
        self._halved = {name for node in chosen for name in node.output if self._types.get(name) == self._float}
        self._after: dict[str, list[Any]] = {}
        self._cast: dict[tuple[str, str], str] = {}

    def apply(self) -> None:
        """Changes the graph."""
        graph = self._graph
        outputs = {row.name for row in graph.proto.output}
        for node in graph.proto.node:
            half = node.name in self._names
            for index, name in enumerate(node.input):
                if self._types.get(name) != self._float or (half and index in SPARED.get(node.op_type, ())):
                    if name in self._halved:
                        node.input[index] = self._converted(name, "float")
                elif half and name not in self._halved:
                    node.input[index] = self._half_value(node, name)
                elif not half and name in self._halved:
                    node.input[index] = self._converted(name, "float")
        for name in sorted(self._halved & outputs):
            self._keep_output(name)
        graph.insert(self._after)

    def _half_value(self, node: Any, name: str) -> str:
        """The half of what the node reads: of a constant a copy, of a tensor a cast."""
        values = self._graph.value(name)
        if values is None:
            return self._converted(name, "half")
        halves = _rounded_up(values) if node.op_type in QUANTIZING and name != node.input[0] else values.astype(np.float16)
        return self._graph.add_value(f"{name}.half", halves)

    def _converted(self, name: str, kind: str) -> str:
        if (name, kind) not in self._cast:
            types = self._graph.onnx.TensorProto
            target = f"{name}.{kind}"
            to = types.FLOAT16 if kind == "half" else types.FLOAT
            self._after.setdefault(name, []).append(self._graph.onnx.helper.make_node("Cast", [name], [target], f"{target}.cast", to=to))
            self._cast[name, kind] = target
        return self._cast[name, kind]

    def _keep_output(self, name: str) -> None:
        """Gives an output of the graph that became half its type back, under its own name."""
        graph, inner = self._graph, f"{name}.inner"
        for node in graph.proto.node:
            for names in (node.input, node.output):
                for index, text in enumerate(names):
                    if text == name:
                        names[index] = inner
        casts = self._after.pop(name, [])
        for row in casts:
            row.input[0] = inner
        last = graph.onnx.helper.make_node("Cast", [inner], [name], f"{name}.cast", to=self._float)
        self._after[inner] = [*casts, last]


def _rounded_up(scale: NDArray[Any]) -> NDArray[np.float16]:
    """A step as half, never smaller, so that the largest value still fits in 127 of them."""
    half = scale.astype(np.float16)
    low = half.astype(np.float32) < scale
    return np.where(low, np.nextafter(half, np.float16(np.inf)), half).astype(np.float16)
