"""Session and Backend: what every runtime offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from numpy.typing import NDArray

from jetlens.spec import TensorSpec

__all__ = ["Backend", "RunFacts", "Session", "SessionOptions"]

Device = Literal["auto", "cpu", "cuda"]
S = TypeVar("S", bound="Session")


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is asked to run.

    Attributes:
        device: ``auto`` takes a GPU if the runtime has one; ``cuda`` fails where there is none.
        precision: None takes the runtime's own default for the graph; ``fp32`` or ``bf16`` ask for that arithmetic.
        threads: threads inside one run, None for the runtime's own choice.
    """

    device: Device = "auto"
    precision: Literal["fp32", "bf16"] | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What really runs, read from the runtime after loading and never copied from the request.

    Attributes:
        backend: the backend's name.
        version: of the runtime.
        provider: execution provider or plug-in, such as ``CPUExecutionProvider`` or ``CPU``.
        device: the name of the processor it runs on.
        precision: arithmetic in force: fp32, fp16, bf16 or int8.
    """

    backend: str
    version: str
    provider: str
    device: str
    precision: str


class Session(Protocol):
    """A loaded model on one runtime; a context manager, safe to call from one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: RunFacts

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays."""
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
