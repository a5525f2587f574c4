"""The runtime half of TensorRT without a GPU: engines whose computing is a NumPy function, and contexts that hold jetlens to NVIDIA's rules."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCudart
from fake_enums import Member
from numpy.typing import NDArray

from jetlens.engines.plan import Engine, Manifest, PlanFacts

INPUT, OUTPUT = Member("INPUT", 1), Member("OUTPUT", 2)
DEVICE, HOST = Member("DEVICE", 0), Member("HOST", 1)
LINEAR, CHW4 = Member("LINEAR", 0), Member("CHW4", 3)
KINDS = {
    name: Member(name, i) for i, name in enumerate(("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4"))
}
NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "INT32": "i4", "BOOL": "?", "UINT8": "u1", "INT64": "i8"}
Compute = Callable[..., Mapping[str, NDArray[Any]]]


@dataclass
class Net:
    """What a fake engine is.

    Attributes:
        tensors: name to kind of value, shape (-1 = batch) and whether it is an input.
        compute: outputs of inputs, by name.
        profile: smallest, usual and largest batch.
        found: an output's free axis is not the batch.
        shares: on 8.6, several contexts may have the profile at once.
    """

    tensors: dict[str, tuple[str, tuple[int, ...], bool]]
    compute: Compute
    profile: tuple[int, int, int] = (1, 1, 1)
    scratch: int = 512
    locations: dict[str, Member] = field(default_factory=dict)
    formats: dict[str, Member] = field(default_factory=dict)
    found: int | None = None
    shares: bool = True


class Context:
    """An execution context: the first call after a shape is set may not be captured, nor the context be changed under a graph."""

    active_optimization_profile = 0

    def __init__(self, engine: CudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._state = 0
        self._settled = -1
        engine._trt.contexts.add(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        declared, (smallest, _, largest) = self._engine._net.tensors[name][1], self._engine._net.profile
        if not smallest <= shape[0] <= largest or any(a not in (-1, b) for a, b in zip(declared, shape, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        self._state += 1
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        net = self._engine._net
        shape = net.tensors[name][1]
        if -1 in shape and not net.tensors[name][2] and net.found is not None:
            return shape
        return self._shapes.get(name) or tuple(self._batch() if axis == -1 else axis for axis in shape)

    def _batch(self) -> int:
        return next(iter(self._shapes.values()), (-1,))[0]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        self._state += 1
        return True

    def _set_memory(self, memory: int) -> None:
        self._memory = memory
        self._state += 1

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._engine._trt
        stream = trt.cudart.streams[stream_handle]
        tensors = self._engine._net.tensors
        assert self.active_optimization_profile == 0 or -1 not in self._engine._net.tensors[next(iter(self._engine._net.tensors))][1], (
            "mOptimizationProfile >= 0 failed"
        )
        assert self._memory, "a context runs without its device memory"
        assert set(self._addresses) == set(tensors), "a context runs without all addresses"
        if trt.failures:
            trt.failures -= 1
            trt.log("the engine says no")
            return False
        if stream.captured is not None and self._settled != self._state:
            stream.broken = True
        self._settled = state = self._state
        shapes = {name: self.get_tensor_shape(name) for name in tensors}
        addresses = dict(self._addresses)
        # The graph does not keep the context alive, as a real one does not.
        alive, net, cudart = weakref.ref(self), self._engine._net, trt.cudart

        def work() -> None:
            context = alive()
            assert context is not None, "a graph outlives the context that it was captured from"
            assert context._state == state, "the context was changed after the graph was captured"
            arrays = {name: _array(cudart, addresses[name], shapes[name], NUMPY[tensors[name][0]]) for name in tensors}
            answers = net.compute(**{name: arrays[name].copy() for name in tensors if tensors[name][2]})
            for name, answer in answers.items():
                arrays[name][...] = answer

        stream.put(work)
        return True


class Context8(Context):
    """Of 8.6: the memory is an attribute, and the profile goes by itself to the first context of the engine alone."""

    def __init__(self, engine: CudaEngine) -> None:
        others = [context for context in engine._trt.contexts if isinstance(context, Context8)]
        super().__init__(engine)
        self.active_optimization_profile = -1 if engine._made or others else 0
        engine._made += 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        others = (context for context in self._engine._trt.contexts if context is not self and isinstance(context, Context8))
        if not self._engine._net.shares and any(context.active_optimization_profile == profile_index for context in others):
            return False
        self.active_optimization_profile = profile_index
        self._state += 1
        return True

    @property
    def device_memory(self) -> int:
        return self._memory

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self._set_memory(memory)


class Context10(Context):
    """Of 10 and later."""

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._engine._net.scratch
        self._set_memory(memory)


class CudaEngine:
    """A deserialized engine."""

    def __init__(self, trt: FakeTensorRt, net: Net) -> None:
        self._trt, self._net, self._made = trt, net, 0
        trt.engines.add(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self._net.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._net.tensors)[index]

    def get_tensor_mode(self, name: str) -> Member:
        return INPUT if self._net.tensors[name][2] else OUTPUT

    def get_tensor_dtype(self, name: str) -> Member:
        return KINDS[self._net.tensors[name][0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._net.tensors[name][1]

    def get_tensor_location(self, name: str) -> Member:
        return self._net.locations.get(name, DEVICE)

    def get_tensor_format(self, name: str) -> Member:
        return self._net.formats.get(name, LINEAR)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(batch, *self._net.tensors[name][1][1:]) for batch in self._net.profile]


class CudaEngine8(CudaEngine):
    """Of 8.6."""

    @property
    def device_memory_size(self) -> int:
        return self._net.scratch

    def create_execution_context_without_device_memory(self) -> Context:
        return Context8(self)


class CudaEngine10(CudaEngine):
    """Of 10 and later."""

    @property
    def device_memory_size_v2(self) -> int:
        return self._net.scratch

    def create_execution_context(self, strategy: Member) -> Context:
        assert strategy.name == "USER_MANAGED"
        return Context10(self)


class FakeTensorRt:
    """The module ``tensorrt`` of one version.

    Attributes:
        failures: how many of the next calls of execute_async_v3 answer no.
    """

    __name__ = "tensorrt"

    def __init__(self, cudart: FakeCudart, net: Net, version: str = "8.6.0") -> None:
        self.__version__ = version
        self.cudart = cudart
        self.failures = 0
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.engines: weakref.WeakSet[CudaEngine] = weakref.WeakSet()
        self.TensorIOMode = SimpleNamespace(INPUT=INPUT, OUTPUT=OUTPUT)
        self.TensorLocation = SimpleNamespace(DEVICE=DEVICE, HOST=HOST)
        self.TensorFormat = SimpleNamespace(LINEAR=LINEAR, CHW4=CHW4)
        kind: Any = CudaEngine8
        if not version.startswith("8."):
            self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=Member("USER_MANAGED", 2))
            kind = CudaEngine10

        class Logger:
            ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

        class Runtime:
            engine_host_code_allowed = False

            def __init__(runtime, logger: Any) -> None:  # noqa: N805
                self.logger = logger

            def deserialize_cuda_engine(runtime, plan: bytes) -> Any:  # noqa: N805
                if not plan.startswith(b"ftrt"):
                    self.log("not a plan")
                    return None
                return kind(self, net)

        self.ILogger, self.Runtime = Logger, Runtime

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        return True

    def log(self, text: str) -> None:
        self.logger.log("error", text)


def _array(cudart: FakeCudart, address: int, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    size = prod(shape) * np.dtype(kind).itemsize
    memory = (ctypes.c_uint8 * size).from_address(cudart.block(address, size, on_device=True))
    return np.asarray(memory).view(kind).reshape(shape)


def fake_engine(precision: str = "fp16", plan: bytes = b"ftrt fake") -> Engine:
    """An engine as the cache hands it out."""
    return Engine(
        plan, Manifest({}, "", PlanFacts((), (), precision, build_s=93.0), "net", "2026-11-21T00:00:00+00:00"), why="no engine yet"
    )
