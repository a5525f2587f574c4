"""The CUDA runtime through cuda-python: memory, streams, events and graphs, every call checked."""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from importlib.util import find_spec
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import BackendError

__all__ = ["Cuda", "cuda_python", "driver_problem", "load_cuda"]

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
"""cuda-python's runtime API from 12.6 on, and before."""
_INSTALL = "pip install cuda-python (its major version is that of the CUDA runtime: 'cuda-python==12.*' on JetPack 6)"
_REMEDIES = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: free some, or use fewer lanes or a smaller largest batch",
    "cudaErrorNoDevice": "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorInsufficientDriver": "the driver is missing or older than cuda-python's CUDA: update it, or install the cuda-python of its CUDA version",
    "cudaErrorIllegalAddress": "the engine wrote outside its memory: load the model in a new process, and build the engine again if it repeats",
}
_GIL_RELEASED_SINCE = (12, 9, 1)


def cuda_python() -> str | None:
    """The module of cuda-python that is installed, or None; PyCUDA is no substitute, since it cannot capture CUDA graphs."""
    for name in _MODULES:
        try:
            if find_spec(name) is not None:
                return name
        except ImportError:
            continue
    return None


def driver_problem() -> str | None:
    """Why the NVIDIA driver offers no GPU, or None; creates no CUDA context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1 is missing)"
    status = driver.cuInit(0)
    return f"the NVIDIA driver finds no GPU (cuInit error {status}): see nvidia-smi and CUDA_VISIBLE_DEVICES" if status else None


def load_cuda() -> Cuda:
    """The CUDA runtime on the first visible GPU.

    Raises:
        BackendError: cuda-python, the driver or a GPU is missing.
    """
    name = cuda_python()
    if name is None:
        pycuda = "PyCUDA is installed but cannot capture CUDA graphs" if find_spec("pycuda") else "cuda-python is not installed"
        raise BackendError(f"tensorrt: {pycuda}: {_INSTALL}")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken installation fails in many ways
        raise BackendError(f"tensorrt: cuda-python is installed and does not import ({error}): {_INSTALL}") from None
    cuda = Cuda(module)
    if not cuda.call("cudaGetDeviceCount"):
        raise BackendError(f"tensorrt: {_REMEDIES['cudaErrorNoDevice']}")
    return cuda


class Cuda:
    """The calls that a session makes, on the current device of the calling thread (the first visible one unless it was changed).

    Attributes:
        releases_gil: other Python threads run while a call waits (cuda-python 12.9.1 and later).
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        package = importlib.import_module("cuda.bindings") if runtime.__name__ == _MODULES[0] else None
        numbers = str(getattr(package, "__version__", "0")).split(".")[:3]
        self.releases_gil = tuple(int(part) if part.isdecimal() else 0 for part in numbers) >= _GIL_RELEASED_SINCE
        self._not_ready = runtime.cudaError_t.cudaErrorNotReady

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime and returns its value, or None where it has none.

        Raises:
            BackendError: it failed; the message names the function and the error.
        """
        try:
            status, *values = getattr(self._runtime, function)(*arguments)
        except RuntimeError as error:  # how cuda-python says that the driver's library is missing
            raise BackendError(f"tensorrt: {function} failed: {error}; is the NVIDIA driver installed?") from None
        if status:
            self.fail(function, status)
        return values[0] if values else None

    def fail(self, function: str, status: Any) -> None:
        """Raises the error that a status stands for."""
        name = str(getattr(status, "name", status))
        raise BackendError(
            f"tensorrt: {function} failed with {name}: {_REMEDIES.get(name, 'see nvidia-smi and dmesg for what the GPU says')}"
        )

    def device_name(self) -> str:
        """The GPU's name."""
        properties = self.call("cudaGetDeviceProperties", self.call("cudaGetDevice"))
        name = properties.name
        return name.split(b"\0")[0].decode("utf-8", "replace").strip() if isinstance(name, bytes) else str(name)

    def integrated(self) -> bool:
        """Whether host and device share one memory, as on a Jetson."""
        return bool(self.call("cudaDeviceGetAttribute", self._runtime.cudaDeviceAttr.cudaDevAttrIntegrated, self.call("cudaGetDevice")))

    def allocate(self, size: int) -> int:
        """Address of device memory; give it back with ``free``."""
        return int(self.call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Frees device memory."""
        self.call("cudaFree", address)

    def pinned(self, size: int, *, mapped: bool) -> NDArray[np.uint8]:
        """Page-locked bytes, freed with the last array that views them: what a caller still holds never dangles.

        Args:
            mapped: the GPU reads and writes them in place, at ``mapped_address``.
        """
        flags = self._runtime.cudaHostAllocPortable | (self._runtime.cudaHostAllocMapped if mapped else 0)
        address = int(self.call("cudaHostAlloc", size, flags))
        block = (ctypes.c_uint8 * size).from_address(address)
        # Not at exit: the driver frees everything then, and may be gone already.
        weakref.finalize(block, self._runtime.cudaFreeHost, address).atexit = False
        array: NDArray[np.uint8] = np.asarray(block)
        array.fill(0)
        return array

    def mapped_address(self, array: NDArray[Any]) -> int:
        """Where the GPU finds mapped page-locked bytes."""
        return int(self.call("cudaHostGetDevicePointer", array.ctypes.data, 0))

    def stream(self) -> Any:
        """A stream that does not wait for the default one; give it back with ``call("cudaStreamDestroy", stream)``."""
        return self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def copy(self, destination: int, source: int, size: int, stream: Any, *, to_device: bool) -> None:
        """Enqueues a copy between page-locked and device memory."""
        kinds = self._runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyHostToDevice if to_device else kinds.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", destination, source, size, kind, stream)

    def record(self, event: Any, stream: Any, *, captured: bool) -> None:
        """Records an event; ``captured`` while a graph is captured, so that each launch of it records the event again."""
        if captured:
            self.call("cudaEventRecordWithFlags", event, stream, self._runtime.cudaEventRecordExternal)
        else:
            self.call("cudaEventRecord", event, stream)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """The executable graph of what ``enqueue`` puts on the stream; give it back with ``call("cudaGraphExecDestroy", graph)``.

        Raises:
            BackendError: something in it cannot be captured; the stream is usable again.
        """
        self.call("cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            enqueue()
        except BaseException:
            _, graph = self._runtime.cudaStreamEndCapture(stream)
            if graph is not None and int(graph):
                self.call("cudaGraphDestroy", graph)
            self._runtime.cudaGetLastError()
            raise
        try:
            graph = self.call("cudaStreamEndCapture", stream)
        except BackendError:
            self._runtime.cudaGetLastError()
            raise
        try:
            return self.call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def launcher(self, graph: Any, stream: Any) -> Callable[[], None]:
        """A call that launches a graph with as little Python as there can be."""
        launch, fail = self._runtime.cudaGraphLaunch, self.fail

        def start() -> None:
            (status,) = launch(graph, stream)
            if status:
                fail("cudaGraphLaunch", status)

        return start

    def waiter(self, stream: Any) -> Callable[[], None]:
        """A call that returns once the stream is idle.

        It spins, as CUDA's default does: the shortest wait, at the price of one core (a Jetson in a low power mode blocks by itself).
        Where cuda-python would hold the GIL meanwhile, it asks again and again instead, and gives other threads a turn each time.
        """
        synchronize, query, fail, not_ready = self._runtime.cudaStreamSynchronize, self._runtime.cudaStreamQuery, self.fail, self._not_ready

        def wait() -> None:
            (status,) = synchronize(stream)
            if status:
                fail("cudaStreamSynchronize", status)

        def poll() -> None:
            (status,) = query(stream)
            while status == not_ready:
                sleep(0)
                (status,) = query(stream)
            if status:
                fail("cudaStreamQuery", status)

        return wait if self.releases_gil else poll

    def idle(self, stream: Any) -> bool:
        """Whether all that was put on the stream has ended; never waits."""
        (status,) = self._runtime.cudaStreamQuery(stream)
        if status and status != self._not_ready:
            self.fail("cudaStreamQuery", status)
        return not status

    def handle(self, stream: Any) -> int:
        """The stream's address, as TensorRT takes it."""
        # int() of a handle is announced to go; what takes its place came with 12.9.1.
        if hasattr(stream, "__int__"):
            return int(stream)
        return int(importlib.import_module("cuda.bindings.utils").get_cuda_native_handle(stream))
