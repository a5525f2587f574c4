"""OpenVINO: the fastest runtime on x86 CPUs; where the CPU has bfloat16 it uses it unless fp32 is asked for."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.checks import check_feed, check_precision, reason
from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import BackendError, ModelError
from jetlens.graph import GraphFacts, read_graph
from jetlens.registry import installed, require
from jetlens.spec import TensorSpec

__all__ = ["OpenVino", "OpenVinoSession"]

_INSTALL = "pip install 'jetlens[openvino]'"
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "bf16": "bfloat16",
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "u32": "uint32",
    "i32": "int32",
    "u64": "uint64",
    "i64": "int64",
    "boolean": "bool",
}
_HEAVY_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_TELEMETRY = "openvino_telemetry"


class OpenVino:
    """The backend ``openvino``."""

    name: ClassVar[str] = "openvino"

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here and how to get it, or None."""
        return None if installed("openvino") else f"openvino is not installed: {_INSTALL}"

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> OpenVinoSession:
        """Loads an ONNX model from its bytes into the CPU plug-in.

        Raises:
            BackendError: the runtime is unavailable, or the device or the precision cannot be had.
            ModelError: the graph is damaged, keeps data in other files or cannot run here.
        """
        missing = cls.unavailable()
        if missing:
            raise BackendError(missing)
        if options.device == "cuda":
            raise BackendError("openvino: device cuda was asked for, but OpenVINO does not run on NVIDIA GPUs; use backend onnxruntime")
        graph = read_graph(model)
        graph.require_whole()
        ov = import_openvino()
        core = _core()
        abilities = list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        if options.precision == "bf16" and "BF16" not in abilities:
            raise BackendError("openvino: precision bf16 was asked for, but this CPU has no bfloat16 instructions; use fp32")
        try:
            streams = _streams(options)
            compiled = core.compile_model(core.read_model(model=model), "CPU", _config(options, streams))
        except Exception as error:  # the runtime raises RuntimeError and its own kinds
            raise ModelError(f"openvino {_version(ov)} refuses the model: {reason(error)}") from error
        precision = _running_precision(compiled)
        check_precision("openvino", options, precision, "leave the precision away, or give a graph of that precision")
        device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
        provider = ",".join(compiled.get_property("EXECUTION_DEVICES"))
        return OpenVinoSession(compiled, graph, RunFacts("openvino", _version(ov), provider, device, precision), streams)


class OpenVinoSession(ImmediateLanes):
    """A model compiled by OpenVINO; any number of threads may call ``run``, and ``at_once`` of them run while the others wait."""

    def __init__(self, compiled: Any, graph: GraphFacts, facts: RunFacts, at_once: int = 1) -> None:
        self.facts = facts
        self.at_once = at_once
        self.inputs = _tensors(compiled.inputs, graph.inputs)
        self.outputs = _tensors(compiled.outputs, graph.outputs)
        self._input_index = {row.name: i for i, row in enumerate(self.inputs)}
        self._requests: SimpleQueue[Any] | None = SimpleQueue()
        for _ in range(at_once):
            self._requests.put(compiled.create_infer_request())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays.

        Raises:
            BackendError: the inputs do not fit the graph, the session is closed or the runtime failed.
        """
        requests = self._requests
        if requests is None:
            raise BackendError("openvino: the session is closed; load the model again")
        check_feed("openvino", self.inputs, inputs)
        request = requests.get()
        try:
            # The inputs are read in place; the outputs are copies, since the request writes over its own.
            feed = {self._input_index[name]: array for name, array in inputs.items()}
            results = request.infer(feed, share_inputs=True, share_outputs=False)
        except Exception as error:  # the runtime raises RuntimeError and its own kinds
            raise BackendError(f"openvino failed while it ran: {reason(error)}") from error
        finally:
            requests.put(request)
        return {row.name: results[i] for i, row in enumerate(self.outputs)}

    def close(self) -> None:
        """Frees the model; closing twice is allowed."""
        self._requests = None

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def import_openvino() -> Any:
    """Imports openvino without the telemetry event that its import would send."""
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return require("openvino", extra="openvino", why="backend openvino")
    # With its telemetry package out of reach openvino falls back to its own stub, which sends nothing.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return require("openvino", extra="openvino", why="backend openvino")
    finally:
        sys.modules.pop(_TELEMETRY, None)


@cache
def _core() -> Any:
    """The one core of this process, never freed: each takes over the signal stack of the thread that loads its CPU plug-in, and one that is
    freed before a later one leaves freed memory there, so that the next Ctrl-C crashes."""
    return import_openvino().Core()


def _streams(options: SessionOptions) -> int:
    """Runs at once: as many lanes as the cores hold where each run's threads are given; else one run has all cores, and answers soonest."""
    return max(1, min(options.lanes, (os.cpu_count() or 1) // options.threads)) if options.threads else 1


def _config(options: SessionOptions, streams: int) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT", "NUM_STREAMS": streams}
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = options.threads * streams
    if options.precision in _HINTS:
        config["INFERENCE_PRECISION_HINT"] = _HINTS[options.precision]
    return config


def _version(ov: Any) -> str:
    return str(ov.__version__).split("-", maxsplit=1)[0]


def _running_precision(compiled: Any) -> str:
    """The precision of the heavy layers of the compiled graph: int8 if any is, else that of most; the plug-in's hint where there is none."""
    counts: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _HEAVY_LAYERS:
            precision = info["runtimePrecision"].astype(str)
            counts[_PRECISIONS.get(precision, precision)] += 1
    if "int8" in counts:
        return "int8"
    if counts:
        return counts.most_common(1)[0][0]
    hint: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return _PRECISIONS.get(hint, hint)


def _tensors(ports: Sequence[Any], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Types and shapes from the compiled ports, names (of which a port may have several) and names of axes from the graph."""
    rows = []
    for port, row in zip(ports, declared, strict=True):
        axes = [axis.get_length() if axis.is_static else f"axis{i}" for i, axis in enumerate(port.get_partial_shape())]
        if len(axes) == len(row.shape):
            axes = [name if isinstance(axis, str) and isinstance(name, str) else axis for axis, name in zip(axes, row.shape, strict=True)]
        kind = port.get_element_type().get_type_name()
        rows.append(TensorSpec(row.name, _TYPES.get(kind, kind), tuple(axes)))
    return tuple(rows)
