"""The CUDA runtime through cuda-python: memory, streams, events and graphs, every call checked."""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable
from importlib.util import find_spec
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
_DRIVER = "libcuda.so.1"


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
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver is installed ({_DRIVER} is missing)"
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
    """The calls that a session makes, on the current device of the calling thread (the first visible one unless it was changed)."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._not_ready = runtime.cudaError_t.cudaErrorNotReady
        self._block = _driver_wait()

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

    def lock_pages(self, address: int, size: int) -> bool:
        """Page-locks memory of this process, so that the GPU can read it where it lies; False where that cannot be. See ``unlock_pages``."""
        (status,) = self._runtime.cudaHostRegister(address, size, self._runtime.cudaHostRegisterPortable)
        if status:
            # Nobody else is to find this error.
            self._runtime.cudaGetLastError()
        return not status

    def unlock_pages(self, address: int) -> None:
        """Undoes ``lock_pages``."""
        self._runtime.cudaHostUnregister(address)

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
        The driver is asked to wait, not cuda-python: its releases before 12.9.1 would let no other Python thread run meanwhile.
        """
        query, synchronize, fail, not_ready = self._runtime.cudaStreamQuery, self._runtime.cudaStreamSynchronize, self.fail, self._not_ready
        block, handle = self._block, self.handle(stream)

        def wait() -> None:
            (status,) = query(stream)
            if status == not_ready:
                block(handle)
                # It returns at once now, and tells how the stream has ended.
                (status,) = synchronize(stream)
            if status:
                fail("cudaStreamSynchronize", status)

        return wait

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


def _driver_wait() -> Callable[[int], int]:
    """The driver's call that waits for a stream, by its address; called without the GIL. Where there is no driver, nothing."""
    try:
        wait = ctypes.CDLL(_DRIVER).cuStreamSynchronize
    except (OSError, AttributeError):
        return lambda handle: 0
    wait.argtypes, wait.restype = (ctypes.c_void_p,), ctypes.c_int
    return wait
