"""The bound: one CUDA graph of upload, engine and download between page-locked buffers, launched by hand."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

try:
    from cuda.bindings import runtime as cudart
except ImportError:
    from cuda import cudart

__all__ = ["RawEngine", "RawRun", "check", "memory_used"]


def check(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, or its error raised."""
    error, *values = answer
    if error != cudart.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {error}")
    return values[0] if len(values) == 1 else tuple(values)


def memory_used() -> int:
    """Bytes of the GPU's memory in use, by whomever."""
    free, total = check(cudart.cudaMemGetInfo())
    return int(total - free)


class RawEngine:
    """A deserialized plan, kept with its runtime."""

    def __init__(self, plan: bytes) -> None:
        self._logger = trt.Logger(trt.Logger.WARNING)
        trt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = trt.Runtime(self._logger)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise RuntimeError("the plan cannot be deserialized")


class RawRun:
    """One execution context with its buffers, its stream and two graphs: with the copies and without."""

    def __init__(self, raw: RawEngine, batch: int) -> None:
        self._raw = raw  # must outlive its context
        self.context = raw.engine.create_execution_context()
        self.stream = check(cudart.cudaStreamCreate())
        self.arrays: dict[str, NDArray[Any]] = {}
        self._held: list[tuple[int, int]] = []
        self._inputs: list[tuple[int, int, int]] = []
        self._outputs: list[tuple[int, int, int]] = []
        # TensorRT 8.6 gives the profile to the first context alone.
        if self.context.active_optimization_profile != 0:
            self.context.set_optimization_profile_async(0, int(self.stream))
        names = [raw.engine.get_tensor_name(i) for i in range(raw.engine.num_io_tensors)]
        for name in sorted(names, key=lambda name: raw.engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT):
            self._tensor(raw.engine, name, batch)
        self._enqueue()
        check(cudart.cudaStreamSynchronize(self.stream))
        self._whole = self._captured(copies=True)
        self._alone = self._captured(copies=False)
        self._events = [check(cudart.cudaEventCreate()) for _ in range(2)]

    def _tensor(self, engine: Any, name: str, batch: int) -> None:
        given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if given:
            self.context.set_input_shape(name, (batch, *tuple(engine.get_tensor_shape(name))[1:]))
        shape = tuple(self.context.get_tensor_shape(name))
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * dtype.itemsize
        host, device = check(cudart.cudaHostAlloc(size, 0)), check(cudart.cudaMalloc(size))
        self._held.append((host, device))
        self.arrays[name] = np.frombuffer((ctypes.c_byte * size).from_address(host), dtype).reshape(shape)
        (self._inputs if given else self._outputs).append((host, device, size))
        self.context.set_tensor_address(name, device)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(int(self.stream)):
            raise RuntimeError("execute_async_v3 failed")

    def _captured(self, *, copies: bool) -> Any:
        kind = cudart.cudaMemcpyKind
        check(cudart.cudaStreamBeginCapture(self.stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        for host, device, size in self._inputs if copies else ():
            check(cudart.cudaMemcpyAsync(device, host, size, kind.cudaMemcpyHostToDevice, self.stream))
        self._enqueue()
        for host, device, size in self._outputs if copies else ():
            check(cudart.cudaMemcpyAsync(host, device, size, kind.cudaMemcpyDeviceToHost, self.stream))
        graph = check(cudart.cudaStreamEndCapture(self.stream))
        launched = check(cudart.cudaGraphInstantiate(graph, 0))
        check(cudart.cudaGraphDestroy(graph))
        return launched

    def start(self) -> None:
        """Launches upload, engine and download."""
        cudart.cudaGraphLaunch(self._whole, self.stream)

    def wait(self) -> None:
        """Until the answer is in the page-locked output."""
        check(cudart.cudaStreamSynchronize(self.stream))

    def compute_ms(self) -> float:
        """The engine alone, between events."""
        first, last = self._events
        cudart.cudaEventRecord(first, self.stream)
        cudart.cudaGraphLaunch(self._alone, self.stream)
        cudart.cudaEventRecord(last, self.stream)
        check(cudart.cudaEventSynchronize(last))
        return float(check(cudart.cudaEventElapsedTime(first, last)))

    def close(self) -> None:
        """Frees graphs, events, buffers and the stream."""
        check(cudart.cudaStreamSynchronize(self.stream))
        self.arrays.clear()
        for graph in (self._whole, self._alone):
            cudart.cudaGraphExecDestroy(graph)
        for event in self._events:
            cudart.cudaEventDestroy(event)
        for host, device in self._held:
            cudart.cudaFreeHost(host)
            cudart.cudaFree(device)
        self._held.clear()
        cudart.cudaStreamDestroy(self.stream)
        del self.context
