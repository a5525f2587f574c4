"""PyTorch as a runtime of ONNX graphs: a table from operators to torch functions, so that no model class is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.checks import check_feed, check_precision
from jetlens.backends.immediate import ImmediateLanes
from jetlens.device import cpu_model
from jetlens.errors import BackendError, ModelError
from jetlens.graph import GraphFacts, read_graph
from jetlens.registry import installed, require

if TYPE_CHECKING:
    from torch import device as TorchDevice  # noqa: N812

    from jetlens.backends.pytorch.graph import Program

__all__ = ["PyTorch", "PyTorchSession"]


class PyTorch:
    """The backend ``pytorch``."""

    name: ClassVar[str] = "pytorch"

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here and how to get it, or None."""
        absent = [package for package in ("torch", "onnx") if not installed(package)]
        if not absent:
            return None
        return f"{' and '.join(absent)} not installed: pip install 'jetlens[export]' (on a Jetson use JetPack's own torch)"

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> PyTorchSession:
        """Compiles an ONNX model from its bytes.

        Raises:
            BackendError: the runtime or the device is unavailable, or the precision cannot be had.
            ModelError: the graph is damaged, keeps data in other files or has an operator that is not in the table.
        """
        missing = cls.unavailable()
        if missing:
            raise BackendError(missing)
        facts = read_graph(model)
        facts.require_whole()
        check_precision("pytorch", options, facts.precision, "leave the precision away, or use backend openvino")
        torch = require("torch", extra="export", why="backend pytorch")
        from jetlens.backends.pytorch.graph import compile_graph

        device = _device(torch, options.device)
        with _threads(torch, options.threads):
            program = compile_graph(model, device)
        if set(program.inputs) != {row.name for row in facts.inputs}:
            raise ModelError("pytorch: the file is damaged: a name of an input is no text; export or copy it again")
        return PyTorchSession(torch, program, facts, device, options.threads)


class PyTorchSession(ImmediateLanes):
    """A compiled graph on one device."""

    def __init__(self, torch: Any, program: Program, graph: GraphFacts, device: TorchDevice, threads: int | None) -> None:
        self._torch = torch
        self._program: Program | None = program
        self._device = device
        self._threads = threads
        # An output that stands in a constant's memory must be copied before the caller owns it.
        self._constants = frozenset(_home(value) for value in program.template if value is not None)
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        name = cpu_model() if device.type == "cpu" else str(torch.cuda.get_device_name(device))
        self.facts = RunFacts("pytorch", str(torch.__version__), f"torch {device.type}", name, graph.precision)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays.

        Raises:
            BackendError: the inputs do not fit the graph, the session is closed or torch failed.
        """
        program, torch = self._program, self._torch
        if program is None:
            raise BackendError("pytorch: the session is closed; load the model again")
        check_feed("pytorch", self.inputs, inputs)
        with torch.inference_mode(), _threads(torch, self._threads), _full_precision(torch, self._device):
            tensors = [torch.from_numpy(_writable(inputs[name])).to(self._device) for name in program.inputs]
            results = program.run(tensors)
            lent = {*self._constants, *(_home(value) for value in tensors)}
            answers: dict[str, NDArray[Any]] = {}
            for name, value in zip(program.outputs, results, strict=True):
                array = value.contiguous().cpu().numpy()
                answers[name] = array.copy() if _home(value) in lent else array
                lent.add(_home(value))
        return answers

    def close(self) -> None:
        """Frees the model; closing twice is allowed."""
        self._program = None
        self._constants = frozenset()

    def __enter__(self) -> PyTorchSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _home(value: Any) -> int:
    """Where the memory of a tensor starts, the same for all its views."""
    return int(value.untyped_storage().data_ptr())


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The array as torch takes it without a warning; nothing here writes into it."""
    return np.ascontiguousarray(array) if array.flags.writeable else np.array(array, order="C")


def _device(torch: Any, wanted: str) -> TorchDevice:
    found = bool(torch.cuda.is_available())
    if wanted == "cuda" and not found:
        cause = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
        raise BackendError(f"pytorch: device cuda was asked for, but {cause}: use --device cpu, or see jetlens doctor")
    kind = "cuda" if found and wanted != "cpu" else "cpu"
    chosen: TorchDevice = torch.device(kind)
    return chosen


@contextmanager
def _threads(torch: Any, wanted: int | None) -> Iterator[None]:
    """Torch's thread count is the process's: it is set for one call and given back."""
    before = torch.get_num_threads()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _full_precision(torch: Any, device: TorchDevice) -> AbstractContextManager[None]:
    """On a GPU, convolutions without TF32: what is reported as fp32 is fp32."""
    if device.type == "cpu":
        return nullcontext()
    guard: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return guard
