"""ONNX Runtime: on the CPU everywhere, on NVIDIA GPUs with its GPU build."""

from __future__ import annotations

import contextlib
import platform
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.checks import check_feed, check_precision, reason
from jetlens.backends.immediate import ImmediateLanes
from jetlens.backends.providers import CPU, CUDA, TENSORRT, open_cuda, open_tensorrt
from jetlens.device import cpu_model, gpu_name
from jetlens.errors import BackendError, ModelError
from jetlens.graph import GraphFacts, read_graph
from jetlens.registry import installed, require
from jetlens.spec import TensorSpec

__all__ = ["OnnxRuntime", "OnnxRuntimeSession", "OnnxRuntimeTensorRt"]

_INSTALL = "pip install 'jetlens[cpu]', or onnxruntime-gpu for an NVIDIA GPU (on a Jetson use the wheel for its JetPack)"
_GPU_BUILD = "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson use the wheel for its JetPack)"
# TF32 off: what is reported as fp32 is fp32.
_CUDA_FP32 = (CUDA, {"use_tf32": "0"})
_FATAL_ONLY = 4
_TYPES = {"float": "float32", "double": "float64", "string": "str"}


class OnnxRuntime:
    """The backend ``onnxruntime``."""

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here and how to get it, or None."""
        return None if installed("onnxruntime") else f"onnxruntime is not installed: {_INSTALL}"

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> OnnxRuntimeSession:
        """Loads an ONNX model from its bytes.

        Raises:
            BackendError: the runtime or the device is unavailable, or the precision cannot be had.
            ModelError: the graph is damaged, keeps data in other files or cannot run here.
        """
        missing = cls.unavailable()
        if missing:
            raise BackendError(missing)
        graph = read_graph(model)
        graph.require_whole()
        ort = require("onnxruntime", extra="cpu", why="backend onnxruntime")
        ort.disable_telemetry_events()
        session, notes = _start(ort, model, options, graph)
        provider = session.get_providers()[0]
        precision = _running_precision(provider, graph.precision)
        check_precision("onnxruntime", options, precision, "leave the precision away, or use another backend")
        device = gpu_name() if provider == CUDA else cpu_model()
        return OnnxRuntimeSession(session, RunFacts(cls.name, str(ort.__version__), provider, device, precision, notes=notes))


class OnnxRuntimeTensorRt:
    """The backend ``onnxruntime-tensorrt``: TensorRT inside ONNX Runtime, for comparison with TensorRT itself."""

    name: ClassVar[str] = "onnxruntime-tensorrt"

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here and how to get it, or None; that takes importing onnxruntime, where it is installed."""
        missing = OnnxRuntime.unavailable()
        if missing:
            return missing
        ort = require("onnxruntime", extra="cpu", why="backend onnxruntime-tensorrt")
        has = TENSORRT in ort.get_available_providers()
        return None if has else f"the installed onnxruntime {ort.__version__} has no TensorRT provider: {_GPU_BUILD}"

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> OnnxRuntimeSession:
        """Loads an ONNX model from its bytes; the first time builds an engine, which takes minutes.

        Raises:
            BackendError: the runtime is unavailable, the precision cannot be had, or TensorRT does not take every node.
            ModelError: the graph is damaged or keeps data in other files.
        """
        missing = cls.unavailable()
        if missing:
            raise BackendError(missing)
        if options.device == "cpu":
            raise BackendError(
                "onnxruntime-tensorrt: device cpu was asked for, but TensorRT runs on NVIDIA GPUs only; use backend onnxruntime"
            )
        graph = read_graph(model)
        graph.require_whole()
        check_precision(cls.name, options, graph.precision, "give a graph of that precision: jetlens export --precision")
        ort = require("onnxruntime", extra="cpu", why="backend onnxruntime-tensorrt")
        ort.disable_telemetry_events()
        session = open_tensorrt(partial(_session, ort, model, options), model, options, graph)
        free = any(row.shape and isinstance(row.shape[0], str) for row in graph.inputs)
        largest = options.build.batch[2] if free else None
        facts = RunFacts(cls.name, str(ort.__version__), TENSORRT, gpu_name(), graph.precision, largest)
        return OnnxRuntimeSession(session, facts)


class OnnxRuntimeSession(ImmediateLanes):
    """A model loaded in ONNX Runtime; any number of threads may call ``run`` at once."""

    at_once = sys.maxsize

    def __init__(self, session: Any, facts: RunFacts) -> None:
        self._session: Any = session
        self.facts = facts
        self.inputs = tuple(_tensor(row) for row in session.get_inputs())
        self.outputs = tuple(_tensor(row) for row in session.get_outputs())
        self._names = [row.name for row in self.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays.

        Raises:
            BackendError: the inputs do not fit the graph, the session is closed or the runtime failed.
        """
        if self._session is None:
            raise BackendError(f"{self.facts.backend}: the session is closed; load the model again")
        check_feed(self.facts.backend, self.inputs, inputs)
        largest = self.facts.largest_batch
        if largest is not None and any(len(array) > largest for array in inputs.values()):
            # TensorRT inside the runtime would build another engine in the middle of the run.
            raise BackendError(f"{self.facts.backend}: this engine takes 1 to {largest} pictures; open it with a larger --batch")
        try:
            arrays = self._session.run(self._names, dict(inputs))
        except Exception as error:  # the runtime's own classes share no base but this
            raise BackendError(f"{self.facts.backend} failed while it ran: {reason(error)}") from error
        return dict(zip(self._names, arrays, strict=True))

    def close(self) -> None:
        """Frees the model; closing twice is allowed."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _start(ort: Any, model: bytes, options: SessionOptions, graph: GraphFacts) -> tuple[Any, tuple[str, ...]]:
    """A session on the GPU if one is wanted and starts, otherwise on the CPU; and notes."""
    opened = partial(_session, ort, model, options)
    has_cuda = CUDA in ort.get_available_providers()
    if options.device == "cuda" and not has_cuda:
        raise BackendError(
            f"onnxruntime: device cuda was asked for, but the installed onnxruntime {ort.__version__} has no CUDA provider: "
            f"{_GPU_BUILD}, or --device cpu"
        )
    if options.device == "cuda":
        try:
            return open_cuda(opened, _CUDA_FP32, graph)
        except BackendError:
            raise
        except Exception as error:  # the runtime's own classes share no base but this
            raise BackendError(f"onnxruntime: device cuda was asked for and does not start: {reason(error)}; see nvidia-smi") from error
    if options.device == "auto" and has_cuda:
        with contextlib.suppress(Exception):  # the CPU is an answer to auto
            return opened([_CUDA_FP32, CPU]), ()
    try:
        return opened([CPU]), ()
    except Exception as error:  # the runtime's own classes share no base but this
        raise ModelError(f"onnxruntime {ort.__version__} refuses the model: {reason(error)}") from error


def _session(
    ort: Any, model: bytes, options: SessionOptions, providers: list[Any], *, strict: bool = False, profile: Path | None = None
) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.inter_op_num_threads = 1
    settings.intra_op_num_threads = options.threads or 0
    # Waiting threads sleep: on a shared machine spinning ones take the cores from decode and encode.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if strict:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its own fallback prints to stdout and runs elsewhere than asked.
        return ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)


def _running_precision(provider: str, asked: str) -> str:
    """The arithmetic behind a graph's precision: some kernels cast up what the graph has in fewer bits."""
    if provider == CPU and asked == "fp16" and platform.machine().lower() in ("x86_64", "amd64"):
        return "fp32"  # its x86 kernels know no half precision
    if provider == CUDA and asked == "int8":
        return "fp32"  # it has no int8 convolution: values are rounded to int8 and computed on in fp32
    return asked


def _tensor(row: Any) -> TensorSpec:
    kind = row.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int) else axis or f"axis{i}" for i, axis in enumerate(row.shape))
    return TensorSpec(row.name, _TYPES.get(kind, kind), shape)
