"""TensorRT: engines from the cache, built when there is none, or the user's own plans that were trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.checks import check_precision, is_plan
from jetlens.backends.tensorrt.cuda import cuda_python, driver_problem, load_cuda
from jetlens.backends.tensorrt.engine import OpenEngine, read_layout
from jetlens.backends.tensorrt.session import TensorRtSession
from jetlens.engines.api import Messages, load_tensorrt, make_logger, open_plan, version_of
from jetlens.engines.cache import cached, obtain
from jetlens.engines.key import model_name
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Engine, PlanFacts
from jetlens.engines.trust import trusted
from jetlens.errors import BackendError, JetlensError
from jetlens.graph import GraphFacts, read_graph
from jetlens.registry import installed

__all__ = ["TensorRt", "TensorRtSession", "open_cached", "open_engine"]


class TensorRt:
    """The backend ``tensorrt``."""

    name: ClassVar[str] = "tensorrt"

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot be used here and how to get it, or None; imports neither TensorRT nor cuda-python."""
        if not installed("tensorrt"):
            return "tensorrt is not installed: on a Jetson use JetPack's own, elsewhere pip install tensorrt (NVIDIA GPU and driver needed)"
        if cuda_python() is None:
            return "cuda-python is not installed: pip install cuda-python (of the CUDA version's major number; PyCUDA does not do)"
        return driver_problem()

    @classmethod
    def open(cls, model: bytes, options: SessionOptions) -> TensorRtSession:
        """Loads an ONNX model, whose engine is taken from the cache or built, which takes minutes, or a plan that the user has trusted.

        Raises:
            BackendError: TensorRT, cuda-python or a GPU is missing, the precision or the device cannot be had, or the plan is not trusted.
            ModelError: the graph is damaged, keeps data in other files or TensorRT refuses it.
        """
        missing = cls.unavailable()
        if missing:
            raise BackendError(missing)
        if options.device == "cpu":
            raise BackendError(
                "tensorrt: device cpu was asked for, but TensorRT runs on NVIDIA GPUs only; use backend onnxruntime or openvino"
            )
        if is_plan(model):
            return open_engine(trusted(model), options)
        graph = read_graph(model, "the model")
        graph.require_whole()
        return open_engine(obtain(model, options.build, name=model_name(model), report=options.report), options, graph)


def open_cached(model: bytes, options: SessionOptions) -> TensorRtSession | None:
    """A session on the engine of an ONNX model that lies in the cache; None where there is none that can be used here. Nothing is built."""
    if options.device == "cpu" or TensorRt.unavailable() is not None:
        return None
    try:
        if not cached(model, options.build):
            return None
        graph = read_graph(model)
        return open_engine(obtain(model, options.build, name=model_name(model), builder=_build_nothing), options, graph)
    except JetlensError:
        return None


def open_engine(engine: Engine, options: SessionOptions, graph: GraphFacts | None = None, *, mapped: bool | None = None) -> TensorRtSession:
    """A session on an engine that was built here or is trusted.

    Args:
        graph: what the engine was built from, which says the types of its outputs.
        mapped: the GPU reads inputs and writes outputs in host memory, without copies; None where the two share one memory, as on a Jetson.

    Raises:
        BackendError: the engine does not load, has another precision than was asked for, or is of a kind that jetlens does not run.
    """
    facts = engine.manifest.facts
    check_precision("tensorrt", options, facts.precision, "give a graph of that precision: jetlens export --precision")
    if options.lanes < 1:
        raise BackendError(f"tensorrt: {options.lanes} lanes were asked for; give 1 or more")
    tensorrt = load_tensorrt()
    version = version_of(tensorrt)
    cuda = load_cuda()
    messages = Messages()
    # The context of CUDA must be there before TensorRT allocates.
    mapped = cuda.integrated() if mapped is None else mapped
    logger = make_logger(tensorrt, messages)
    runtime, loaded = open_plan(tensorrt, engine.plan, logger, messages)
    opened = OpenEngine(tensorrt, version, (logger, runtime), loaded, messages)
    layout = read_layout(opened, tensorrt, {row.name: row.dtype for row in graph.outputs} if graph else {})
    run_facts = RunFacts(
        backend=TensorRt.name,
        version=version.text,
        provider="TensorRT",
        device=cuda.device_name(),
        precision=facts.precision,
        largest_batch=layout.batches[2] if layout.dynamic else None,
        notes=(*_origin(engine), *facts.notes, *(("mapped host memory, no copies",) if mapped else ())),
    )
    return TensorRtSession(opened, cuda, layout, run_facts, lanes=options.lanes, mapped=mapped, timed=options.timed)


def _build_nothing(
    model: bytes, options: BuildOptions, *, name: str, timing_cache: Path | None, report: Callable[[str], None]
) -> tuple[bytes, PlanFacts]:
    raise BackendError("tensorrt: the engine in the cache cannot be used, and none is built unasked")


def _origin(engine: Engine) -> tuple[str, ...]:
    where = f" ({engine.path.name})" if engine.path else ""
    if engine.manifest.origin == "trusted":
        return (f"the user's own plan, trusted{where}",)
    if engine.reused:
        return (f"engine from the cache{where}",)
    return (f"engine built in {engine.manifest.facts.build_s:.0f} s{where}: {engine.why}" if engine.why else f"engine built{where}",)
