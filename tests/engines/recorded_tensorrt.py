"""A strict imitation of TensorRT's Python module, made from the names and signatures that one version really has.

A name that the version does not define raises AttributeError, also on writing, and a call that its signature does not allow raises TypeError,
as the real bindings do. What a call answers comes from a ``Scene``; nothing is computed.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSIONS = ("8.6.0", "10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
_ENUM_FIELDS = {"name", "value", "itemsize"}


@dataclass
class Tensor:
    """A tensor of the network and of the engine; ``axes`` names its axes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()


@dataclass
class Problem:
    """A node that the parser refuses."""

    node: int
    operator: str
    name: str
    desc: str


@dataclass
class Scene:
    """What the imitated TensorRT finds and answers.

    Attributes:
        layers: layer type and output type of each layer of the parsed network, and its name if that matters.
        problems: what the parser refuses; empty where it takes the graph.
        said: messages while building, as severity and text.
        plan: what comes out; None where the build fails.
        inspector: the engine inspector's JSON.
        on_execute: called with the context's behaviour by ``execute_async_v3`` and given the stream.
    """

    layers: list[tuple[str, ...]] = field(default_factory=lambda: [("CONVOLUTION", "FLOAT"), ("ACTIVATION", "FLOAT")])
    inputs: list[Tensor] = field(default_factory=lambda: [Tensor("images", "UINT8", (-1, 8, 12, 3), ("N", "", "", ""))])
    outputs: list[Tensor] = field(default_factory=lambda: [Tensor("logits", "FLOAT", (-1, 3), ("N", ""))])
    problems: list[Problem] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    plan: bytes | None = b"plan"
    inspector: str = '{"Layers": []}'
    dla_cores: int = 0
    timing_cache: bytes = b"times"
    batch: tuple[int, int, int] = (1, 1, 4)
    on_execute: Callable[[Any, int], object] | None = None


class Member:
    """One value of an enumeration."""

    def __init__(self, enum: str, name: str, value: int) -> None:
        self.enum, self.name, self.value = enum, name, value

    def __int__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and (self.enum, self.name) == (other.enum, other.name)

    def __hash__(self) -> int:
        return hash((self.enum, self.name))

    def __repr__(self) -> str:
        return f"{self.enum}.{self.name}"


class Api:
    """The recorded names and signatures of one version."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.version: str = content["version"]
        self.names: dict[str, Any] = content["names"]
        self.signatures: dict[str, str] = content["signatures"]

    def check(self, kind: str, name: str) -> None:
        if name not in self.names[kind]:
            raise AttributeError(f"TensorRT {self.version}: {kind} has no attribute {name!r}")

    def bind(self, kind: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Holds a call against the recorded signature; overloads are recorded as ``*args`` and allow anything."""
        recorded = self.signatures.get(f"{kind}.{name}", "")
        parameters = _parameters(recorded)
        if parameters is None:
            return
        try:
            inspect.Signature(parameters).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"TensorRT {self.version}: {recorded}: {error}") from None


def _parameters(signature: str) -> list[inspect.Parameter] | None:
    inside = re.search(r"\((.*)\)(?: ->|$)", signature)
    if inside is None or "self: " not in inside[1]:
        return None
    # Commas inside brackets belong to a type.
    parts = re.split(r", (?=\w+: )", inside[1])[1:]
    rows = []
    for part in parts:
        name, _, rest = part.partition(": ")
        default = None if " = " in rest else inspect.Parameter.empty
        rows.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
    # pybind allows a required parameter after an optional one, which Python's own signatures do not.
    seen_default = False
    for index, row in enumerate(rows):
        seen_default |= row.default is None
        rows[index] = row.replace(default=None) if seen_default else row
    return rows


class Strict:
    """An object of one TensorRT class: recorded names alone, calls held against their signatures, behaviour from another object."""

    def __init__(self, api: Api, kind: str, behaviour: Any) -> None:
        object.__setattr__(self, "_api", api)
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "behaviour", behaviour)

    def __getattr__(self, name: str) -> Any:
        api, kind, behaviour = self._api, self._kind, self.behaviour
        api.check(kind, name)
        if not hasattr(behaviour, name):
            raise NotImplementedError(f"{kind}.{name} is recorded and not imitated: add it to recorded_tensorrt.py")
        value = getattr(behaviour, name)
        if not callable(value):
            return value

        def checked(*args: Any, **kwargs: Any) -> Any:
            api.bind(kind, name, args, kwargs)
            return value(*args, **kwargs)

        return checked

    def __setattr__(self, name: str, value: Any) -> None:
        self._api.check(self._kind, name)
        setattr(self.behaviour, name, value)


class Enumeration:
    """A recorded enumeration; its members are the recorded names."""

    def __init__(self, api: Api, kind: str) -> None:
        self._api, self._kind = api, kind
        self._names = [name for name in api.names[kind] if name not in _ENUM_FIELDS]

    def __getattr__(self, name: str) -> Member:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"TensorRT {self._api.version}: {self._kind} has no member {name!r}")
        return Member(self._kind, name, self._names.index(name))


class RecordedTensorRt:
    """The module: import-like object that stands in for ``tensorrt``.

    Attributes:
        used: every builder flag, network flag, attribute and call of interest, in order, for tests to look at.
    """

    def __init__(self, path: Path, scene: Scene | None = None) -> None:
        self._api = Api(path)
        self.scene = scene or Scene()
        self.used: list[tuple[str, Any]] = []
        self.__version__ = self._api.version
        self.__name__ = "tensorrt"
        self._classes = _base_classes(self._api)

    def __getattr__(self, name: str) -> Any:
        api = self._api
        if name.startswith("__") or name not in api.names:
            raise AttributeError(f"module 'tensorrt' {self.__version__} has no attribute {name!r}")
        if name in self._classes:
            return self._classes[name]
        recorded = api.names[name]
        if isinstance(recorded, list) and {"name", "value"} <= set(recorded):
            return Enumeration(api, name)
        if name in _CONSTRUCTORS:
            return self._constructor(name)
        if name in ("init_libnvinfer_plugins",):
            return lambda logger, namespace: True
        raise NotImplementedError(f"tensorrt.{name} is recorded and not imitated: add it to recorded_tensorrt.py")

    def make(self, kind: str, *arguments: Any) -> Strict:
        """An object of a class with its behaviour."""
        return Strict(self._api, kind, _BEHAVIOURS[kind](self, *arguments))

    def member(self, enum: str, name: str) -> Member:
        """A member of a recorded enumeration; AttributeError where the version lacks it."""
        member: Member = getattr(getattr(self, enum), name)
        return member

    def _constructor(self, kind: str) -> Callable[..., Strict]:
        def construct(*args: Any, **kwargs: Any) -> Strict:
            self._api.bind(kind, "__init__", args, kwargs)
            return self.make(kind, *args, *kwargs.values())

        return construct


def _base_classes(api: Api) -> dict[str, Any]:
    """The classes that programs derive from: the logger and, where there is one, the progress monitor."""
    severities = [name for name in api.names["ILogger"] if name.isupper()]
    members = {name: Member("Severity", name, index) for index, name in enumerate(severities)}
    classes: dict[str, Any] = {"ILogger": type("ILogger", (), {"__init__": lambda self: None, "Severity": Enumeration, **members})}
    if "IProgressMonitor" in api.names:
        classes["IProgressMonitor"] = type("IProgressMonitor", (), {"__init__": lambda self: None})
    return classes


class _Builder:
    def __init__(self, module: RecordedTensorRt, logger: Any) -> None:
        self.module, self.logger = module, logger
        self.num_DLA_cores = module.scene.dla_cores

    def create_network(self, flags: int = 0) -> Strict:
        self.module.used.append(("network flags", flags))
        return self.module.make("INetworkDefinition")

    def create_builder_config(self) -> Strict:
        return self.module.make("IBuilderConfig")

    def create_optimization_profile(self) -> Strict:
        return self.module.make("IOptimizationProfile")

    def build_serialized_network(self, network: Strict, config: Strict) -> bytes | None:
        # Overloads hide this signature on some versions; all of them take these two.
        assert isinstance(network, Strict)
        assert isinstance(config, Strict)
        monitor = getattr(config.behaviour, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            assert monitor.step_complete("Building", 0) is True
            monitor.phase_finish("Building")
        for severity, text in self.module.scene.said:
            self.logger.log(getattr(self.module.ILogger, severity), text)
        return self.module.scene.plan

    def build_engine(self, network: Strict, config: Strict) -> Strict:
        return self.module.make("ICudaEngine")


class _Network:
    def __init__(self, module: RecordedTensorRt) -> None:
        scene = module.scene
        self._layers = [module.make("ILayer", *row) for row in scene.layers]
        self._inputs = [module.make("ITensor", tensor) for tensor in scene.inputs]
        self._outputs = [module.make("ITensor", tensor) for tensor in scene.outputs]
        self.num_layers, self.num_inputs, self.num_outputs = len(self._layers), len(self._inputs), len(self._outputs)

    def get_layer(self, index: int) -> Strict:
        return self._layers[index]

    def get_input(self, index: int) -> Strict:
        return self._inputs[index]

    def get_output(self, index: int) -> Strict:
        return self._outputs[index]


class _Layer:
    def __init__(self, module: RecordedTensorRt, kind: str, dtype: str, name: str = "") -> None:
        self.module, self.type, self.name = module, module.member("LayerType", kind), name
        # Seen on 8.6.0: a weakly typed network reads fp32 behind a cast to fp16 too.
        dtype = "FLOAT" if dtype == "HALF" and module.__version__.startswith("8.") else dtype
        self.num_outputs = 1
        self.precision: Any = None
        self._output = module.make("ITensor", Tensor("between", dtype, (1,)))

    def get_output(self, index: int) -> Strict:
        return self._output

    def set_output_type(self, index: int, dtype: Member) -> None:
        self.module.used.append(("held", (self.type.name, dtype.name)))


class _NetworkTensor:
    def __init__(self, module: RecordedTensorRt, tensor: Tensor) -> None:
        self.name, self.shape, self._axes = tensor.name, tensor.shape, tensor.axes
        self.dtype = module.member("DataType", tensor.dtype)

    def get_dimension_name(self, index: int) -> str:
        return self._axes[index] if index < len(self._axes) else ""


class _Parser:
    def __init__(self, module: RecordedTensorRt, network: Strict, logger: Any) -> None:
        self.module = module
        self.num_errors = 0

    def parse(self, model: bytes, path: str | None = None) -> bool:
        problems = self.module.scene.problems
        self.num_errors = len(problems)
        # Seen on 8.6.0: of a model that comes as bytes nothing is logged.
        return not problems

    def get_error(self, index: int) -> Strict:
        return self.module.make("ParserError", self.module.scene.problems[index])


class _ParserError:
    def __init__(self, module: RecordedTensorRt, problem: Problem) -> None:
        self._problem = problem

    def node(self) -> int:
        return self._problem.node

    def desc(self) -> str:
        return self._problem.desc

    def node_name(self) -> str:
        return self._problem.name

    def node_operator(self) -> str:
        return self._problem.operator


class _Config:
    def __init__(self, module: RecordedTensorRt) -> None:
        self.module = module
        self.profiling_verbosity: Any = None
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self.default_device_type: Any = None
        self.DLA_core = -1
        self.max_workspace_size = 0
        self._cache: Strict | None = None

    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None:
        self.module.used.append((f"pool {pool.name}", pool_size))

    def set_flag(self, flag: Member) -> None:
        self.module.used.append(("flag", flag.name))

    def set_preview_feature(self, feature: Member, enable: bool) -> None:
        self.module.used.append(("preview", feature.name))

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self.module.used.append(("tactics", tactic_sources))
        return True

    def add_optimization_profile(self, profile: Strict) -> int:
        self.module.used.append(("profile", profile.behaviour.shapes))
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Strict:
        self.module.used.append(("timing cache", bytes(serialized_timing_cache)))
        return self.module.make("ITimingCache", bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Strict, ignore_mismatch: bool) -> bool:
        if cache.behaviour.content == b"another GPU's":
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Strict | None:
        return self._cache


class _TimingCache:
    def __init__(self, module: RecordedTensorRt, content: bytes) -> None:
        self.module, self.content = module, content

    def combine(self, input_cache: Strict, ignore_mismatch: bool) -> bool:
        self.content += input_cache.behaviour.content
        return True

    def serialize(self) -> bytes:
        return self.module.scene.timing_cache + self.content


class _Profile:
    def __init__(self, module: RecordedTensorRt) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class _Runtime:
    def __init__(self, module: RecordedTensorRt, logger: Any) -> None:
        self.module = module
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Strict | None:
        return self.module.make("ICudaEngine") if bytes(serialized_engine) == self.module.scene.plan else None


class _Engine:
    def __init__(self, module: RecordedTensorRt) -> None:
        self.module = module
        self._tensors = {tensor.name: tensor for tensor in (*module.scene.inputs, *module.scene.outputs)}
        self.num_io_tensors = self.num_bindings = len(self._tensors)
        self.num_layers = len(module.scene.layers)
        self.num_optimization_profiles = 1
        self.num_aux_streams = 0
        self.device_memory_size = self.device_memory_size_v2 = 3 << 20
        self.name = ""

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> Member:
        return self.module.member("DataType", self._tensors[name].dtype)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_mode(self, name: str) -> Member:
        inputs = {tensor.name for tensor in self.module.scene.inputs}
        return self.module.member("TensorIOMode", "INPUT" if name in inputs else "OUTPUT")

    def get_tensor_location(self, name: str) -> Member:
        return self.module.member("TensorLocation", "DEVICE")

    def get_tensor_format(self, name: str) -> Member:
        return self.module.member("TensorFormat", "LINEAR")

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shape = self._tensors[name].shape
        return [tuple(size if axis < 0 else axis for axis in shape) for size in self.module.scene.batch]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def create_engine_inspector(self) -> Strict:
        return self.module.make("EngineInspector")

    def create_execution_context(self, strategy: Member | None = None) -> Strict:
        return self.module.make("IExecutionContext", self)

    def create_execution_context_without_device_memory(self) -> Strict:
        return self.module.make("IExecutionContext", self)


class _Inspector:
    def __init__(self, module: RecordedTensorRt) -> None:
        self.module = module

        self.execution_context: Strict | None = None

    def get_engine_information(self, format: Member) -> str:
        assert format.name == "JSON"
        # As TensorRT 8.6 does: no types while shapes are open.
        free = [tensor.name for tensor in self.module.scene.inputs if min(tensor.shape) < 0]
        shapes = self.execution_context.behaviour.shapes if self.execution_context is not None else {}
        return self.module.scene.inspector if set(free) <= set(shapes) else '{"Layers": ["named", "alone"]}'


class _Context:
    """Keeps the shapes and addresses that it is given; running it calls the scene's hook."""

    active_optimization_profile = 0

    def __init__(self, module: RecordedTensorRt, engine: _Engine) -> None:
        self.module, self.engine = module, engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.device_memory = 0
        self.enqueue_emits_profile = True
        self.nvtx_verbosity: Any = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self.addresses.get(name, 0)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        batch = next((shape[0] for shape in self.shapes.values()), 1)
        return tuple(batch if axis < 0 else axis for axis in self.engine.get_tensor_shape(name))

    def set_device_memory(self, memory: int, size: int) -> None:
        self.device_memory = int(memory)

    def infer_shapes(self) -> list[str]:
        return []

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.module.scene.on_execute is not None:
            self.module.scene.on_execute(self, int(stream_handle))
        return True

    def execute_async_v2(self, bindings: list[int], stream_handle: int, input_consumed: Any = None) -> bool:
        return True


_BEHAVIOURS: dict[str, Any] = {
    "Builder": _Builder,
    "EngineInspector": _Inspector,
    "IBuilderConfig": _Config,
    "ICudaEngine": _Engine,
    "IExecutionContext": _Context,
    "ILayer": _Layer,
    "INetworkDefinition": _Network,
    "IOptimizationProfile": _Profile,
    "ITensor": _NetworkTensor,
    "ITimingCache": _TimingCache,
    "OnnxParser": _Parser,
    "ParserError": _ParserError,
    "Runtime": _Runtime,
}
_CONSTRUCTORS = ("Builder", "OnnxParser", "Runtime")


def write_at(address: int, content: bytes) -> None:
    """Puts bytes where an address points: for hooks that imitate a run on memory of the host."""
    ctypes.memmove(address, content, len(content))
