"""What an ONNX file says of itself, read from its bytes alone: no runtime and no onnx package is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from jetlens.errors import ModelError
from jetlens.spec import TensorSpec

__all__ = ["GraphFacts", "read_graph"]

Field: TypeAlias = tuple[int, int | memoryview]

# Field numbers of onnx.proto, which never change.
_MODEL_GRAPH, _MODEL_FUNCTION, _MODEL_TRAINING = 7, 25, 20
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 15, 11, 12
_DEEPEST = 32

_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "str",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a graph declares.

    Attributes:
        producer: the program that wrote the file and its version.
        opsets: version by operator domain; the standard domain is ``ai.onnx``.
        operators: how often each operator occurs, subgraphs included.
        parameters: number of stored values by type.
        external: names of tensors whose values are kept in other files.
        metadata: the file's own key-value texts.
    """

    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    parameters: Mapping[str, int]
    external: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]

    @property
    def precision(self) -> str:
        """The arithmetic that the graph asks for: int8 where it quantises, else the type that most of its real values have."""
        if any(name in _QUANTISED or name.startswith("QLinear") for name in self.operators):
            return "int8"
        short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
        real = {short[kind]: count for kind, count in self.parameters.items() if kind in short}
        return max(real, key=lambda kind: real[kind]) if real else "fp32"

    def require_whole(self) -> None:
        """Refuses a graph that keeps values in other files: runtimes would read any path that it names.

        Raises:
            ModelError: there are such tensors.
        """
        if self.external:
            raise ModelError(
                f"the graph keeps {len(self.external)} tensors in other files (such as {self.external[0][:60]!r}), which jetlens refuses: "
                "save it as one file (onnx.save with save_as_external_data=False)"
            )


class _Walk:
    """Collects facts over a graph and everything nested in it."""

    def __init__(self) -> None:
        self.operators: Counter[str] = Counter()
        self.parameters: Counter[str] = Counter()
        self.initializers: set[str] = set()
        self.external: list[str] = []

    def graph(self, message: memoryview, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"graphs are nested more than {_DEEPEST} deep")
        for number, value in _fields(message):
            if number == _GRAPH_NODE:
                self.node(_bytes(value), depth)
            elif number == _GRAPH_INITIALIZER:
                self.initializers.add(self.tensor(_bytes(value)))
            elif number == _GRAPH_SPARSE:
                self.sparse(_bytes(value))

    def node(self, message: memoryview, depth: int) -> None:
        for number, value in _fields(message):
            if number == 4:
                self.operators[_text(value)] += 1
            elif number == 5:
                self.attribute(_bytes(value), depth)

    def attribute(self, message: memoryview, depth: int) -> None:
        for number, value in _fields(message):
            if number in (5, 10):  # t, tensors
                self.tensor(_bytes(value))
            elif number in (6, 11):  # g, graphs
                self.graph(_bytes(value), depth + 1)
            elif number in (22, 23):  # sparse_tensor, sparse_tensors
                self.sparse(_bytes(value))

    def sparse(self, message: memoryview) -> None:
        for number, value in _fields(message):
            if number in (1, 2):
                self.tensor(_bytes(value))

    def tensor(self, message: memoryview) -> str:
        name, kind, dims, outside = "", 0, [], False
        for number, value in _fields(message):
            if number == 1:
                dims += _integers(value)
            elif number == 2:
                kind = _integer(value)
            elif number == 8:
                name = _text(value)
            elif number == 13 or (number == 14 and value == 1):  # external_data, data_location
                outside = True
        self.parameters[_TYPES.get(kind, f"type {kind}")] += prod(dims)
        if outside:
            self.external.append(name)
        return name


def read_graph(model: bytes, name: str = "the file") -> GraphFacts:
    """Reads what an ONNX file declares; a few milliseconds for usual networks. ``name`` is how messages call it.

    Raises:
        ModelError: the bytes are no ONNX model, or a damaged one.
    """
    try:
        facts = _read(memoryview(model))
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise ModelError(f"{name} is not an ONNX model or is damaged ({error}); export or copy it again") from None
    return facts


def _read(message: memoryview) -> GraphFacts:
    walk = _Walk()
    texts: dict[int, str] = {}
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    ir_version, graphs = 0, []
    for number, value in _fields(message):
        if number == 1:
            ir_version = _integer(value)
        elif number in (2, 3):
            texts[number] = _text(value)
        elif number == _MODEL_GRAPH:
            graphs.append(_bytes(value))
        elif number == 8:
            domain, version = _pair(_bytes(value))
            opsets[str(domain or "ai.onnx")] = int(version or 0)
        elif number == 14:
            key, content = _pair(_bytes(value))
            metadata[str(key)] = str(content)
        elif number in (_MODEL_FUNCTION, _MODEL_TRAINING):
            _nested(walk, number, _bytes(value))
    if not graphs:
        raise ValueError("it holds no graph")
    for graph in graphs:
        walk.graph(graph)
    inputs = tuple(row for graph in graphs for row in _values(graph, _GRAPH_INPUT) if row.name not in walk.initializers)
    outputs = tuple(row for graph in graphs for row in _values(graph, _GRAPH_OUTPUT))
    if not inputs or not outputs:
        raise ValueError("its graph has no input or no output")
    return GraphFacts(
        ir_version=ir_version,
        producer=" ".join(texts[number] for number in (2, 3) if texts.get(number)),
        opsets=opsets,
        operators=dict(sorted(walk.operators.items())),
        parameters=dict(walk.parameters),
        external=tuple(walk.external),
        inputs=inputs,
        outputs=outputs,
        metadata=metadata,
    )


def _nested(walk: _Walk, kind: int, message: memoryview) -> None:
    """Nodes of a model-local function, or the graphs of a training description."""
    for number, value in _fields(message):
        if kind == _MODEL_FUNCTION and number == 7:
            walk.node(_bytes(value), 0)
        elif kind == _MODEL_TRAINING and number in (1, 2):
            walk.graph(_bytes(value))


def _values(graph: memoryview, kind: int) -> Iterator[TensorSpec]:
    for number, value in _fields(graph):
        if number == kind:
            name, dtype = "", "unknown"
            shape: tuple[int | str, ...] = ()
            for part, content in _fields(_bytes(value)):
                if part == 1:
                    name = _text(content)
                elif part == 2:
                    dtype, shape = _tensor_type(_bytes(content))
            yield TensorSpec(name, dtype, shape)


def _tensor_type(message: memoryview) -> tuple[str, tuple[int | str, ...]]:
    """The element type and the shape of a TypeProto; anything but a tensor is 'unknown'."""
    kind, shape = 0, []
    for number, value in _fields(message):
        if number != 1:
            continue
        for part, content in _fields(_bytes(value)):
            if part == 1:
                kind = _integer(content)
            elif part == 2:
                shape = [_axis(_bytes(axis), i) for i, (_, axis) in enumerate(_fields(_bytes(content)))]
    return _TYPES.get(kind, "unknown"), tuple(shape)


def _axis(message: memoryview, index: int) -> int | str:
    for number, value in _fields(message):
        if number == 1:
            return _integer(value)
        if number == 2:
            return _text(value)
    return f"axis{index}"


def _pair(message: memoryview) -> tuple[str | int, str | int]:
    """Fields 1 and 2 of a small message: a domain and its version, or a key and its text."""
    found: dict[int, str | int] = {}
    for number, value in _fields(message):
        found[number] = value if isinstance(value, int) else _text(value)
    return found.get(1, ""), found.get(2, "")


def _fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field of a protobuf message: an int, or the bytes of a text, block or nested message."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(message, position, end)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(message, position, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if number == 0 or position + length > end:
            raise ValueError("it ends inside a field")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a block belongs")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a block stands where a number belongs")
    return value


def _integers(value: int | memoryview) -> list[int]:
    """A repeated integer, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position, len(value))
        numbers.append(number)
    return numbers


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8", errors="replace")
