"""What a deserialized engine takes and gives, and execution contexts for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from jetlens.engines.api import Messages, Version, dtype_name
from jetlens.errors import BackendError
from jetlens.spec import TensorSpec

__all__ = ["Layout", "OpenEngine", "Tensor", "read_layout"]

_BATCH = "N"
_TYPES = ("float32", "float16", "int8", "uint8", "int32", "int64", "bool")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of an engine.

    Attributes:
        shape: with -1 for the batch axis where the profile leaves it free.
        largest: the shape at the largest batch.
        wanted: type that the caller gets, where it differs from the engine's (TensorRT 8.6 has no int64).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    largest: tuple[int, ...]
    wanted: str

    @property
    def size(self) -> int:
        """Bytes at the largest batch; at least one, since a buffer of none has no address."""
        return max(1, prod(self.largest) * np.dtype(self.dtype).itemsize)

    def spec(self) -> TensorSpec:
        """As a session shows it."""
        return TensorSpec(self.name, self.wanted, tuple(_BATCH if axis < 0 else axis for axis in self.shape))


@dataclass(frozen=True, slots=True)
class Layout:
    """All that a lane must know of an engine.

    Attributes:
        dynamic: the batch axis is free within the profile.
        batches: smallest, usual and largest batch; of a fixed graph three times the same.
        scratch: bytes of device memory that one execution context works in.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dynamic: bool
    batches: tuple[int, int, int]
    scratch: int


class OpenEngine:
    """An engine with the objects that must live as long as it does."""

    def __init__(self, tensorrt: Any, version: Version, kept: tuple[Any, ...], engine: Any, messages: Messages) -> None:
        self._tensorrt = tensorrt
        self._version = version
        self._kept = kept
        self.engine = engine
        self.messages = messages

    def scratch(self) -> int:
        """Bytes of device memory that one execution context works in."""
        return int(getattr(self.engine, self._version.device_memory))

    def context(self, memory: int, size: int, *, dynamic: bool, stream: int = 0) -> Any:
        """An execution context that works in the caller's device memory, which contexts that never run at once may share.

        None where the one profile belongs to another living context: so do plans of TensorRT 8.6 that were built without profile sharing.

        Raises:
            BackendError: TensorRT made none.
        """
        engine = self.engine
        # From 10 on the strategy is an argument; 8.6 has a call of its own.
        strategies = getattr(self._tensorrt, "ExecutionContextAllocationStrategy", None)
        context = (
            engine.create_execution_context_without_device_memory()
            if strategies is None
            else engine.create_execution_context(strategies.USER_MANAGED)
        )
        if context is None:
            raise BackendError(f"tensorrt: no execution context: {self.messages.last_error()}")
        # 8.6 gives the profile to the first context alone.
        if dynamic and context.active_optimization_profile != 0 and not context.set_optimization_profile_async(0, stream):
            return None
        if memory and strategies is None:
            context.device_memory = memory
        elif memory:
            context.set_device_memory(memory, size)
        return context

    def close(self) -> None:
        """Frees the engine, then what it stands on; contexts must be gone by then."""
        self.engine = None
        self._kept = ()


def read_layout(opened: OpenEngine, tensorrt: Any, declared: Mapping[str, str]) -> Layout:
    """The layout of an engine's first profile.

    Args:
        declared: types of the outputs in the graph that it was built from, by name; empty for a plan of the user's.

    Raises:
        BackendError: it is not the kind of engine that jetlens runs; the message says which tensor and why.
    """
    engine = opened.engine
    names = [str(engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]
    for name in names:
        _check(engine, tensorrt, name)
    inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    shapes = {name: tuple(int(axis) for axis in engine.get_tensor_shape(name)) for name in names}
    batches, dynamic = _batches(engine, inputs, shapes)
    context = opened.context(0, 0, dynamic=dynamic)
    set_shapes(context, inputs, shapes, batches[2])
    largest = {name: tensor_shape(context, name) for name in names}
    kinds = {name: dtype_name(engine.get_tensor_dtype(name)) for name in names}
    tensors = {name: Tensor(name, kinds[name], shapes[name], largest[name], _wanted(kinds[name], declared.get(name, ""))) for name in names}
    return Layout(tuple(tensors[name] for name in inputs), tuple(tensors[name] for name in outputs), dynamic, batches, opened.scratch())


def set_shapes(context: Any, inputs: Sequence[str], shapes: Mapping[str, tuple[int, ...]], batch: int) -> None:
    """Tells a context the batch of its inputs.

    Raises:
        BackendError: the profile does not hold it.
    """
    for name in inputs:
        if -1 in shapes[name] and not context.set_input_shape(name, tuple(batch if axis < 0 else axis for axis in shapes[name])):
            raise BackendError(f"tensorrt: the engine refuses batch {batch} for input {name!r}; build it again with --batch")


def tensor_shape(context: Any, name: str) -> tuple[int, ...]:
    """A tensor's shape once the inputs have theirs.

    Raises:
        BackendError: it depends on the values in the graph.
    """
    shape = tuple(int(axis) for axis in context.get_tensor_shape(name))
    if any(axis < 0 for axis in shape):
        raise BackendError(
            f"tensorrt: the shape of {name!r} {list(shape)} depends on what the graph finds (non-maximum suppression in it?); "
            "export it with a fixed number of rows: jetlens does the suppression on the host"
        )
    return shape


def _check(engine: Any, tensorrt: Any, name: str) -> None:
    """Refuses tensors that NumPy arrays in device memory cannot stand for."""
    kind = dtype_name(engine.get_tensor_dtype(name))
    if kind not in _TYPES:
        raise BackendError(f"tensorrt: tensor {name!r} is {kind}, which NumPy does not have; export it as float32 or float16")
    if engine.get_tensor_location(name) != tensorrt.TensorLocation.DEVICE:
        raise BackendError(
            f"tensorrt: tensor {name!r} lives on the host (it sets a shape); export the graph with fixed shapes but the batch"
        )
    layout = engine.get_tensor_format(name)
    if layout != tensorrt.TensorFormat.LINEAR:
        raise BackendError(
            f"tensorrt: tensor {name!r} has the format {layout.name}; build the plan with --inputIOFormats and --outputIOFormats chw"
        )


def _batches(engine: Any, inputs: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, int, int], bool]:
    """Smallest, usual and largest batch, and whether it is free."""
    free = [name for name in inputs if -1 in shapes[name]]
    if any(-1 in shapes[name][1:] for name in free):
        raise BackendError(
            "tensorrt: the engine leaves axes other than the batch free; export the graph with one picture size and build it again"
        )
    ranges = {tuple(int(shape[0]) for shape in engine.get_tensor_profile_shape(name, 0)) for name in free}
    if len(ranges) > 1:
        raise BackendError("tensorrt: the engine's inputs have different batch ranges; build it with one --batch for all")
    if ranges:
        smallest, usual, largest = ranges.pop()
        return (smallest, usual, largest), True
    batch = next((shapes[name][0] for name in inputs if shapes[name]), 1)
    return (batch, batch, batch), False


def _wanted(kind: str, declared: str) -> str:
    """int64 where the graph declares it and the engine, having none, gives int32; otherwise the engine's type."""
    return declared if (kind, declared) == ("int32", "int64") else kind
