"""int8: quantize and dequantize nodes around convolutions and fully connected layers, one file for every runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError, UnknownNameError
from jetlens.export.bake import opset_of
from jetlens.precision.activations import LEVELS
from jetlens.precision.fp16 import to_half
from jetlens.precision.graph import Graph

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Recipe", "quantizable", "quantize", "recipe_name", "watched", "with_half_rest"]

QUANTIZED = ("Conv", "Gemm")
HALF_OPSET = 19
"""The first whose Q/DQ take scales of float16."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where Q/DQ pairs stand besides the inputs and weights of Conv and Gemm.

    Attributes:
        adds: of an addition of a convolution and a shortcut: ``float`` leaves both inputs; ``identity`` gives it the shortcut that is already
            quantized for the next convolution; ``shortcut`` also quantizes a shortcut that no convolution reads, such as a downsampling one;
            ``both`` quantizes both inputs.
        first: whether the first convolution is quantized too.
        pools: quantize what a global average pooling reads.
        rest: the type of all that is not quantized; fp16 needs opset 19, TensorRT 10 or later.
    """

    adds: Literal["float", "identity", "shortcut", "both"] = "shortcut"
    first: bool = True
    pools: bool = False
    rest: Literal["fp32", "fp16"] = "fp32"


RECIPES: Mapping[str, Recipe] = {
    "plain": Recipe("float"),
    "identity": Recipe("identity"),
    "shortcut": Recipe("shortcut"),
    "pooled": Recipe("shortcut", pools=True),
    "both": Recipe("both", first=False),
    "shortcut-fp16": Recipe("shortcut", rest="fp16"),
}
DEFAULT_RECIPE = "shortcut"


def recipe_name(name: str) -> str:
    """The name itself; for ``default`` that of the one that was fastest where it was measured.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if name not in (*RECIPES, "default"):
        raise UnknownNameError("int8 recipe", name, ("default", *RECIPES))
    return DEFAULT_RECIPE if name == "default" else name


def quantizable(graph: Graph) -> list[Any]:
    """The nodes that can be quantized, in the order of the graph: Conv and Gemm whose weights are constants."""
    nodes = [node for node in graph.proto.node if node.op_type in QUANTIZED and graph.is_constant(node.input[1])]
    return [node for node in nodes if not _reads_rescaled(graph, node)]


def _reads_rescaled(graph: Graph, node: Any) -> bool:
    """Whether a constant for each channel stands straight before a node, as in SSD: TensorRT 8.6 cannot merge that with a quantization."""
    producer = graph.producers.get(node.input[0])
    if producer is None or producer.op_type not in ("Add", "Div", "Mul", "Sub"):
        return False
    constants = [values for name in producer.input if (values := graph.value(name)) is not None]
    return any(values.ndim == 4 and values.shape[1] == values.size > 1 for values in constants)


def watched(graph: Graph) -> list[str]:
    """The tensors that any recipe may need a scale of."""
    names = [node.input[0] for node in quantizable(graph)]
    names += [name for node in graph.proto.node if _is_residual(graph, node) for name in node.input]
    names += [node.input[0] for node in graph.proto.node if node.op_type == "GlobalAveragePool"]
    return list(dict.fromkeys(names))


def quantize(content: bytes, scales: Mapping[str, float], rule: Recipe, keep: Collection[str] = ()) -> bytes:
    """The model with Q/DQ pairs: symmetric int8, one scale a tensor and one a channel of weights, biases as they are.

    Args:
        scales: of each tensor of ``watched``.
        keep: names of nodes that stay as they are.

    Raises:
        ModelError: there is nothing to quantize, or the graph is below opset 13.
    """
    graph = Graph(content)
    if opset_of(graph.model) < 13:
        raise ModelError("int8 weights with a scale a channel need opset 13 or later; export the model again with --opset 17")
    nodes = quantizable(graph)
    nodes = [node for node in nodes if node.name not in keep and (rule.first or node is not nodes[0])]
    if not nodes:
        raise ModelError("the graph has no Conv or Gemm with constant weights that could be quantized")
    pairs = _Pairs(graph, scales)
    for node in nodes:
        node.input[0] = pairs.activation(node.input[0])
        node.input[1] = pairs.weight(node.input[1], axis=_channel_axis(node))
    _ADDS[rule.adds](graph, pairs, {node.output[0] for node in nodes}, keep)
    if rule.pools:
        for node in graph.proto.node:
            if node.op_type == "GlobalAveragePool" and node.name not in keep:
                node.input[0] = pairs.activation(node.input[0])
    pairs.place()
    return graph.to_bytes()


def with_half_rest(content: bytes, keep: Collection[str] = ()) -> bytes:
    """A quantized model whose other layers are fp16, and its scales too: opset 19, TensorRT 10 or later.

    Args:
        keep: names of nodes that fp16 cannot hold.
    """
    graph = Graph(content)
    if opset_of(graph.model) < HALF_OPSET:
        graph.model = graph.onnx.version_converter.convert_version(graph.model, HALF_OPSET)
    return to_half(graph.to_bytes(), keep)


def _channel_axis(node: Any) -> int:
    """The axis of the weights that holds the output channels."""
    transposed = any(row.name == "transB" and row.i for row in node.attribute)
    return 1 if node.op_type == "Gemm" and not transposed else 0


def _is_residual(graph: Graph, node: Any) -> bool:
    """Whether a node adds two computed tensors."""
    return node.op_type == "Add" and all(name in graph.producers for name in node.input)


class _Pairs:
    """Makes Q/DQ pairs, each once, and says where they go."""

    def __init__(self, graph: Graph, scales: Mapping[str, float]) -> None:
        self._graph = graph
        self._scales = scales
        self._after: dict[str, list[Any]] = {}
        self.made: dict[str, str] = {}

    def activation(self, name: str) -> str:
        """The dequantized twin of a tensor."""
        return self._pair(name, np.array(self._scales[name], np.float32), None)

    def weight(self, name: str, axis: int) -> str:
        """The dequantized twin of weights."""
        values = self._graph.value(name)
        assert values is not None
        return self._pair(name, channel_scales(values, axis), axis)

    def place(self) -> None:
        """Puts the pairs into the graph."""
        self._graph.insert(self._after)

    def _pair(self, name: str, scale: NDArray[np.float32], axis: int | None) -> str:
        if name in self.made:
            return self.made[name]
        graph, make = self._graph, self._graph.onnx.helper.make_node
        step = graph.add_value(f"{name}.scale", scale)
        zero = graph.add_value(f"{name}.zero", np.zeros(scale.shape, np.int8))
        attributes = {} if axis is None else {"axis": axis}
        self._after[name] = [
            make("QuantizeLinear", [name, step, zero], [f"{name}.q"], f"{name}.quantize", **attributes),
            make("DequantizeLinear", [f"{name}.q", step, zero], [f"{name}.dq"], f"{name}.dequantize", **attributes),
        ]
        self.made[name] = f"{name}.dq"
        return self.made[name]


def channel_scales(weights: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """The step of each output channel, float32 [channels]; that of a channel of zeros is the largest one's."""
    largest = np.abs(weights).max(axis=tuple(k for k in range(weights.ndim) if k != axis)).astype(np.float64)
    largest[largest < np.finfo(np.float32).tiny * 1e6] = largest.max() or 1.0
    steps: NDArray[np.float32] = (largest / LEVELS).astype(np.float32)
    return steps


def _float(graph: Graph, pairs: _Pairs, quantized: set[str], keep: Collection[str]) -> None:
    """Additions stay as they are."""


def _identity(graph: Graph, pairs: _Pairs, quantized: set[str], keep: Collection[str]) -> None:
    for node, shortcut in _shortcuts(graph, quantized, keep):
        if node.input[shortcut] in pairs.made:
            node.input[shortcut] = pairs.activation(node.input[shortcut])


def _shortcut(graph: Graph, pairs: _Pairs, quantized: set[str], keep: Collection[str]) -> None:
    for node, shortcut in _shortcuts(graph, quantized, keep):
        node.input[shortcut] = pairs.activation(node.input[shortcut])


def _both(graph: Graph, pairs: _Pairs, quantized: set[str], keep: Collection[str]) -> None:
    for node, _ in _shortcuts(graph, quantized, keep):
        for index in (0, 1):
            node.input[index] = pairs.activation(node.input[index])


_ADDS = {"float": _float, "identity": _identity, "shortcut": _shortcut, "both": _both}


def _shortcuts(graph: Graph, quantized: set[str], keep: Collection[str]) -> list[tuple[Any, int]]:
    """Additions of a quantized convolution that nobody else reads, into whose kernel they can go, and which input is the shortcut."""
    found = []
    for node in graph.proto.node:
        if node.name in keep or not _is_residual(graph, node):
            continue
        branches = [k for k, name in enumerate(node.input) if name in quantized and len(graph.consumers[name]) == 1]
        if len(branches) == 2:
            # Of two convolutions the shortcut is the one that reads what the block reads: its input has other readers.
            readers = [len(graph.consumers[_source(graph, node.input[k])]) for k in branches]
            branches = [0 if readers[0] <= readers[1] else 1]
        if branches:
            found.append((node, 1 - branches[0]))
    return found


def _source(graph: Graph, name: str) -> str:
    """What the convolution behind a tensor read before it was quantized."""
    return str(graph.producers[name].input[0]).removesuffix(".dq")
