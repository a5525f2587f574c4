"""What a network runs at without jetlens' engines: PyTorch as it stands, compiled, as a CUDA graph, and torch2trt; optional, for comparison."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import BackendError, UnknownNameError
from jetlens.registry import installed, require

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BASELINES", "Baseline", "BaselineRow", "open_baseline", "unavailable"]

WARM_UP = 5


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """One way to run a PyTorch network.

    Attributes:
        precision: of weights and activations; TF32 stays off in fp32. Half precision runs in channels-last memory.
        engine: ``eager`` calls the network, ``compile`` is ``torch.compile(mode="reduce-overhead")``, ``graph`` replays a CUDA graph.
    """

    precision: Literal["fp32", "fp16"]
    engine: Literal["eager", "compile", "graph", "torch2trt"]


BASELINES: Mapping[str, BaselineRow] = {
    "torch-eager-fp32": BaselineRow("fp32", "eager"),
    "torch-eager-fp16": BaselineRow("fp16", "eager"),
    "torch-compile-fp16": BaselineRow("fp16", "compile"),
    "torch-graph-fp32": BaselineRow("fp32", "graph"),
    "torch-graph-fp16": BaselineRow("fp16", "graph"),
    "torch2trt-fp16": BaselineRow("fp16", "torch2trt"),
}
"""Name to row."""


def unavailable(name: str, device: str = "cuda") -> str | None:
    """Why a baseline cannot run here and what it takes, or None where it can.

    Raises:
        UnknownNameError: there is no such baseline.
    """
    row = _row(name)
    if not installed("torch"):
        return f"{name} needs torch: pip install 'jetlens[torch]' (on a Jetson use JetPack's own package)"
    torch = require("torch", extra="torch", why=name)
    if device == "cuda" and not torch.cuda.is_available():
        return f"{name} needs a GPU that this torch can use; torch.cuda.is_available() is False here"
    if device != "cuda" and (row.engine != "eager" or row.precision != "fp32"):
        return f"{name} runs on a GPU only; on the CPU there is torch-eager-fp32"
    if row.engine == "compile" and not (hasattr(torch, "compile") and installed("triton")):
        return f"{name} needs torch 2.0 or later with triton; here is torch {torch.__version__}, triton {installed('triton')}"
    if row.engine == "torch2trt" and not installed("torch2trt"):
        return f"{name} is a baseline only and torch2trt is not installed; it is built from its source, for the Python that has torch and tensorrt"
    return None


def open_baseline(
    name: str, network: nn.Module, mean: Sequence[float], std: Sequence[float], batch: NDArray[np.uint8], device: str = "cuda"
) -> Baseline:
    """Puts a network on the device the way a baseline runs it, and runs it until it is warm.

    Args:
        network: takes normalised float pixels [N, C, H, W]; its first or only output is what counts.
        mean: in grey levels, by channel; subtracted on the device.
        std: in grey levels, by channel.
        batch: pictures [N, H, W, C] of the one shape that will be run.

    Raises:
        UnknownNameError: there is no such baseline.
        BackendError: it cannot run here; the message says what it takes.
    """
    missing = unavailable(name, device)
    if missing:
        raise BackendError(missing)
    return Baseline(_row(name), network, mean, std, batch, device)


def _row(name: str) -> BaselineRow:
    if name not in BASELINES:
        raise UnknownNameError("baseline", name, BASELINES)
    return BASELINES[name]


class Baseline:
    """A network ready to run pictures of one shape; a context manager."""

    def __init__(
        self, row: BaselineRow, network: nn.Module, mean: Sequence[float], std: Sequence[float], batch: NDArray[np.uint8], device: str
    ) -> None:
        self._torch: Any = require("torch", extra="torch", why="a baseline in PyTorch")
        self._device = device
        if device == "cuda":
            self._torch.backends.cuda.matmul.allow_tf32 = False
            self._torch.backends.cudnn.allow_tf32 = False
            self._torch.backends.cudnn.benchmark = True
        self._half = row.precision == "fp16"
        self._network = self._placed(network)
        self._mean = self._torch.tensor(mean, device=device)
        self._scale = 1 / self._torch.tensor(std, device=device)
        self._host = self._torch.from_numpy(np.ascontiguousarray(batch)).clone()
        if device == "cuda":
            self._host = self._host.pin_memory()
        self._pixels = self._host.to(device)
        began = time.perf_counter()
        self._step = self._made(row.engine)
        self._answer: Any = None
        for _ in range(WARM_UP):
            self.run(batch)
        self.ready_s = time.perf_counter() - began

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """The network's first output for pictures on the host, back on the host; the array is reused by the next run."""
        self._host.numpy()[...] = images
        with self._torch.no_grad():
            self._pixels.copy_(self._host, non_blocking=True)
            answer = self._step()
            if self._answer is None:
                self._answer = self._torch.empty(answer.shape, dtype=answer.dtype, pin_memory=self._device == "cuda")
            self._answer.copy_(answer, non_blocking=True)
        self._wait()
        result: NDArray[Any] = self._answer.numpy()
        return result

    def compute_ms(self, count: int) -> list[float]:
        """Times of the network alone, pictures and answer staying on the device, by CUDA events (by the clock on a CPU)."""
        times = []
        for _ in range(count):
            if self._device != "cuda":
                began = time.perf_counter()
                with self._torch.no_grad():
                    self._step()
                times.append(1000 * (time.perf_counter() - began))
                continue
            first, last = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
            with self._torch.no_grad():
                first.record()
                self._step()
                last.record()
            last.synchronize()
            times.append(float(first.elapsed_time(last)))
        return times

    def close(self) -> None:
        """Frees the network; closing twice is allowed."""
        self._step = self._closed
        self._network = self._answer = None
        if self._device == "cuda":
            self._torch.cuda.empty_cache()

    def __enter__(self) -> Baseline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _closed(self) -> Tensor:
        raise BackendError("this baseline was closed; open it again with open_baseline")

    def _placed(self, network: nn.Module) -> Any:
        placed: Any = copy.deepcopy(network).eval().to(self._device)
        return placed.half().to(memory_format=self._torch.channels_last) if self._half else placed.float()

    def _whole(self, network: Any) -> Callable[[Tensor], Tensor]:
        """The network behind its normalisation, from pictures to its first output."""
        mean, scale, half = self._mean, self._scale, self._half

        def forward(pixels: Tensor) -> Tensor:
            x = ((pixels.float() - mean) * scale).permute(0, 3, 1, 2)  # uint8 NHWC permuted is channels-last already
            answer = network(x.half() if half else x.contiguous())
            first: Tensor = answer[0] if isinstance(answer, (tuple, list)) else answer
            return first

        return forward

    def _made(self, engine: str) -> Callable[[], Tensor]:
        return _ENGINES[engine](self)

    def _eager(self) -> Callable[[], Tensor]:
        forward = self._whole(self._network)
        return lambda: forward(self._pixels)

    def _compiled(self) -> Callable[[], Tensor]:
        forward = self._torch.compile(self._whole(self._network), mode="reduce-overhead")
        return lambda: forward(self._pixels)

    def _graphed(self) -> Callable[[], Tensor]:
        torch, forward = self._torch, self._whole(self._network)
        with torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries choose their kernels and workspaces outside the capture
                    forward(self._pixels)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                answer = forward(self._pixels)

        def replay() -> Tensor:
            graph.replay()
            return answer

        return replay

    def _torch2trt(self) -> Callable[[], Tensor]:
        convert: Any = require("torch2trt", extra="export", why="the baseline torch2trt").torch2trt
        example = self._torch.zeros_like(self._pixels, dtype=self._torch.float16).permute(0, 3, 1, 2).contiguous()
        converted = convert(self._network, [example], fp16_mode=True)
        forward = self._whole(converted)
        return lambda: forward(self._pixels)

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.current_stream().synchronize()


_ENGINES: Mapping[str, Callable[[Baseline], Callable[[], Any]]] = {
    "eager": Baseline._eager,
    "compile": Baseline._compiled,
    "graph": Baseline._graphed,
    "torch2trt": Baseline._torch2trt,
}
