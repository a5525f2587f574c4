"""Session and Backend: what every runtime offers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from numpy.typing import NDArray

from jetlens.engines.options import BuildOptions
from jetlens.spec import TensorSpec

__all__ = ["Backend", "Device", "DeviceTimings", "Lane", "Pending", "Precision", "RunFacts", "Session", "SessionOptions"]

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
S = TypeVar("S", bound="Session")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is asked to run.

    Attributes:
        device: ``auto`` takes a GPU if the runtime has one; ``cuda`` fails where there is none.
        precision: None takes the runtime's own default for the graph; a name asks for that arithmetic, and another fails.
        threads: threads inside one run, None for the runtime's own choice.
        lanes: how many runs may be in flight at once; runtimes on the CPU answer at once, however many.
        timed: measure copies and computing of each run on the device, where the runtime can.
        build: how TensorRT builds its engine.
        report: takes lines on what keeps the caller waiting, such as a build that takes minutes; they go to stderr unless told otherwise.
    """

    device: Device = "auto"
    precision: Precision | None = None
    threads: int | None = None
    lanes: int = 1
    timed: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)
    report: Callable[[str], None] = field(default=_to_stderr, compare=False)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What really runs, read from the runtime after loading and never copied from the request.

    Attributes:
        backend: the backend's name.
        version: of the runtime.
        provider: execution provider or plug-in, such as ``CPUExecutionProvider`` or ``CPU``.
        device: the name of the processor it runs on.
        precision: arithmetic in force: fp32, fp16, bf16 or int8.
        largest_batch: most pictures in one run where the batch axis is dynamic; None for any number.
        notes: what the user should know of how it came to run, such as an engine that was built for it; short lines.
    """

    backend: str
    version: str
    provider: str
    device: str
    precision: str
    largest_batch: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return any(word in self.provider.casefold() for word in ("cuda", "tensorrt", "gpu"))


@dataclass(frozen=True, slots=True)
class DeviceTimings:
    """Time on the device of one run, in milliseconds, between events on its stream."""

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float


class Lane(Protocol):
    """Input arrays lent to write into: page-locked where the runtime copies to a device.

    Attributes:
        inputs: by name, each for as many pictures as were asked for.
    """

    inputs: Mapping[str, NDArray[Any]]

    def borrow(self, name: str, pictures: Sequence[NDArray[Any]]) -> None:
        """Takes pictures for the first rows of an input, from where they lie if the runtime can read them there; else they are copied.

        They must not be written to until the answer was taken.

        Raises:
            BackendError: they are not of the input's type and shape, or too many.
        """
        ...

    def release(self) -> None:
        """Gives the lane back without a run; ``submit`` does so itself once the answer was taken."""
        ...


class Pending(Protocol):
    """A run in flight.

    Attributes:
        timings: on the device, after the run has ended and if the session was opened with ``timed``; otherwise None.
    """

    @property
    def timings(self) -> DeviceTimings | None: ...

    def done(self) -> bool:
        """Whether the answer is there; never waits."""
        ...

    def result(self) -> dict[str, NDArray[Any]]:
        """Waits for the outputs and copies them; the caller owns them, and the lane is free again."""
        ...

    def view(self) -> Mapping[str, NDArray[Any]]:
        """Waits for the outputs and lends them without a copy; valid until ``release``."""
        ...

    def release(self) -> None:
        """Frees the lane; twice is allowed."""
        ...


class Session(Protocol):
    """A loaded model on one runtime; a context manager, safe to call from one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: RunFacts

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays."""
        ...

    def lane(self, batch: int = 1) -> Lane:
        """Lends input arrays for ``batch`` pictures.

        Raises:
            BackendError: all lanes are in flight or lent; take a result first, or open the session with more.
        """
        ...

    def submit(self, inputs: Mapping[str, NDArray[Any]] | Lane) -> Pending:
        """Starts a run on arrays, which are copied, or on a lane that was filled; has read them when it returns, but for what the lane borrowed.

        Raises:
            BackendError: the inputs do not fit, or all lanes are in flight.
        """
        ...

    def close(self) -> None:
        """Frees the runtime's resources; closing twice is allowed."""
        ...

    def __enter__(self: S) -> S: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Backend(Protocol):
    """One runtime."""

    name: ClassVar[str]

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this runtime cannot be used here and how to get it, or None where it can; imports nothing heavy."""
        ...

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> Session:
        """Loads an ONNX model from its bytes: those whose hash was checked, and no external data can come in.

        Raises:
            BackendError: the runtime is unavailable, or what was asked for cannot be had.
            ModelError: the runtime refuses the graph.
        """
        ...
