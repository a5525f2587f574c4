"""The TensorRT module, and all that differs between its versions: the builder and the session branch nowhere else."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jetlens.errors import BackendError
from jetlens.registry import installed

__all__ = [
    "MODULE",
    "Messages",
    "Version",
    "dtype_name",
    "load_tensorrt",
    "make_logger",
    "open_plan",
    "out_of_memory",
    "shared_context",
    "start",
    "version_of",
]

MODULE = "tensorrt"
REMEDY = "on a Jetson use JetPack's own TensorRT; elsewhere pip install tensorrt (NVIDIA GPU and driver needed)"
_OLDEST = (8, 6)
_CUDA_OUT_OF_MEMORY = 2
_MOST_MESSAGES = 200
_LONGEST_MESSAGE = 600

_MEMORY = re.compile(
    r"OutOfMemory|out of memory|bad_alloc|MemoryError|cudaErrorMemoryAllocation|Cannot allocate memory|could not be allocated|Unable to allocate",
    re.IGNORECASE,
)

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class Version:
    """What one version of TensorRT wants and has.

    Attributes:
        text: the version, such as ``10.3.0``.
        network_flags: names of NetworkDefinitionCreationFlag that ``create_network`` is given.
        precision_flags: the network is weakly typed: fp16 and int8 must be allowed by builder flags, and fp32 layers be held by constraints.
        preview_features: to switch on: contexts that share one optimization profile, which later versions always allow.
        device_memory: the attribute of an engine with the bytes that one context needs on the GPU.
        context_memory_attribute: a context's scratch memory is set by its attribute ``device_memory``, later by a method.
        node_in_errors: a parser error carries the node's name and operator; before, its place in the graph alone.
        progress: the builder reports phases and steps.
        ahead_of_time: it builds for a named GPU generation, on machines without a GPU too (TensorRT-RTX).
    """

    text: str
    network_flags: tuple[str, ...]
    precision_flags: bool
    preview_features: tuple[str, ...]
    device_memory: str
    context_memory_attribute: bool
    node_in_errors: bool
    progress: bool
    ahead_of_time: bool = False


# In the order of Version's fields after the text.
_MAJORS: dict[int, tuple[tuple[str, ...], bool, tuple[str, ...], str, bool, bool, bool]] = {
    8: (("EXPLICIT_BATCH",), True, ("PROFILE_SHARING_0806",), "device_memory_size", True, False, False),
    10: (("STRONGLY_TYPED",), False, (), "device_memory_size_v2", False, True, True),
    11: (("STRONGLY_TYPED",), False, (), "device_memory_size_v2", False, True, True),
}


def load_tensorrt(module: str = MODULE) -> Any:
    """Imports TensorRT; ``module`` is another of its builds with the same interface, such as ``tensorrt_rtx``.

    Raises:
        BackendError: it is not installed, does not import or is too old.
    """
    try:
        tensorrt = importlib.import_module(module)
    # A broken installation fails in many ways: libraries that are missing (ImportError, OSError), or of another version (RuntimeError).
    except Exception as error:
        if not installed(module):
            raise BackendError(f"TensorRT is not installed: {REMEDY}") from None
        raise BackendError(f"TensorRT is installed and does not import ({error}); reinstall it: {REMEDY}") from None
    version_of(tensorrt)
    return tensorrt


def version_of(tensorrt: Any) -> Version:
    """What the given TensorRT module wants and has.

    Raises:
        BackendError: it is older than 8.6, where the tensor interface by name begins.
    """
    text = str(tensorrt.__version__)
    rtx = tensorrt.__name__ == "tensorrt_rtx"
    if rtx:
        return Version(text, *_MAJORS[11], ahead_of_time=True)
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
    if len(numbers) < 2 or numbers < _OLDEST:
        raise BackendError(f"TensorRT {text} is too old: 8.6 or later is needed (JetPack 6); {REMEDY}")
    # A version that is not known yet is taken as the newest known one; 9 is 10's.
    known = max((major for major in _MAJORS if major <= numbers[0]), default=8)
    return Version(text, *_MAJORS[10 if numbers[0] == 9 else known])


class Messages:
    """What TensorRT said: the last errors and warnings, each cut to a length that does no harm."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=_MOST_MESSAGES)
        self.warnings: deque[str] = deque(maxlen=_MOST_MESSAGES)

    def last_error(self) -> str:
        """The last error in one line, or that there was none."""
        return " ".join(self.errors[-1].split()) if self.errors else "TensorRT gave no reason"


def out_of_memory(text: str) -> bool:
    """Whether a message of TensorRT, CUDA, C++ or Python says that memory ran out."""
    return _MEMORY.search(text) is not None


def make_logger(tensorrt: Any, messages: Messages, echo: Callable[[str], object] | None = None) -> Any:
    """A TensorRT logger that fills ``messages``; ``echo`` is called with every error at once, so that one before a crash is not lost."""
    logger_type: Any = tensorrt.ILogger

    class Logger(logger_type):  # type: ignore[misc]
        def __init__(self) -> None:
            logger_type.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            text = message[:_LONGEST_MESSAGE]
            if severity in (logger_type.ERROR, logger_type.INTERNAL_ERROR):
                messages.errors.append(text)
                if echo is not None:
                    echo(text)
            elif severity == logger_type.WARNING:
                messages.warnings.append(text)

    return Logger()


def start(tensorrt: Any, kind: Any, logger: Any, messages: Messages) -> Any:
    """A builder or a runtime.

    Raises:
        BackendError: it cannot start, as on a machine without a GPU; TensorRT's own words say why.
    """
    try:
        return kind(logger)
    except (RuntimeError, TypeError):
        if _no_room_on_gpu():
            raise BackendError(
                f"TensorRT {tensorrt.__version__} cannot start: the GPU is out of memory and has no room for a CUDA context; close other programs"
            ) from None
        raise BackendError(
            f"TensorRT {tensorrt.__version__} cannot start: {messages.last_error()}; check the GPU and its driver: nvidia-smi"
        ) from None


def _no_room_on_gpu() -> bool:
    """Whether the driver refuses a context for want of memory, which TensorRT does not tell."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return False
    status = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    if not status:
        cuda.cuDevicePrimaryCtxRelease(device)
    return bool(status == _CUDA_OUT_OF_MEMORY)


def open_plan(tensorrt: Any, plan: bytes, logger: Any, messages: Messages) -> tuple[Any, Any]:
    """Deserializes a plan, which is executable code: only one that was built here or is trusted. Returns the runtime, to be kept, and the engine.

    Raises:
        BackendError: this TensorRT or this GPU does not take the plan.
    """
    tensorrt.init_libnvinfer_plugins(logger, "")
    runtime = start(tensorrt, tensorrt.Runtime, logger, messages)
    # What a plan may hold of compiled host code is never allowed to run; version-compatible plans are built without any.
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        remedy = "close other programs" if out_of_memory(messages.last_error()) else "build it again on this machine"
        raise BackendError(f"TensorRT {tensorrt.__version__} does not take the engine: {messages.last_error()}; {remedy}")
    return runtime, engine


def shared_context(tensorrt: Any, engine: Any, memory: int, size: int) -> Any:
    """An execution context whose scratch memory is the caller's: an address on the GPU and the number of bytes there."""
    if version_of(tensorrt).context_memory_attribute:
        context = engine.create_execution_context_without_device_memory()
        context.device_memory = memory
    else:
        context = engine.create_execution_context(tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED)
        context.set_device_memory(memory, size)
    return context


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a TensorRT data type."""
    name = str(dtype.name)
    return _DTYPES.get(name, name.lower())
