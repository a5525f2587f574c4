"""Lanes: each has its stream, its buffers for the largest batch and, for every batch that it has run, a context and a CUDA graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import DeviceTimings
from jetlens.backends.tensorrt.cuda import Cuda
from jetlens.backends.tensorrt.engine import Layout, OpenEngine, Tensor, set_shapes, tensor_shape
from jetlens.errors import BackendError

__all__ = ["MOST_SHAPES", "Program", "Slot"]

MOST_SHAPES = 16
"""Batches of one lane that stay ready; the one that was not used for longest makes room for the next."""


@dataclass(slots=True)
class Program:
    """One batch size of one lane, ready to run.

    Attributes:
        inputs: page-locked arrays to write into, by name.
        copies: by name, a call that gives an output as an array of the caller's own.
        lent: the outputs without a copy, read-only; a copy where the engine has another type than the graph.
        filler: rows after the batch up to the smallest that the engine takes; zeroed before a run.
        enqueue: puts the run on the lane's stream, call by call.
        start: the same as one launch where it could be captured.
        context: kept for as long as its graph is launched.
        start_filled: as ``start``, of what lies on the device; None until it is wanted.
    """

    inputs: Mapping[str, NDArray[Any]]
    copies: tuple[tuple[str, Callable[[], NDArray[Any]]], ...]
    lent: tuple[tuple[str, Callable[[], NDArray[Any]]], ...]
    filler: tuple[NDArray[Any], ...]
    enqueue: Callable[..., None]
    start: Callable[[], None]
    context: Any
    graphs: ExitStack
    start_filled: Callable[[], None] | None = None

    def take(self) -> dict[str, NDArray[Any]]:
        """The outputs of a finished run as arrays of the caller's own."""
        return {name: copy() for name, copy in self.copies}

    def lend(self) -> dict[str, NDArray[Any]]:
        """The outputs of a finished run, which the next run writes over."""
        return {name: view() for name, view in self.lent}

    def free(self) -> None:
        """Gives graph and context back; it cannot run again."""
        self.start = _refuse
        try:
            self.graphs.close()
        finally:
            self.context = None


class Slot:
    """What one lane owns on host and device; one run at a time.

    Attributes:
        flying: a run was started and nobody has waited for its end.
        closed: all of it is freed.
        stream: CUDA's own handle.
        refusal: why the last batch that was prepared runs without a CUDA graph; empty where it has one.
    """

    def __init__(self, cuda: Cuda, opened: OpenEngine, layout: Layout, *, mapped: bool, timed: bool) -> None:
        self._cuda, self._opened, self._layout, self._mapped = cuda, opened, layout, mapped
        self.flying = self.closed = False
        self.refusal = ""
        self._borrowed: Sequence[NDArray[Any]] = ()
        self._programs: OrderedDict[int, Program] = OrderedDict()
        tensors = (*layout.inputs, *layout.outputs)
        with ExitStack() as owned:
            self.stream = cuda.stream()
            owned.callback(cuda.call, "cudaStreamDestroy", self.stream)
            self._handle = cuda.handle(self.stream)
            self._events = tuple(self._event(owned) for _ in range(4)) if timed else ()
            self._host = {row.name: cuda.pinned(row.size, mapped=mapped) for row in tensors}
            self._device = {
                row.name: cuda.mapped_address(self._host[row.name]) if mapped else self._memory(row.size, owned) for row in tensors
            }
            self._scratch = self._memory(max(1, layout.scratch), owned)
            self._owned = owned.pop_all()
        self.wait_for_stream = cuda.waiter(self.stream)

    def ready(self, batch: int) -> Program | None:
        """What runs a batch of that size, or None where it was not prepared."""
        found = self._programs.get(batch)
        if found is not None:
            self._programs.move_to_end(batch)
        return found

    def prepare(self, batch: int) -> Program:
        """Makes what runs a batch of that size, which takes one run and the capture of another.

        Each has an execution context of its own: a graph is valid for as long as nobody changes the context that it was captured from.
        """
        self._forget(down_to=MOST_SHAPES - 1)
        layout = self._layout
        context = self._context()
        run = max(batch, layout.batches[0])
        set_shapes(context, [row.name for row in layout.inputs], {row.name: row.shape for row in layout.inputs}, run)
        arrays: dict[str, NDArray[Any]] = {}
        for row in (*layout.inputs, *layout.outputs):
            shape = tensor_shape(context, row.name)
            size = prod(shape) * np.dtype(row.dtype).itemsize
            arrays[row.name] = self._host[row.name][:size].view(row.dtype).reshape(shape)
            if not context.set_tensor_address(row.name, self._device[row.name]):
                raise BackendError(f"tensorrt: the engine takes no buffer for {row.name!r}: {self._opened.messages.last_error()}")
        views = _views(layout, arrays, batch, run)
        enqueue, graphs = partial(self._enqueue, context, arrays), ExitStack()
        start = self._launch(enqueue, graphs)
        program = self._programs[batch] = Program(*views, enqueue=enqueue, start=start, context=context, graphs=graphs)
        return program

    def prepare_filled(self, program: Program) -> None:
        """Makes what runs it on pictures that were copied to the device one by one."""
        program.start_filled = self._launch(partial(program.enqueue, inputs=False), program.graphs)

    def start(self, program: Program) -> None:
        """Starts a run on the inputs that were written."""
        for rows in program.filler:
            rows.fill(0)
        self.flying = True
        program.start()

    def start_on(self, program: Program, name: str, addresses: Sequence[int], pictures: Sequence[NDArray[Any]]) -> None:
        """Starts a run on pictures that are copied from page-locked memory, one by one; they are kept until it has ended."""
        assert program.start_filled is not None
        self.flying, self._borrowed = True, pictures
        size, device = pictures[0].nbytes, self._device[name]
        for number, address in enumerate(addresses):
            self._cuda.copy(device + number * size, address, size, self.stream, to_device=True)
        program.start_filled()

    def wait(self) -> None:
        """Returns once the run has ended."""
        self.wait_for_stream()
        self.flying, self._borrowed = False, ()

    def done(self) -> bool:
        """Whether the run has ended; never waits."""
        if self.flying and self._cuda.idle(self.stream):
            self.flying, self._borrowed = False, ()
        return not self.flying

    def timings(self) -> DeviceTimings | None:
        """Of the run that has ended last, if the slot measures it."""
        if not self._events or self.closed:
            return None
        pairs = zip(self._events[:-1], self._events[1:], strict=True)
        return DeviceTimings(*(float(self._cuda.call("cudaEventElapsedTime", start, end)) for start, end in pairs))

    def close(self) -> None:
        """Waits for a run in flight and frees everything; twice is allowed."""
        if self.closed:
            return
        self.closed = True
        try:
            if self.flying:
                self.wait()
        finally:
            self._forget(down_to=0)
            self._host = {}
            self._owned.close()

    def _context(self) -> Any:
        """A new execution context; where the engine's profile serves one alone, this lane's others make room."""
        layout = self._layout
        for kept in (MOST_SHAPES, 0):
            self._forget(down_to=kept)
            context = self._opened.context(self._scratch, layout.scratch, dynamic=layout.dynamic, stream=self._handle)
            if context is not None:
                return context
        raise BackendError(
            "tensorrt: this plan was built without profile sharing, so that only one lane can run it: use 1 lane, "
            "or build it again with jetlens build (trtexec: --preview=+profileSharing0806)"
        )

    def _forget(self, *, down_to: int) -> None:
        """Frees the batches that were not used for longest."""
        while len(self._programs) > down_to:
            _, oldest = self._programs.popitem(last=False)
            oldest.free()

    def _event(self, owned: ExitStack) -> Any:
        event = self._cuda.call("cudaEventCreate")
        owned.callback(self._cuda.call, "cudaEventDestroy", event)
        return event

    def _memory(self, size: int, owned: ExitStack) -> int:
        address = self._cuda.allocate(size)
        owned.callback(self._cuda.free, address)
        return address

    def _launch(self, enqueue: Callable[..., None], graphs: ExitStack) -> Callable[[], None]:
        """One launch of a run where it can be captured, else its calls."""
        graph = self._captured(enqueue)
        if graph is None:
            return partial(enqueue, captured=False)
        graphs.callback(self._cuda.call, "cudaGraphExecDestroy", graph)
        return self._cuda.launcher(graph, self.stream)

    def _captured(self, enqueue: Callable[..., None]) -> Any:
        """The executable graph of a run, or None where it cannot be captured."""
        # The first call of a context sets things up that must not be captured.
        self.flying = True
        enqueue(captured=False)
        try:
            self.wait()
        except BaseException:
            # The context must not go while it still runs.
            self.wait()
            raise
        try:
            graph = self._cuda.capture(self.stream, partial(enqueue, captured=True))
        except BackendError as error:
            self.refusal = str(error)
            return None
        self.refusal = ""
        return graph

    def _enqueue(self, context: Any, arrays: Mapping[str, NDArray[Any]], *, captured: bool, inputs: bool = True) -> None:
        """Copies in, computes and copies out, with events between where times are measured."""
        self._record(0, captured)
        if inputs:
            self._copy(self._layout.inputs, arrays, to_device=True)
        self._record(1, captured)
        if not context.execute_async_v3(self._handle):
            raise BackendError(f"tensorrt failed while it ran: {self._opened.messages.last_error()}")
        self._record(2, captured)
        self._copy(self._layout.outputs, arrays, to_device=False)
        self._record(3, captured)

    def _record(self, index: int, captured: bool) -> None:
        if self._events:
            self._cuda.record(self._events[index], self.stream, captured=captured)

    def _copy(self, tensors: tuple[Tensor, ...], arrays: Mapping[str, NDArray[Any]], *, to_device: bool) -> None:
        if self._mapped:
            return
        for row in tensors:
            host, device, size = arrays[row.name].ctypes.data, self._device[row.name], arrays[row.name].nbytes
            if size:
                destination, source = (device, host) if to_device else (host, device)
                self._cuda.copy(destination, source, size, self.stream, to_device=to_device)


def _views(layout: Layout, arrays: Mapping[str, NDArray[Any]], batch: int, run: int) -> tuple[Any, Any, Any, Any]:
    """The first ``batch`` rows of arrays for ``run``, as the fields of a program: inputs, copies, lent and filler."""
    odd = next((row.name for row in layout.outputs if batch != run and row.shape[:1] != (-1,)), None)
    if odd is not None:
        raise BackendError(
            f"tensorrt: output {odd!r} has no batch axis, so that fewer than {run} pictures cannot be filled up; run {run} or more"
        )
    rows = {name: array if batch == run else array[:batch] for name, array in arrays.items()}
    copies: list[tuple[str, Callable[[], NDArray[Any]]]] = []
    lent: list[tuple[str, Callable[[], NDArray[Any]]]] = []
    for row in layout.outputs:
        view = rows[row.name]
        view.flags.writeable = False
        cast = partial(view.astype, row.wanted)
        same = row.wanted == row.dtype
        copies.append((row.name, view.copy if same else cast))
        lent.append((row.name, view.view if same else cast))
    inputs = MappingProxyType({row.name: rows[row.name] for row in layout.inputs})
    filler = tuple(arrays[row.name][batch:] for row in layout.inputs) if batch != run else ()
    return inputs, tuple(copies), tuple(lent), filler


def _refuse() -> None:
    raise BackendError("tensorrt: the session is closed; load the model again")
