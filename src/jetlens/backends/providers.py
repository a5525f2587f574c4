"""ONNX Runtime's execution providers on NVIDIA GPUs: the one that was asked for runs the graph, or opening fails."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from jetlens.backends.base import SessionOptions
from jetlens.backends.checks import reason
from jetlens.engines.manifest import make_folder
from jetlens.errors import BackendError
from jetlens.folders import cache_folder
from jetlens.graph import GraphFacts

__all__ = ["CPU", "CUDA", "TENSORRT", "Opener", "open_cuda", "open_tensorrt", "placement"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_HEAVY = ("Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_MIB = 1 << 20


class Opener(Protocol):
    """Opens the model with the given providers."""

    def __call__(self, providers: list[Any], *, strict: bool = False, profile: Path | None = None) -> Any:
        """A session; ``strict`` refuses nodes on the CPU, ``profile`` is where a record of the runs goes."""
        ...


def open_cuda(opened: Opener, provider: tuple[str, dict[str, str]], graph: GraphFacts) -> tuple[Any, tuple[str, ...]]:
    """A session whose heavy nodes all run on the GPU, and notes on those that do not.

    The runtime itself puts nodes that compute shapes on the CPU, so that a graph with such nodes fails its own check; they are then named in
    a note, as long as convolutions and products are not among them, which one profiled run tells.

    Raises:
        BackendError: the provider does not start, or heavy nodes run on the CPU.
    """
    try:
        session = opened([provider], strict=True)
        _require(session, CUDA, "onnxruntime: device cuda")
        return session, ()
    except BackendError:
        raise
    except Exception as error:  # the runtime's own classes share no base but this
        if "fallback" not in str(error).lower():
            raise
    session = opened([provider, CPU])
    _require(session, CUDA, "onnxruntime: device cuda")
    places = placement(lambda folder: opened([provider, CPU], profile=folder), graph)
    elsewhere = {kind: count for (where, kind), count in places.items() if where != CUDA}
    heavy = [kind for kind in elsewhere if kind in _HEAVY]
    if heavy:
        raise BackendError(f"onnxruntime: device cuda was asked for, but its {_listed(heavy)} nodes would run on the CPU; use --device cpu")
    return session, (f"{sum(elsewhere.values())} of {places.total()} nodes run on the CPU: {_listed(elsewhere)}",) if elsewhere else ()


def open_tensorrt(opened: Opener, model: bytes, options: SessionOptions, graph: GraphFacts) -> Any:
    """A session whose every node runs in TensorRT; its engine is kept in a folder of this model in the cache.

    Raises:
        BackendError: the provider does not start, or does not take every node.
        OutputError: the folder cannot be made.
    """
    try:
        session = opened([(TENSORRT, _settings(model, options, graph))], strict=True)
    except Exception as error:  # the runtime's own classes share no base but this
        raise BackendError(
            f"onnxruntime-tensorrt: TensorRT does not run this whole graph here: {reason(error)}; use backend tensorrt or onnxruntime"
        ) from error
    _require(session, TENSORRT, "onnxruntime-tensorrt: TensorRT")
    return session


def placement(opened: Callable[[Path], Any], graph: GraphFacts) -> Counter[tuple[str, str]]:
    """How many nodes of each operator ran in each provider, by (provider, operator), read from the profile of one run on zeros."""
    feed = {row.name: np.zeros([axis if isinstance(axis, int) else 1 for axis in row.shape], row.dtype) for row in graph.inputs}
    with TemporaryDirectory(prefix="jetlens-") as folder:
        session = opened(Path(folder) / "run")
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = (row for row in events if row.get("cat") == "Node" and str(row.get("name", "")).endswith("_kernel_time"))
    return Counter((str(row["args"].get("provider")), str(row["args"].get("op_name"))) for row in kernels)


def _settings(model: bytes, options: SessionOptions, graph: GraphFacts) -> dict[str, str]:
    """The provider's options: the graph's precision allowed, the batch range of the build options, caches in a private folder."""
    folder = cache_folder("onnxruntime-tensorrt")
    own = folder / hashlib.sha256(model).hexdigest()[:24]
    for place in (folder, own):
        make_folder(place)
    build = options.build
    if not any(own.glob("*.engine")):
        options.report("onnxruntime-tensorrt: no engine of this model yet; it is built now, which takes minutes")
    settings = {
        "trt_fp16_enable": str(graph.precision in ("fp16", "int8")),
        "trt_int8_enable": str(graph.precision == "int8"),
        "trt_max_workspace_size": str(build.workspace_mib * _MIB),
        "trt_engine_cache_enable": str(build.save),
        "trt_engine_cache_path": str(own),
        "trt_timing_cache_enable": str(build.save and build.timing_cache),
        "trt_timing_cache_path": str(own),
    }
    if build.optimization_level is not None:
        settings["trt_builder_optimization_level"] = str(build.optimization_level)
    if build.dla_core is not None:
        settings |= {"trt_dla_enable": "True", "trt_dla_core": str(build.dla_core)}
    free = [row for row in graph.inputs if row.shape and isinstance(row.shape[0], str)]
    for kind, batch in zip(("min", "opt", "max"), build.batch, strict=True):
        if free:
            shapes = (f"{row.name}:{'x'.join(map(str, (batch, *row.shape[1:])))}" for row in free)
            settings[f"trt_profile_{kind}_shapes"] = ",".join(shapes)
    return settings


def _require(session: Any, provider: str, asked: str) -> None:
    """The runtime drops a provider that does not start without a word; the session's own list tells."""
    running = session.get_providers()
    if not running or running[0] != provider:
        raise BackendError(
            f"{asked} was asked for, but {provider} did not start and {', '.join(running) or 'nothing'} ran instead: "
            "check nvidia-smi, and that CUDA, cuDNN and TensorRT have the versions of this onnxruntime-gpu"
        )


def _listed(kinds: Iterable[str] | Mapping[str, int]) -> str:
    names = sorted(kinds)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
