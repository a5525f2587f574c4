"""The TensorRT builder itself, as it runs in the child: parse, configure, build, look into what came out."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from jetlens.engines.api import Messages, Version, make_logger, open_plan, out_of_memory, start, version_of
from jetlens.engines.inspection import Inspection, layer_report, tensor_row, tensor_rows
from jetlens.engines.job import Job
from jetlens.engines.key import blocks
from jetlens.engines.plan import PlanFacts
from jetlens.engines.timings import attach_timing_cache, keep_timing_cache
from jetlens.errors import BackendError, ModelError
from jetlens.graph import read_graph
from jetlens.spec import FP32_NODES_KEY, TensorSpec

__all__ = ["make_plan"]

_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "FULLY_CONNECTED", "MATRIX_MULTIPLY", "EINSUM")
# What a weakly typed network may be held to compute in fp32: layers that calculate. Those that move or blend data follow their neighbours.
_HELD = (*_HEAVY, "ACTIVATION", "ELEMENTWISE", "NORMALIZATION", "REDUCE", "SCALE", "SOFTMAX", "UNARY")
# Field numbers of onnx.proto.
_GRAPH, _NODE, _NAME, _OPERATOR = 7, 1, 3, 4
_SHOWN_PROBLEMS = 3
_SHOWN_WARNINGS = 5


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the graph holds.

    Attributes:
        half: it stores fp16 values.
        half_heavy: a convolution or product of the parsed network answers in fp16; a weakly typed network never says so.
        int8: it quantizes.
        fp32_nodes: names of nodes that the graph's maker found to leave fp16.
    """

    half: bool
    half_heavy: bool
    int8: bool
    fp32_nodes: frozenset[str] = frozenset()

    @property
    def precision(self) -> str:
        return "int8" if self.int8 else "fp16" if self.half else "fp32"


def make_plan(
    tensorrt: Any, model: bytes, job: Job, *, progress: Callable[[str], None], echo: Callable[[str], object] | None = None
) -> tuple[bytes, PlanFacts]:
    """Builds a plan in this process.

    Args:
        progress: is called with the phase that the builder is in.
        echo: is called with each of TensorRT's errors at once.

    Raises:
        ModelError: the graph cannot be built; the message names nodes, operators or axes.
        MemoryError: memory ran out.
        BackendError: anything else.
    """
    start_s = time.monotonic()
    version = version_of(tensorrt)
    messages = Messages()
    logger = make_logger(tensorrt, messages, echo)
    tensorrt.init_libnvinfer_plugins(logger, "")
    builder = _builder(tensorrt, logger, messages)
    network = builder.create_network(_bits(tensorrt.NetworkDefinitionCreationFlag, version.network_flags))
    parser = tensorrt.OnnxParser(network, logger)
    progress("reading the graph")
    if not parser.parse(model):
        raise _parser_error(parser, version, messages, job.name, model)
    asked = _asked(network, model)
    config = _config(tensorrt, builder, network, job, version, asked)
    timings = attach_timing_cache(config, job.timing_cache)
    if version.progress:
        config.progress_monitor = _monitor(tensorrt, progress)
    progress("building")
    memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise _build_error(version, messages, job)
    plan = bytes(memory)
    if timings is not None:
        keep_timing_cache(config, job.timing_cache)
    facts = _facts(tensorrt, plan, network, asked, version, job, messages, logger)
    return plan, replace(facts, build_s=time.monotonic() - start_s)


def _builder(tensorrt: Any, logger: Any, messages: Messages) -> Any:
    try:
        return start(tensorrt, tensorrt.Builder, logger, messages)
    except BackendError as error:
        if out_of_memory(str(error)):
            raise MemoryError(str(error)) from None
        raise


def _bits(flags: Any, names: tuple[str, ...]) -> int:
    """A bit mask of an enumeration's members."""
    return sum(1 << int(getattr(flags, name)) for name in names)


def _parser_error(parser: Any, version: Version, messages: Messages, name: str, model: bytes) -> Exception:
    """What the parser refused, with the names and operators of the nodes."""
    said = [" ".join(text.split()) for text in messages.errors]
    problems = [_problem(parser.get_error(index), version, model) for index in range(parser.num_errors)]
    problems = list(dict.fromkeys(problems)) or [messages.last_error()]
    if any(out_of_memory(text) for text in (*problems, *said)):
        return MemoryError(problems[0])
    more = f" and {len(problems) - _SHOWN_PROBLEMS} more nodes" if len(problems) > _SHOWN_PROBLEMS else ""
    return ModelError(f"TensorRT {version.text} cannot run {name}: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}")


def _problem(error: Any, version: Version, model: bytes) -> str:
    """One of the parser's errors; before TensorRT 10 it carries the node's number alone, and nothing is logged of a model that comes as bytes."""
    number = int(error.node())
    operator, node = (error.node_operator(), error.node_name()) if version.node_in_errors else _node_in_graph(number, model)
    reason = re.sub(r"^(Assertion failed: )", "", " ".join(str(error.desc()).split()))[:160]
    if "Plugin not found" in reason:
        reason = "TensorRT has neither this operator nor a plugin of that name"
    if not operator:
        return reason if number < 0 else f"node {number}: {reason}"
    return f"operator {operator} of node {node or number!r}: {reason}"


def _node_in_graph(number: int, model: bytes) -> tuple[str, str]:
    """Operator and name of a node by its place in the ONNX file, whose parts are blocks with a number each; empty where there is none."""
    graph = next((part for field, part in blocks(memoryview(model)) if field == _GRAPH), memoryview(b""))
    nodes = (part for field, part in blocks(graph) if field == _NODE)
    node = next(islice(nodes, number, None), memoryview(b"")) if number >= 0 else memoryview(b"")
    texts = {field: bytes(part).decode("utf-8", "replace") for field, part in blocks(node)}
    return texts.get(_OPERATOR, ""), texts.get(_NAME, "")


def _asked(network: Any, model: bytes) -> _Asked:
    facts = read_graph(model)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    half_heavy = any(
        layer.type.name in _HEAVY and any(layer.get_output(i).dtype.name == "HALF" for i in range(layer.num_outputs)) for layer in layers
    )
    nodes = json.loads(facts.metadata.get(FP32_NODES_KEY, "[]"))
    return _Asked(bool(facts.parameters.get("float16")), half_heavy, facts.precision == "int8", frozenset(map(str, nodes)))


def _config(tensorrt: Any, builder: Any, network: Any, job: Job, version: Version, asked: _Asked) -> Any:
    options = job.options
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    names = ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"] if options.version_compatible else []
    if version.precision_flags:
        # What an int8 graph does not quantize runs in fp16: a third faster than int8 among fp32 layers.
        names += ["FP16"] * (asked.half or asked.int8) + ["INT8"] * asked.int8
        if asked.half or asked.int8:
            _hold_fp32(tensorrt, network, asked.fp32_nodes)
            names.append("PREFER_PRECISION_CONSTRAINTS")
    if options.dla_core is not None:
        _use_dla(tensorrt, builder, config, options.dla_core, asked)
        names.append("GPU_FALLBACK")
    for name in names:
        config.set_flag(getattr(tensorrt.BuilderFlag, name))
    for name in version.preview_features:
        config.set_preview_feature(getattr(tensorrt.PreviewFeature, name), True)
    if os.environ.get("TRT_BUNDLE_TACTICS") == "conv":
        config.set_tactic_sources(_bits(tensorrt.TacticSource, ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")))
    if version.ahead_of_time and job.capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(tensorrt.ComputeCapability, job.capability), 0)
    _add_profile(builder, network, config, job)
    return config


def _hold_fp32(tensorrt: Any, network: Any, nodes: frozenset[str]) -> None:
    """Keeps in fp32 what decodes the answers, behind the last convolution or product, and the nodes that leave fp16.

    A weakly typed network reads fp32 everywhere, whatever the graph casts, so its own types cannot tell what to keep.
    """
    single = tensorrt.DataType.FLOAT
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    last = max((i for i, layer in enumerate(layers) if layer.type.name in _HEAVY), default=-1)
    for index, layer in enumerate(layers):
        kept = (index > last and layer.type.name in _HELD) or (layer.name in nodes or _node_of(layer.name) in nodes)
        if kept and layer.num_outputs and all(layer.get_output(i).dtype == single for i in range(layer.num_outputs)):
            layer.precision = single
            for i in range(layer.num_outputs):
                layer.set_output_type(i, single)


def _node_of(layer_name: str) -> str:
    """The ONNX node that a layer came from: the parser numbers the layers of a node that needs several."""
    return re.sub(r"_\d+$", "", layer_name)


def _use_dla(tensorrt: Any, builder: Any, config: Any, core: int, asked: _Asked) -> None:
    if core >= builder.num_DLA_cores:
        raise BackendError(f"DLA core {core} is asked for and this machine has {builder.num_DLA_cores}; leave --dla-core out")
    if asked.precision == "fp32":
        raise ModelError("a DLA runs fp16 and int8 only and the graph is fp32; build its fp16 or int8 file: --precision fp16")
    config.default_device_type = tensorrt.DeviceType.DLA
    config.DLA_core = core


def _add_profile(builder: Any, network: Any, config: Any, job: Job) -> None:
    """One optimization profile over the batch; any other dynamic axis is refused by name."""
    batch = job.options.batch
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(axis) for axis in tensor.shape)
        for axis in range(1, len(shape)):
            if shape[axis] < 0:
                named = tensor.get_dimension_name(axis)
                raise ModelError(
                    f"axis {axis}{f' ({named!r})' if named else ''} of input {tensor.name!r} is dynamic; only the batch axis may be: "
                    "export with a fixed input size"
                )
        if shape and shape[0] < 0:
            profile.set_shape(tensor.name, *((size, *shape[1:]) for size in batch))
            dynamic = True
        elif shape and batch != (1, 1, 1) and batch != (shape[0],) * 3:
            raise ModelError(
                f"the batch of input {tensor.name!r} is fixed at {shape[0]} and {':'.join(map(str, batch))} is asked for; "
                "export with a dynamic batch, or leave --batch out"
            )
    if dynamic:
        config.add_optimization_profile(profile)


def _monitor(tensorrt: Any, progress: Callable[[str], None]) -> Any:
    """A progress monitor that says which phase the builder is in and how far."""
    monitor_type: Any = tensorrt.IProgressMonitor

    class Monitor(monitor_type):  # type: ignore[misc]
        def __init__(self) -> None:
            monitor_type.__init__(self)
            self._steps: dict[str, int] = {}
            self._said_s = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            now_s = time.monotonic()
            if now_s - self._said_s > 0.5:
                self._said_s = now_s
                progress(f"{phase_name}, {100 * (step + 1) // max(1, self._steps.get(phase_name, 1))} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _build_error(version: Version, messages: Messages, job: Job) -> Exception:
    """Why there is no plan, from what TensorRT said last."""
    said = [" ".join(text.split()) for text in messages.errors]
    last = said[-1] if said else "TensorRT gave no reason"
    if any(out_of_memory(text) for text in said):
        return MemoryError(next(text for text in reversed(said) if out_of_memory(text))[:200])
    node = next((found[1] for text in reversed(said) if (found := re.search(r"implementation for node (.+?)(?:\.\)|\. Try|$)", text))), "")
    if node:
        return BackendError(
            f"TensorRT {version.text} found no way to run node {node[:120]!r} of {job.name} in {job.options.workspace_mib} MiB of workspace; "
            "give more: --workspace"
        )
    return BackendError(f"TensorRT {version.text} cannot build {job.name}: {last}")


def _facts(
    tensorrt: Any, plan: bytes, network: Any, asked: _Asked, version: Version, job: Job, messages: Messages, logger: Any
) -> PlanFacts:
    """What the finished plan says of itself; a plan for another machine is not opened, and then the network speaks for it."""
    warnings = tuple(dict.fromkeys(" ".join(text.split())[:200] for text in messages.warnings))
    notes = (
        *warnings[:_SHOWN_WARNINGS],
        *([f"and {len(warnings) - _SHOWN_WARNINGS} more warnings"] if len(warnings) > _SHOWN_WARNINGS else []),
    )
    if version.ahead_of_time and job.capability:
        inputs, outputs = _network_rows(network)
        notes = (
            *notes,
            "not opened here, where its GPU is not: the precision is that of the strongly typed graph, and no layer was looked at",
        )
        return PlanFacts(inputs, outputs, asked.precision, workspace_mib=job.options.workspace_mib, notes=notes)
    _runtime, engine = open_plan(tensorrt, plan, logger, messages)
    inputs, outputs = tensor_rows(tensorrt, engine)
    report = layer_report(tensorrt, engine)
    precision = _checked_precision(report, asked, version, job.name)
    if not report.precision():
        notes = (*notes, "the engine inspector names no types of layers: the precision is what the graph asks for, and was not seen")
    if report.tf32:
        notes = (
            *notes,
            f"{report.tf32} of {sum(report.heavy.values())} convolutions and products run in TF32, TensorRT's fp32 on Ampere and later",
        )
    return PlanFacts(
        inputs,
        outputs,
        precision,
        report.layers,
        workspace_mib=job.options.workspace_mib,
        device_memory_mib=int(getattr(engine, version.device_memory)) / 2**20,
        notes=notes,
    )


def _checked_precision(report: Inspection, asked: _Asked, version: Version, name: str) -> str:
    """The precision that the engine runs in.

    Raises:
        BackendError: the graph asks for fp16 or int8 and no layer that matters got it.
    """
    ran = report.precision()
    if not ran:
        return asked.precision
    # Where types are strong, only fp16 convolutions and products can be expected to run in fp16.
    wanted = "int8" if asked.int8 else "fp16" if (asked.half if version.precision_flags else asked.half_heavy) else ""
    if wanted and not report.runs_in(wanted):
        raise BackendError(
            f"{name} is an {wanted} graph and TensorRT {version.text} runs none of it in {wanted} ({report.summary()}); "
            "the engine is not kept: fp32 may be quicker for layers this small, this GPU may lack it, or the graph's types end before its convolutions"
        )
    return ran


def _network_rows(network: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    rows = [tuple(tensor_row(tensor.name, tensor.dtype, tensor.shape) for tensor in side) for side in (inputs, outputs)]
    return rows[0], rows[1]
