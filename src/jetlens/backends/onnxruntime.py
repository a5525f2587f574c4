"""ONNX Runtime: on the CPU everywhere, on NVIDIA GPUs with its GPU build."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar

from numpy.typing import NDArray

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.checks import check_feed, check_precision, reason
from jetlens.backends.graph import read_graph
from jetlens.backends.immediate import ImmediateLanes
from jetlens.device import cpu_model, gpu_name
from jetlens.errors import BackendError, ModelError
from jetlens.registry import installed, require
from jetlens.spec import TensorSpec

__all__ = ["OnnxRuntime", "OnnxRuntimeSession"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_INSTALL = "pip install 'jetlens[cpu]', or onnxruntime-gpu for an NVIDIA GPU (on a Jetson use the wheel for its JetPack)"
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
        session = _start(ort, model, options)
        provider = session.get_providers()[0]
        if options.device == "cuda" and provider != _CUDA:
            raise BackendError(
                "onnxruntime: device cuda was asked for, but the CUDA provider did not start and the CPU ran instead: "
                "check nvidia-smi, and that the CUDA and cuDNN versions are those of this onnxruntime-gpu"
            )
        precision = graph.precision
        if precision == "fp16" and provider == _CPU and platform.machine().lower() in ("x86_64", "amd64"):
            precision = "fp32"  # its x86 kernels cast half-precision weights up and compute in fp32
        check_precision("onnxruntime", options, precision, "leave the precision away, or use backend openvino")
        device = gpu_name() if provider == _CUDA else cpu_model()
        return OnnxRuntimeSession(session, RunFacts("onnxruntime", str(ort.__version__), provider, device, precision))


class OnnxRuntimeSession(ImmediateLanes):
    """A model loaded in ONNX Runtime; several threads may call ``run`` at once."""

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
            raise BackendError("onnxruntime: the session is closed; load the model again")
        check_feed("onnxruntime", self.inputs, inputs)
        try:
            arrays = self._session.run(self._names, dict(inputs))
        except Exception as error:  # the runtime's own classes share no base but this
            raise BackendError(f"onnxruntime failed while it ran: {reason(error)}") from error
        return dict(zip(self._names, arrays, strict=True))

    def close(self) -> None:
        """Frees the model; closing twice is allowed."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _start(ort: Any, model: bytes, options: SessionOptions) -> Any:
    """A session on the GPU if one is wanted and starts, otherwise on the CPU."""
    has_cuda = _CUDA in ort.get_available_providers()
    if options.device == "cuda" and not has_cuda:
        raise BackendError(
            f"onnxruntime: device cuda was asked for, but the installed onnxruntime {ort.__version__} has no CUDA provider: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson use the wheel for its JetPack), or --device cpu"
        )
    if options.device != "cpu" and has_cuda:
        try:
            # TF32 off: what is reported as fp32 is fp32.
            return _session(ort, model, options, [(_CUDA, {"use_tf32": "0"}), _CPU])
        except Exception as error:  # the runtime's own classes share no base but this
            if options.device == "cuda":
                raise BackendError(f"onnxruntime: device cuda was asked for and does not start: {reason(error)}; see nvidia-smi") from error
    try:
        return _session(ort, model, options, [_CPU])
    except Exception as error:  # the runtime's own classes share no base but this
        raise ModelError(f"onnxruntime {ort.__version__} refuses the model: {reason(error)}") from error


def _session(ort: Any, model: bytes, options: SessionOptions, providers: list[Any]) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.inter_op_num_threads = 1
    settings.intra_op_num_threads = options.threads or 0
    # Waiting threads sleep: on a shared machine spinning ones take the cores from decode and encode.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its own fallback prints to stdout and runs elsewhere than asked.
        return ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)


def _tensor(row: Any) -> TensorSpec:
    kind = row.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(axis if isinstance(axis, int) else axis or f"axis{i}" for i, axis in enumerate(row.shape))
    return TensorSpec(row.name, _TYPES.get(kind, kind), shape)
