"""Node and Operator: what the table of operators works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from jetlens.errors import ModelError

__all__ = ["TORCH_TYPES", "Builder", "Function", "Node", "Operator", "plain", "torch_type"]

Function: TypeAlias = Callable[..., Any]
"""One node at run time: tensors in (None where an optional input is absent), a tensor or a tuple of tensors out."""

TORCH_TYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
"""ONNX element types by their number."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an ONNX graph as its operator sees it while the graph is compiled.

    Attributes:
        opset: the version of the standard operators that the graph asks for.
        attributes: plain Python values and NumPy arrays.
        constants: for each input its value where that is known now, else None.
        given: for each input whether it is there at all.
        outputs: how many outputs the graph reads.
        device: where tensors that the node makes must stand.
    """

    op: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    constants: tuple[Tensor | None, ...]
    given: tuple[bool, ...]
    outputs: int
    device: torch.device

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute or its default."""
        return self.attributes.get(name, default)

    def constant(self, position: int) -> Tensor | None:
        """An input's value where it is known now."""
        return self.constants[position] if position < len(self.constants) else None

    def has(self, position: int) -> bool:
        """Whether an optional input is there."""
        return position < len(self.given) and self.given[position]

    def integers(self, attribute: str, position: int) -> Callable[[Tensor | None], list[int] | None]:
        """A function from a run-time input to its integers; what an attribute or a constant says is bound now."""
        known = self.get(attribute)
        if known is not None:
            bound: list[int] | None = [int(value) for value in (known if isinstance(known, (list, tuple)) else [known])]
            return lambda value: bound
        constant = self.constant(position)
        if constant is not None:
            bound = [int(value) for value in constant.reshape(-1).tolist()]
            return lambda value: bound
        return lambda value: None if value is None else [int(number) for number in value.reshape(-1).tolist()]

    def refuse(self, what: str) -> ModelError:
        """The error for a variant of an operator that is not there."""
        return ModelError(f"the pytorch backend does not run {self.op} with {what} (node {self.name!r}); use --backend onnxruntime")


Builder: TypeAlias = Callable[[Node], Function]


@dataclass(frozen=True, slots=True)
class Operator:
    """A row of the table of operators.

    Attributes:
        build: binds a node's attributes once and returns the function that runs it.
        host: positions of inputs that are read as Python numbers, so that they stay in host memory.
        about_shape: the answer depends on its input's shape alone and stays in host memory.
    """

    build: Builder
    host: tuple[int, ...] = ()
    about_shape: bool = False


def plain(function: Function) -> Operator:
    """An operator that is a torch function as it stands."""
    return Operator(lambda node: function)


def torch_type(node: Node, number: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    if number not in TORCH_TYPES:
        raise node.refuse(f"ONNX element type {number}")
    return TORCH_TYPES[number]
