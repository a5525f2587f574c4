"""Program: an ONNX graph as a list of bound torch calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jetlens.backends.checks import reason
from jetlens.backends.pytorch.elementwise import ELEMENTWISE
from jetlens.backends.pytorch.layout import LAYOUT
from jetlens.backends.pytorch.node import Function, Node, Operator
from jetlens.backends.pytorch.reductions import REDUCTIONS
from jetlens.backends.pytorch.resize import RESIZE
from jetlens.backends.pytorch.spatial import SPATIAL
from jetlens.errors import BackendError, ModelError
from jetlens.registry import require

__all__ = ["OPERATORS", "Program", "compile_graph"]

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **LAYOUT, **REDUCTIONS, **RESIZE, **SPATIAL}
"""ONNX operator to its row, for opsets 7 to 21."""

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Step:
    """One call: slots it reads, slots it writes and slots that nobody reads after it."""

    function: Function
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    dead: tuple[int, ...]
    op: str
    name: str


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled graph.

    Attributes:
        template: one entry a slot: constants where they are, None elsewhere.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    template: tuple[Tensor | None, ...]
    input_slots: tuple[int, ...]
    output_slots: tuple[int, ...]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The graph's outputs, in their order, on the device of the inputs; they may share memory with inputs and constants.

        Raises:
            BackendError: torch refused a node.
        """
        slots: list[Any] = list(self.template)
        for slot, value in zip(self.input_slots, inputs, strict=True):
            slots[slot] = value
        step: Step | None = None
        try:
            for step in self.steps:
                result = step.function(*[slots[index] for index in step.sources])
                if len(step.targets) == 1:
                    slots[step.targets[0]] = result[0] if type(result) is tuple else result
                else:
                    for index, value in zip(step.targets, result, strict=False):
                        slots[index] = value
                for index in step.dead:
                    slots[index] = None
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            where = f"{step.op} (node {step.name!r})" if step else "the graph"
            raise BackendError(f"pytorch failed in {where}: {reason(error)}") from error
        return [slots[index] for index in self.output_slots]


def compile_graph(model: bytes, device: torch.device) -> Program:
    """Binds every node to a torch function and works out what depends on constants only; the model must be self-contained.

    Raises:
        ModelError: the bytes are no ONNX model, an operator is unknown or the graph is inconsistent.
    """
    onnx = require("onnx", extra="export", why="the pytorch backend")
    try:
        parsed = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own errors differ from version to version
        raise ModelError(f"the file is not an ONNX model or is damaged ({reason(error)}); export or copy it again") from None
    if not parsed.graph.node:
        raise ModelError("the ONNX model has no nodes: the file is damaged or empty; export or copy it again")
    try:
        if len(parsed.functions):
            parsed = require("onnx.inliner", extra="export").inline_local_functions(parsed)
        return _Compiler(onnx, parsed, device).program()
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ModelError(f"the pytorch backend cannot compile this graph ({reason(error)}); use --backend onnxruntime") from error


class _Compiler:
    """The state while one graph is compiled: constants by name, slots by name and place."""

    def __init__(self, onnx: Any, model: Any, device: torch.device) -> None:
        self._onnx = onnx
        self._graph = model.graph
        self._device = device
        self._opset = max((row.version for row in model.opset_import if row.domain in ("", "ai.onnx")), default=1)
        if self._opset < 7:
            raise ModelError(
                f"the graph is of opset {self._opset}; the pytorch backend runs 7 and later: convert it with onnx.version_converter"
            )
        self._constants: dict[str, Tensor] = {row.name: _tensor(onnx, row) for row in self._graph.initializer}
        self._template: list[Tensor | None] = [None]
        self._slots: dict[tuple[str, bool], int] = {}
        # Values that stand in host memory though the graph runs on a GPU: shapes and what is computed from them.
        self._host: set[str] = set()
        self._calls: list[tuple[Function, tuple[int, ...], tuple[int, ...], str, str]] = []

    def program(self) -> Program:
        graph = self._graph
        inputs = [row for row in graph.input if row.name not in self._constants]
        input_slots = tuple(self._new_slot(row.name, False) for row in inputs)
        for node in graph.node:
            self._add(node)
        output_slots = tuple(self._read(row.name, False, "output") for row in graph.output)
        return Program(
            inputs=tuple(row.name for row in inputs),
            outputs=tuple(row.name for row in graph.output),
            steps=self._steps(output_slots),
            template=tuple(self._template),
            input_slots=input_slots,
            output_slots=output_slots,
        )

    def _add(self, proto: Any) -> None:
        operator = OPERATORS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
        if operator is None:
            kind = f"{proto.domain}::{proto.op_type}" if proto.domain else proto.op_type
            raise ModelError(f"the pytorch backend does not know operator {kind} (node {proto.name!r}); use --backend onnxruntime")
        names = list(proto.input)
        constants = [self._constants.get(name) for name in names]
        foldable = all(value is not None or not name for name, value in zip(names, constants, strict=True))
        data = [name for position, name in enumerate(names) if name and name not in self._constants and position not in operator.host]
        on_host = self._device.type != "cpu" and bool(data) and all(name in self._host for name in data)
        node = Node(
            op=proto.op_type,
            name=proto.name or (proto.output[0] if proto.output else ""),
            opset=self._opset,
            attributes={row.name: self._attribute(row) for row in proto.attribute},
            constants=tuple(constants),
            given=tuple(bool(name) for name in names),
            outputs=sum(bool(name) for name in proto.output),
            device=CPU if foldable or on_host else self._device,
        )
        function = operator.build(node)
        if foldable:
            with torch.inference_mode():
                result = function(*constants)
            values = result if isinstance(result, tuple) else (result,)
            self._constants.update({name: value for name, value in zip(proto.output, values, strict=False) if name})
            return
        places = [on_host or position in operator.host or operator.about_shape for position in range(len(names))]
        sources = tuple(self._read(name, place, node.name) for name, place in zip(names, places, strict=True))
        stays = on_host or (operator.about_shape and self._device.type != "cpu")
        if stays:
            self._host.update(proto.output)
        targets = tuple(self._new_slot(name, stays) if name else 0 for name in proto.output)
        if 0 in targets:
            spare = self._new_slot("", False)
            targets = tuple(slot or spare for slot in targets)
        self._calls.append((function, sources, targets, node.op, node.name))

    def _read(self, name: str, on_host: bool, reader: str) -> int:
        """The slot of a value in the place where it is wanted; moved there first if it is a shape that a GPU needs."""
        if not name:
            return 0
        on_host = on_host and self._device.type != "cpu"
        if name in self._constants:
            if (name, on_host) not in self._slots:
                self._slots[name, on_host] = len(self._template)
                self._template.append(self._constants[name] if on_host else self._constants[name].to(self._device))
            return self._slots[name, on_host]
        for place in (on_host, True) if name in self._host else (False,):
            if (name, place) in self._slots and (place == on_host or on_host):
                return self._slots[name, place]
        if (name, True) not in self._slots:
            raise ModelError(f"{reader!r} reads {name!r}, which no earlier node makes; the graph is damaged: export it again")
        device, source = self._device, self._slots[name, True]
        target = self._new_slot(name, False)
        self._calls.append((lambda value: value.to(device), (source,), (target,), "copy to the GPU", name))
        return target

    def _new_slot(self, name: str, on_host: bool) -> int:
        self._template.append(None)
        slot = len(self._template) - 1
        if name:
            self._slots[name, on_host] = slot
        return slot

    def _steps(self, kept: Sequence[int]) -> tuple[Step, ...]:
        last = {slot: index for index, call in enumerate(self._calls) for slot in (*call[1], *call[2])}
        free: dict[int, list[int]] = {}
        for slot, index in last.items():
            if slot not in kept and self._template[slot] is None and slot != 0:
                free.setdefault(index, []).append(slot)
        return tuple(
            Step(function, sources, targets, tuple(free.get(index, ())), op, name)
            for index, (function, sources, targets, op, name) in enumerate(self._calls)
        )

    def _attribute(self, row: Any) -> Any:
        value = self._onnx.helper.get_attribute_value(row)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, self._onnx.TensorProto):
            return _tensor(self._onnx, value).numpy()
        return list(value) if row.type in (self._onnx.AttributeProto.FLOATS, self._onnx.AttributeProto.INTS) else value


def _tensor(onnx: Any, proto: Any) -> Tensor:
    """A constant of the file as a torch tensor of its own.

    Raises:
        ModelError: its values stand in another file.
    """
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(
            f"constant {proto.name!r} stands in another file; only self-contained ONNX files run: save it without external data"
        )
    array: NDArray[Any] = onnx.numpy_helper.to_array(proto)
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))
