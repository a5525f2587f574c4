"""TensorRtSession: an engine with its lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import DeviceTimings, Lane, RunFacts
from jetlens.backends.checks import check_feed, check_pictures
from jetlens.backends.tensorrt.cuda import Cuda
from jetlens.backends.tensorrt.engine import Layout, OpenEngine
from jetlens.backends.tensorrt.lanes import Program, Slot
from jetlens.backends.tensorrt.pages import LockedPages
from jetlens.errors import BackendError

__all__ = ["TensorRtLane", "TensorRtPending", "TensorRtSession"]


class TensorRtLane:
    """Page-locked input arrays to write into.

    Attributes:
        inputs: by name; what they hold at first is not defined.
    """

    def __init__(self, session: TensorRtSession, slot: Slot, program: Program) -> None:
        self.inputs: Mapping[str, NDArray[Any]] = program.inputs
        self._session = session
        self._held: tuple[Slot, Program] | None = (slot, program)
        self._start: Callable[[], None] = partial(slot.start, program)

    def borrow(self, name: str, pictures: Sequence[NDArray[Any]]) -> None:
        """Takes pictures for the first rows of an input; where they fill it, those in memory that came before are not copied on the host.

        Raises:
            BackendError: they are not of the input's type and shape, or too many; or the lane is spent.
        """
        page = self.inputs[name]
        check_pictures(name, page, pictures)
        if self._held is None:
            raise BackendError("tensorrt: this lane was submitted or released before; take a new one with lane()")
        slot, program = self._held
        found = self._session.addresses(slot, program, pictures) if len(pictures) == len(page) else [None] * len(pictures)
        for row, picture, address in zip(page, pictures, found, strict=False):
            if address is None:
                np.copyto(row, picture)
        self._start = partial(slot.start, program)
        if any(found):
            own = page.ctypes.data
            addresses = [address or own + number * pictures[0].nbytes for number, address in enumerate(found)]
            self._start = partial(slot.start_on, program, name, addresses, pictures)

    def hand_over(self, session: TensorRtSession) -> tuple[Slot, Program, Callable[[], None]]:
        """What the lane holds, for a session to run, and what starts the run; the lane is spent then.

        Raises:
            BackendError: it is spent already, or another session's.
        """
        if self._held is None or session is not self._session:
            raise BackendError("tensorrt: this lane was submitted or released before, or is another session's; take a new one with lane()")
        held, self._held = self._held, None
        return *held, self._start

    def release(self) -> None:
        """Gives the lane back without a run; twice is allowed."""
        if self._held is not None:
            self._session.give_back(self._held[0])
            self._held = None


class TensorRtPending:
    """A run in flight on the GPU."""

    __slots__ = ("_answer", "_program", "_session", "_slot", "_timings")

    def __init__(self, session: TensorRtSession, slot: Slot, program: Program) -> None:
        self._session = session
        self._slot: Slot | None = slot
        self._program: Program | None = program
        self._answer: dict[str, NDArray[Any]] | None = None
        self._timings: DeviceTimings | None = None

    @property
    def timings(self) -> DeviceTimings | None:
        """On the device, once the run has ended and if the session measures it."""
        if self._timings is None and self._slot is not None and self._slot.done():
            self._timings = self._slot.timings()
        return self._timings

    def done(self) -> bool:
        """Whether the answer is there; never waits."""
        return self._slot is None or self._slot.done()

    def result(self) -> dict[str, NDArray[Any]]:
        """Waits for the outputs and copies them; the caller owns them, and the lane is free again.

        Raises:
            BackendError: the run failed, or was released or closed before its answer was taken.
        """
        if self._answer is None:
            self._answer = self._ended().take()
            self.release()
        return self._answer

    def view(self) -> Mapping[str, NDArray[Any]]:
        """Waits for the outputs and lends them read-only, without a copy; valid until ``release``.

        Raises:
            BackendError: the run failed, or was released or closed.
        """
        return self._ended().lend()

    def release(self) -> None:
        """Frees the lane; twice is allowed."""
        if self._slot is not None:
            self._timings = self.timings
            self._session.give_back(self._slot)
            self._slot = self._program = None

    def _ended(self) -> Program:
        if self._slot is None or self._program is None or self._slot.closed:
            why = "the session is closed" if self._slot is not None else "it was released"
            raise BackendError(f"tensorrt: the answer of this run is gone, since {why}; take result() first")
        if self._slot.flying:
            self._slot.wait()
        return self._program


class TensorRtSession:
    """A TensorRT engine on the GPU with one or several lanes.

    Several threads may fill lanes, submit and wait at once, each with a lane of its own: it belongs to who took it, and then to the run that
    was started on it until its answer is taken.
    """

    def __init__(self, opened: OpenEngine, cuda: Cuda, layout: Layout, facts: RunFacts, *, lanes: int, mapped: bool, timed: bool) -> None:
        self.facts = facts
        self.inputs = tuple(row.spec() for row in layout.inputs)
        self.outputs = tuple(row.spec() for row in layout.outputs)
        self._opened, self._layout = opened, layout
        self._preparing = Lock()
        # Times on the device belong to one copy of all inputs; mapped memory is read where it lies, by the engine itself.
        self._pages = None if mapped or timed or len(layout.inputs) > 1 else LockedPages(cuda)
        # The names, types and shapes after the batch axis that every call compares.
        fixed = not layout.dynamic
        self._takes = tuple((row.name, np.dtype(row.dtype), row.shape if fixed else row.shape[1:]) for row in layout.inputs)
        self._free: deque[Slot] = deque()
        self._slots: tuple[Slot, ...] = ()
        try:
            for _ in range(lanes):
                self._slots = (*self._slots, Slot(cuda, opened, layout, mapped=mapped, timed=timed))
            for slot in self._slots:
                self._prepared(slot, layout.batches[1])
        except BaseException:
            self.close()
            raise
        self._free.extend(self._slots)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays.

        Raises:
            BackendError: the inputs do not fit, all lanes are in flight, the session is closed or the engine failed.
        """
        slot, program = self._filled(inputs)
        try:
            slot.start(program)
            slot.wait()
            return program.take()
        finally:
            self.give_back(slot)

    def lane(self, batch: int = 1) -> TensorRtLane:
        """Lends page-locked input arrays for ``batch`` pictures.

        Raises:
            BackendError: the engine does not take that batch, or all lanes are in flight or lent.
        """
        self._check_batch(batch)
        slot = self._take()
        try:
            return TensorRtLane(self, slot, self._prepared(slot, batch))
        except BaseException:
            self.give_back(slot)
            raise

    def submit(self, inputs: Mapping[str, NDArray[Any]] | Lane) -> TensorRtPending:
        """Starts a run on arrays, which are copied, or on a lane that was filled, whose arrays must not be written to until the answer is taken.

        Raises:
            BackendError: the inputs do not fit, all lanes are in flight, the session is closed or the engine failed.
        """
        if isinstance(inputs, TensorRtLane):
            slot, program, start = inputs.hand_over(self)
        else:
            slot, program = self._filled(_arrays(inputs))
            start = partial(slot.start, program)
        try:
            self._check_open(slot)
            start()
        except BaseException:
            self.give_back(slot)
            raise
        return TensorRtPending(self, slot, program)

    def addresses(self, slot: Slot, program: Program, pictures: Sequence[NDArray[Any]]) -> list[int | None]:
        """Where the GPU can copy each picture from; None where it cannot."""
        if self._pages is None or program.filler or slot.closed:
            return [None] * len(pictures)
        found = [self._pages.address(picture) for picture in pictures]
        if any(found) and program.start_filled is None:
            with self._preparing:
                slot.prepare_filled(program)
        return found

    def give_back(self, slot: Slot) -> None:
        """Takes a lane back into the free ones; a run that is still in flight on it is waited for by the next who takes it."""
        if not slot.closed:
            self._free.append(slot)

    def close(self) -> None:
        """Waits for the runs in flight and frees everything; closing twice is allowed."""
        self._free.clear()
        try:
            for slot in self._slots:
                slot.close()
            if self._pages is not None:
                self._pages.close()
        finally:
            self._opened.close()

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _filled(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Slot, Program]:
        """A free lane with the inputs copied into it."""
        batch = self._batch_of(inputs)
        slot = self._take()
        try:
            program = self._prepared(slot, batch)
            for name, page in program.inputs.items():
                np.copyto(page, inputs[name])
        except BaseException:
            self.give_back(slot)
            raise
        return slot, program

    def _batch_of(self, inputs: Mapping[str, NDArray[Any]]) -> int:
        if not self._layout.dynamic:
            if len(inputs) != len(self._takes) or any(
                (array := inputs.get(name)) is None or array.shape != shape or array.dtype != dtype for name, dtype, shape in self._takes
            ):
                check_feed("tensorrt", self.inputs, inputs)
            return self._layout.batches[1]
        batch = 0
        for name, dtype, shape in self._takes:
            array = inputs.get(name)
            if array is None or array.shape[1:] != shape or array.dtype != dtype or len(inputs) != len(self._takes):
                check_feed("tensorrt", self.inputs, inputs)
                raise BackendError(f"tensorrt: input {name!r} does not fit: {dtype} [N, {', '.join(map(str, shape))}] is taken")
            if batch and len(array) != batch:
                raise BackendError(f"tensorrt: the inputs have batches of {batch} and {len(array)} pictures; feed as many in each")
            batch = len(array)
        self._check_batch(batch)
        return batch

    def _check_batch(self, batch: int) -> None:
        largest = self._layout.batches[2]
        if not self._layout.dynamic and batch != largest:
            raise BackendError(
                f"tensorrt: a batch of {batch} was asked for, but this engine takes {largest} exactly; export it with a dynamic batch"
            )
        if not 1 <= batch <= largest:
            raise BackendError(
                f"tensorrt: a batch of {batch} was asked for, but this engine takes 1 to {largest}; build one for more with --batch 1:{largest}:{max(batch, largest)}"
            )

    def _take(self) -> Slot:
        try:
            slot = self._free.pop()
        except IndexError:
            self._check_open(None)
            raise BackendError(
                f"tensorrt: all {len(self._slots)} lanes are in flight or lent; take a result first, or open the session with more lanes"
            ) from None
        if slot.flying:
            try:
                slot.wait()
            except BaseException:
                self.give_back(slot)
                raise
        return slot

    def _check_open(self, slot: Slot | None) -> None:
        if (slot or self._slots[0]).closed:
            raise BackendError("tensorrt: the session is closed; load the model again")

    def _prepared(self, slot: Slot, batch: int) -> Program:
        program = slot.ready(batch)
        if program is not None:
            return program
        with self._preparing:
            program = slot.prepare(batch)
        if slot.refusal and not any(note.startswith("no CUDA graph") for note in self.facts.notes):
            self.facts = replace(self.facts, notes=(*self.facts.notes, f"no CUDA graph, plain calls instead: {slot.refusal}"))
        return program


def _arrays(inputs: Mapping[str, NDArray[Any]] | Lane) -> Mapping[str, NDArray[Any]]:
    if not isinstance(inputs, Mapping):
        raise BackendError("tensorrt: this lane is another session's; take one with this session's lane()")
    return inputs
