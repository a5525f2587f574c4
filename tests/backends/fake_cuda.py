"""A CUDA runtime without a GPU that forgives nothing: work happens late, freed memory is never touched, and all that is taken is counted."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fake_enums import Member

SUCCESS, INVALID, MEMORY, CAPTURE_INVALIDATED, NO_DEVICE, NOT_READY = (
    Member("cudaSuccess", 0),
    Member("cudaErrorInvalidValue", 1),
    Member("cudaErrorMemoryAllocation", 2),
    Member("cudaErrorStreamCaptureInvalidated", 901),
    Member("cudaErrorNoDevice", 100),
    Member("cudaErrorNotReady", 600),
)


@dataclass
class Stream:
    """Work that was put on it and has not run yet; ``captured`` while it is recorded into a graph."""

    number: int
    work: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None
    broken: bool = False

    def __int__(self) -> int:
        return self.number

    def put(self, work: Callable[[], None]) -> None:
        (self.work if self.captured is None else self.captured).append(work)


@dataclass
class Graph:
    """Recorded work; also its executable form."""

    work: list[Callable[[], None]]
    number: int

    def __int__(self) -> int:
        return self.number


@dataclass
class Event:
    """When it was reached, on a clock that every piece of work moves by a millisecond."""

    at_ms: float | None = None


class FakeCudart:
    """The functions of ``cuda.cudart`` that jetlens calls; every one returns a tuple that begins with its status.

    Attributes:
        calls: how often each function was called.
        launches: of graphs.
        slow: queries that find a stream busy before its work is done.
        memory_limit: bytes of device memory.
    """

    __name__ = "cuda.cudart"
    cudaError_t = SimpleNamespace(cudaErrorNotReady=NOT_READY)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrIntegrated=18)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaHostAllocPortable, cudaHostAllocMapped, cudaStreamNonBlocking, cudaEventRecordExternal = 1, 2, 1, 1  # noqa: N815
    cudaHostRegisterPortable = 1  # noqa: N815

    def __init__(self, *, integrated: bool = False, devices: int = 1, slow: int = 0, memory_limit: int = 1 << 30) -> None:
        self.calls: Counter[str] = Counter()
        self.slow, self.integrated, self.devices, self.memory_limit = slow, integrated, devices, memory_limit
        self.capture_fails = self.locking_fails = False
        self.host: dict[int, Any] = {}
        self.mapped: set[int] = set()
        self.locked: set[int] = set()
        self.device: dict[int, Any] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, Graph] = {}
        self.executables: dict[int, Graph] = {}
        self.events: list[Event] = []
        self.clock_ms = 0.0
        self.launches = 0
        self._number = 1000

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name.startswith("cuda") and callable(value):
            object.__getattribute__(self, "calls")[name] += 1
        return value

    def living(self) -> dict[str, int]:
        """What was taken and not given back."""
        kinds = ("host", "device", "streams", "graphs", "executables", "events")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}

    def block(self, address: int, size: int, *, on_device: bool) -> int:
        """Checks that the bytes lie in living memory that the GPU or the host may touch, and returns the address."""
        places = {**self.device, **{key: self.host[key] for key in self.mapped}} if on_device else self.host
        for start, memory in places.items():
            if start <= address and address + size <= start + ctypes.sizeof(memory):
                return address
        raise AssertionError(f"{size} bytes at {address:#x} are not in living {'device' if on_device else 'host'} memory")

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def drain(self, stream: Stream, count: int | None = None) -> None:
        work, stream.work = stream.work[:count], stream.work[len(stream.work) if count is None else count :]
        for piece in work:
            self.clock_ms += 1
            piece()

    # The runtime's functions, in the order of its manual.

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return (SUCCESS, self.devices) if self.devices else (NO_DEVICE, None)

    def cudaGetDevice(self) -> Any:  # noqa: N802
        return SUCCESS, 0

    def cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        return SUCCESS, SimpleNamespace(name=b"Fake H200\0\0\0")

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> Any:  # noqa: N802
        return SUCCESS, int(self.integrated) if attribute == 18 else 0

    def cudaGetLastError(self) -> Any:  # noqa: N802
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        stream = Stream(self.next_number())
        self.streams[stream.number] = stream
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream: Stream) -> Any:  # noqa: N802
        assert not stream.work, "a stream is destroyed with work on it"
        del self.streams[stream.number]
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream: Stream) -> Any:  # noqa: N802
        assert stream.number in self.streams
        assert stream.captured is None, "a stream is waited for while it is captured"
        self.drain(stream)
        return (SUCCESS,)

    def cudaStreamQuery(self, stream: Stream) -> Any:  # noqa: N802
        assert stream.number in self.streams
        self.drain(stream, 1 if self.slow else None)
        return (NOT_READY,) if stream.work else (SUCCESS,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> Any:  # noqa: N802
        assert stream.captured is None
        assert not stream.work, "a capture begins with work in flight"
        stream.captured, stream.broken = [], self.capture_fails
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: Stream) -> Any:  # noqa: N802
        assert stream.captured is not None
        work, stream.captured = stream.captured, None
        if stream.broken:
            return CAPTURE_INVALIDATED, None
        graph = Graph(work, self.next_number())
        self.graphs[graph.number] = graph
        return SUCCESS, graph

    def cudaGraphInstantiateWithFlags(self, graph: Graph, flags: int) -> Any:  # noqa: N802
        made = Graph(list(self.graphs[graph.number].work), self.next_number())
        self.executables[made.number] = made
        return SUCCESS, made

    def cudaGraphDestroy(self, graph: Graph) -> Any:  # noqa: N802
        del self.graphs[graph.number]
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graph: Graph) -> Any:  # noqa: N802
        del self.executables[graph.number]
        return (SUCCESS,)

    def cudaGraphLaunch(self, graph: Graph, stream: Stream) -> Any:  # noqa: N802
        assert graph.number in self.executables, "a graph is launched after it was destroyed"
        assert stream.number in self.streams
        self.launches += 1
        for piece in graph.work:
            stream.put(piece)
        return (SUCCESS,)

    def cudaEventCreate(self) -> Any:  # noqa: N802
        self.events.append(Event())
        return SUCCESS, self.events[-1]

    def cudaEventDestroy(self, event: Event) -> Any:  # noqa: N802
        self.events = [other for other in self.events if other is not event]
        return (SUCCESS,)

    def cudaEventRecord(self, event: Event, stream: Stream) -> Any:  # noqa: N802
        assert stream.captured is None, "an event of the host is recorded into a graph"
        return self._record(event, stream)

    def cudaEventRecordWithFlags(self, event: Event, stream: Stream, flags: int) -> Any:  # noqa: N802
        assert stream.captured is not None, "the external flag is for captures alone"
        return self._record(event, stream)

    def _record(self, event: Event, stream: Stream) -> Any:
        assert any(other is event for other in self.events)

        def reach() -> None:
            event.at_ms = self.clock_ms

        stream.put(reach)
        return (SUCCESS,)

    def cudaEventElapsedTime(self, start: Event, end: Event) -> Any:  # noqa: N802
        if start.at_ms is None or end.at_ms is None or not any(other is end for other in self.events):
            return INVALID, None
        return SUCCESS, end.at_ms - start.at_ms

    def cudaHostAlloc(self, size: int, flags: int) -> Any:  # noqa: N802
        memory = ctypes.create_string_buffer(b"\xab" * size, size)
        address = ctypes.addressof(memory)
        self.host[address] = memory
        if flags & 2:
            self.mapped.add(address)
        return SUCCESS, address

    def cudaFreeHost(self, address: int) -> Any:  # noqa: N802
        del self.host[address]
        self.mapped.discard(address)
        return (SUCCESS,)

    def cudaHostRegister(self, address: int, size: int, flags: int) -> Any:  # noqa: N802
        assert address not in self.host, "memory is locked twice"
        if self.locking_fails:
            return (INVALID,)
        self.host[address] = (ctypes.c_char * size).from_address(address)
        self.locked.add(address)
        return (SUCCESS,)

    def cudaHostUnregister(self, address: int) -> Any:  # noqa: N802
        self.locked.remove(address)
        del self.host[address]
        return (SUCCESS,)

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> Any:  # noqa: N802
        return (SUCCESS, address) if address in self.mapped else (INVALID, None)

    def cudaMalloc(self, size: int) -> Any:  # noqa: N802
        if sum(ctypes.sizeof(memory) for memory in self.device.values()) + size > self.memory_limit:
            return MEMORY, None
        memory = ctypes.create_string_buffer(b"\xcd" * size, size)
        self.device[ctypes.addressof(memory)] = memory
        return SUCCESS, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> Any:  # noqa: N802
        del self.device[address]
        return (SUCCESS,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: Stream) -> Any:  # noqa: N802
        def copy() -> None:
            ctypes.memmove(self.block(to, size, on_device=kind == 1), self.block(source, size, on_device=kind == 2), size)

        stream.put(copy)
        return (SUCCESS,)
