"""An ONNX graph as the precision steps see it: who makes a tensor, who reads it, and of which type it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.registry import require

__all__ = ["HEAVY", "Graph"]

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that the time goes into: between the first and the last of them lies the body of a network."""


class Graph:
    """A copy of an ONNX model that may be changed; nodes have unique names and constants are initializers.

    Attributes:
        onnx: the package.
        model: the ``onnx.ModelProto``.
        producers: the node that makes a tensor.
        consumers: the nodes that read a tensor, once for each time.
    """

    def __init__(self, content: bytes) -> None:
        """Raises ModelError for a graph with subgraphs or functions of its own, whose insides are not looked at."""
        self.onnx: Any = require("onnx", extra="export", why="a change of precision")
        self.model: Any = self.onnx.load_model_from_string(content)
        if len(self.model.functions) or any(row.type in _SUBGRAPHS for node in self.proto.node for row in node.attribute):
            raise ModelError(
                "the graph has branches, loops or functions of its own, whose precision cannot be changed; export it without them"
            )
        self._constants_to_initializers()
        taken: set[str] = set()
        for index, node in enumerate(self.proto.node):
            if not node.name or node.name in taken:
                node.name = f"{node.op_type}.{index}"
            taken.add(node.name)
        self.index()

    @property
    def proto(self) -> Any:
        """The ``onnx.GraphProto``."""
        return self.model.graph

    def index(self) -> None:
        """Looks up producers and consumers again after nodes were changed."""
        self.producers: dict[str, Any] = {name: node for node in self.proto.node for name in node.output if name}
        self.consumers: dict[str, list[Any]] = {}
        for node in self.proto.node:
            for name in node.input:
                if name:
                    self.consumers.setdefault(name, []).append(node)
        self._values = {row.name: row for row in self.proto.initializer}

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of an initializer; None for any other tensor."""
        row = self._values.get(name)
        return None if row is None else np.asarray(self.onnx.numpy_helper.to_array(row))

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self._values

    def add_value(self, name: str, values: NDArray[Any]) -> str:
        """Adds an initializer if there is none of that name; gives the name."""
        if name not in self._values:
            self.proto.initializer.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
            self._values[name] = self.proto.initializer[-1]
        return name

    def types(self) -> dict[str, int]:
        """The element type of every tensor."""
        inferred = self.onnx.shape_inference.infer_shapes(self.model).graph
        rows = (*inferred.value_info, *inferred.input, *inferred.output)
        known = {row.name: int(row.type.tensor_type.elem_type) for row in rows}
        return {**known, **{row.name: int(row.data_type) for row in self.proto.initializer}}

    def real_activations(self) -> list[str]:
        """The tensors of type float32 or float16 that nodes make, in the order of the graph."""
        types = self.types()
        real = (self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.FLOAT16)
        return [name for node in self.proto.node for name in node.output if types.get(name) in real]

    def heads(self) -> list[str]:
        """The raw answers: what the last heavy nodes make, behind which only decoding comes."""
        later: set[str] = set()
        found: list[str] = []
        for node in reversed(self.proto.node):
            behind = any(name in later for name in node.output)
            heavy = node.op_type in HEAVY
            if heavy and not behind:
                found.append(node.output[0])
            if heavy or behind:
                later.update(node.input)
        return found[::-1]

    def with_outputs(self, names: Iterable[str]) -> bytes:
        """The model's bytes with other outputs: tensors of float32."""
        model = self.onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None) for name in names)
        content: bytes = model.SerializeToString()
        return content

    def with_scores(self) -> bytes:
        """The model's bytes, answering besides with the scores that an ArgMax reads: it turns NaN into a class as if nothing were wrong."""
        names = [node.input[0] for node in self.proto.node if node.op_type == "ArgMax" and node.input[0] in self.producers]
        types, given = self.types(), {row.name for row in self.proto.output}
        model = self.onnx.ModelProto()
        model.CopyFrom(self.model)
        for name in dict.fromkeys(names):
            if name in types and name not in given:
                model.graph.output.append(self.onnx.helper.make_tensor_value_info(name, types[name], None))
        content: bytes = model.SerializeToString()
        return content

    def insert(self, after: Mapping[str, Sequence[Any]]) -> None:
        """Puts nodes behind what makes a tensor, those of constants and inputs first; drops initializers that none reads."""
        self.index()
        rows = [row for name in after if name not in self.producers for row in after[name]]
        for node in self.proto.node:
            rows.append(node)
            rows += [row for name in node.output for row in after.get(name, ())]
        rows = [self.onnx.NodeProto.FromString(row.SerializeToString()) for row in rows]
        del self.proto.node[:]
        self.proto.node.extend(rows)
        read = {name for node in self.proto.node for name in node.input} | {row.name for row in self.proto.output}
        kept = [row for row in self.proto.initializer if row.name in read]
        del self.proto.initializer[:]
        self.proto.initializer.extend(kept)
        del self.proto.value_info[:]
        self.index()

    def to_bytes(self) -> bytes:
        """The checked model.

        Raises:
            ModelError: it is no valid ONNX.
        """
        try:
            self.onnx.checker.check_model(self.model, full_check=True)
        except (self.onnx.checker.ValidationError, self.onnx.shape_inference.InferenceError) as error:
            raise ModelError(f"the changed graph is not valid ONNX ({' '.join(str(error).split())[:200]})") from error
        content: bytes = self.model.SerializeToString()
        return content

    def _constants_to_initializers(self) -> None:
        kept = []
        for node in self.proto.node:
            tensor = next((row.t for row in node.attribute if row.name == "value"), None) if node.op_type == "Constant" else None
            if tensor is None:
                kept.append(node)
                continue
            self.proto.initializer.append(tensor)
            self.proto.initializer[-1].name = node.output[0]
        nodes = [self.onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del self.proto.node[:]
        self.proto.node.extend(nodes)


_SUBGRAPHS = (5, 10)
"""Attribute types GRAPH and GRAPHS of onnx.proto, whose numbers never change."""
