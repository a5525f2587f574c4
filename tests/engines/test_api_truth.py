"""Every TensorRT name and call shape of the builder, held against the recorded bindings of each version along that version's branch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from recorded_tensorrt import VERSIONS, Problem, RecordedTensorRt, Scene, Tensor

from jetlens.engines.api import Messages, dtype_name, load_tensorrt, make_logger, open_plan, shared_context, version_of
from jetlens.engines.builder import make_plan
from jetlens.engines.inspection import tensor_rows
from jetlens.engines.job import Job
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError, ModelError
from jetlens.spec import FP32_NODES_KEY, TensorSpec

EVERY = pytest.mark.parametrize("version", VERSIONS)


def layer(kind: str, name: str = "conv") -> dict[str, Any]:
    """A convolution as the inspector prints it."""
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": kind}],
        "Outputs": [{"Name": "y", "Format/Datatype": kind}],
        "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16",
    }


def report(*kinds: str) -> str:
    return json.dumps({"Layers": [layer(kind) for kind in kinds]})


HALF_GRAPH = [("CAST", "HALF"), ("CONVOLUTION", "HALF"), ("CAST", "FLOAT"), ("ELEMENTWISE", "FLOAT")]
INT8_GRAPH = [("ACTIVATION", "FLOAT"), ("QUANTIZE", "INT8"), ("DEQUANTIZE", "FLOAT"), ("CONVOLUTION", "FLOAT"), ("ELEMENTWISE", "FLOAT")]


def model_of(layers: list[tuple[str, ...]], *fp32_nodes: str) -> bytes:
    """An ONNX file that holds what such layers come from."""
    kinds = {text for row in layers for text in row}
    real = np.zeros(1, np.float16 if "HALF" in kinds else np.float32)
    operator = "QuantizeLinear" if "QUANTIZE" in kinds else "Conv"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["images", "weights"], ["logits"])],
        "net",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 8, 12, 3])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(real, "weights")],
    )
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {FP32_NODES_KEY: json.dumps(fp32_nodes)})
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def recorded(shared_data: Path) -> Callable[..., RecordedTensorRt]:
    """Makes the module of one version."""
    return lambda version, **scene: RecordedTensorRt(shared_data / "tensorrt-api" / f"{version}.json", Scene(**scene))


def run(module: RecordedTensorRt, **options: Any) -> tuple[bytes, Any]:
    timing_cache = str(options.pop("cache", ""))
    model = options.pop("model", model_of(module.scene.layers))
    return make_plan(module, model, Job("net", BuildOptions(**options), "tensorrt", timing_cache=timing_cache), progress=lambda text: None)


@EVERY
def test_the_whole_branch_of_each_version(recorded: Any, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All options at once: every call that the builder can make is made."""
    monkeypatch.setenv("TRT_BUNDLE_TACTICS", "conv")
    module = recorded(version, layers=HALF_GRAPH, inspector=report("Half", "Float"), dla_cores=2)
    cache = tmp_path / "layers.cache"
    cache.write_bytes(b"old")
    plan, facts = run(module, batch=(1, 2, 4), workspace_mib=64, optimization_level=2, dla_core=1, version_compatible=True, cache=cache)
    assert plan == b"plan"
    assert facts.inputs == (TensorSpec("images", "uint8", ("N", 8, 12, 3)),)
    assert facts.outputs == (TensorSpec("logits", "float32", ("N", 3)),)
    assert (facts.precision, facts.device_memory_mib, dict(facts.layers)) == ("fp16", 3.0, {"fp16": 1, "fp32": 1})
    assert ("pool WORKSPACE", 64 << 20) in module.used
    assert ("profile", {"images": ((1, 8, 12, 3), (2, 8, 12, 3), (4, 8, 12, 3))}) in module.used
    flags = [name for kind, name in module.used if kind == "flag"]
    assert {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "GPU_FALLBACK"} <= set(flags)
    assert cache.read_bytes() == b"times" + b"old" + b"old"


@EVERY
def test_network_and_precision_flags(recorded: Any, version: str) -> None:
    """Weakly typed with flags that follow the graph on 8.6, strongly typed without any from 10 on."""
    rows = {"fp32": ([("CONVOLUTION", "FLOAT")], "Float"), "fp16": (HALF_GRAPH, "Half"), "int8": (INT8_GRAPH, "Int8")}
    for precision, (layers, kind) in rows.items():
        module = recorded(version, layers=layers, inspector=report(kind))
        _, facts = run(module)
        flags = {name for what, name in module.used if what == "flag"}
        old = version.startswith("8.")
        wanted = {"fp32": set(), "fp16": {"FP16", "PREFER_PRECISION_CONSTRAINTS"}, "int8": {"INT8", "FP16", "PREFER_PRECISION_CONSTRAINTS"}}
        assert flags == (wanted[precision] if old else set())
        network = "EXPLICIT_BATCH" if old else "STRONGLY_TYPED"
        assert ("network flags", 1 << int(module.member("NetworkDefinitionCreationFlag", network))) in module.used
        assert ("preview", "PROFILE_SHARING_0806") in module.used or not old
        assert facts.precision == precision
        # The fp32 layers that decode stay fp32 where a flag would let the builder lower them; casts are left alone.
        held = [row for what, row in module.used if what == "held"]
        assert held == ([("ELEMENTWISE", "FLOAT")] if old and precision != "fp32" else [])


def test_nodes_that_leave_fp16_are_held_by_their_names(recorded: Any) -> None:
    layers = [("CONVOLUTION", "HALF", "/a/conv"), ("UNARY", "FLOAT", "/exp_3"), ("CONVOLUTION", "HALF", "/b/conv")]
    module = recorded("8.6.0", layers=layers, inspector=report("Half"))
    run(module, model=model_of(layers, "/exp", "/b/conv"))
    assert [row for what, row in module.used if what == "held"] == [("UNARY", "FLOAT"), ("CONVOLUTION", "FLOAT")]


@EVERY
def test_parser_errors_name_nodes_and_operators(recorded: Any, version: str) -> None:
    problems = [
        Problem(5, "NonMaxSuppression", "/post/nms", "does not support dynamic axes"),
        Problem(9, "Foo", "/head/foo", "no importer"),
    ]
    named = {row.node: (row.operator, row.name) for row in problems}
    nodes = [onnx.helper.make_node(kind, [], [], name) for kind, name in (named.get(place, ("Relu", "act")) for place in range(12))]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", [], [])).SerializeToString()
    with pytest.raises(ModelError) as caught:
        run(recorded(version, problems=problems), model=model)
    text = str(caught.value)
    for row in problems:
        assert f"operator {row.operator} of node {row.name!r}: {row.desc}" in text
    assert len(text) < 300


@EVERY
def test_refusals_name_the_cause(recorded: Any, version: str) -> None:
    dynamic = [Tensor("images", "UINT8", (-1, -1, 12, 3), ("N", "height", "", ""))]
    with pytest.raises(ModelError, match=r"axis 1 \('height'\) of input 'images' is dynamic"):
        run(recorded(version, inputs=dynamic))
    fixed = [Tensor("images", "UINT8", (2, 8, 12, 3))]
    with pytest.raises(ModelError, match="fixed at 2 and 1:4:8"):
        run(recorded(version, inputs=fixed), batch=(1, 4, 8))
    assert not [row for row in recorded(version, inputs=fixed).used if row[0] == "profile"]
    with pytest.raises(MemoryError, match="OutOfMemory"):
        run(recorded(version, plan=None, said=[("ERROR", "Error Code 2: OutOfMemory (no further information)")]))
    node = "Could not find any implementation for node {ForeignNode[/a...b]}."
    with pytest.raises(BackendError, match=r"no way to run node '\{ForeignNode\[/a\.\.\.b\]\}'.*--workspace"):
        run(recorded(version, plan=None, said=[("ERROR", f"Error Code 10: Internal Error ({node})")]))
    with pytest.raises(BackendError, match="TensorRT gave no reason"):
        run(recorded(version, plan=None))
    with pytest.raises(BackendError, match="DLA core 0 is asked for and this machine has 0"):
        run(recorded(version), dla_core=0)
    with pytest.raises(ModelError, match="DLA runs fp16 and int8 only"):
        run(recorded(version, dla_cores=1), dla_core=0)


@EVERY
@pytest.mark.parametrize(("layers", "asked"), [(HALF_GRAPH, "fp16"), (INT8_GRAPH, "int8")])
def test_a_precision_that_was_asked_and_not_given_is_an_error(recorded: Any, version: str, layers: Any, asked: str) -> None:
    with pytest.raises(BackendError, match=f"is an {asked} graph .* runs none of it in {asked} .*2 fp32"):
        run(recorded(version, layers=layers, inspector=report("Float", "Float")))


@EVERY
def test_an_inspector_that_names_no_types(recorded: Any, version: str) -> None:
    """The precision is then the graph's, and a note says that nobody saw it."""
    _, facts = run(recorded(version, layers=HALF_GRAPH, inspector='{"Layers": ["conv", "relu"]}'))
    assert facts.precision == "fp16"
    assert any("names no types" in note for note in facts.notes)


@EVERY
def test_a_timing_cache_of_another_gpu_is_replaced(recorded: Any, version: str, tmp_path: Path) -> None:
    cache = tmp_path / "layers.cache"
    cache.write_bytes(b"another GPU's")
    module = recorded(version)
    run(module, cache=cache)
    assert [row for what, row in module.used if what == "timing cache"][:2] == [b"another GPU's", b""]


@EVERY
def test_the_runtime_side(recorded: Any, version: str) -> None:
    module = recorded(version)
    messages = Messages()
    logger = make_logger(module, messages)
    _, engine = open_plan(module, b"plan", logger, messages)
    assert [row.name for side in tensor_rows(module, engine) for row in side] == ["images", "logits"]
    context = shared_context(module, engine, 4096, 1 << 20)
    assert context.behaviour.device_memory == 4096
    assert dtype_name(engine.get_tensor_dtype("images")) == "uint8"
    with pytest.raises(BackendError, match="does not take the engine"):
        open_plan(module, b"another", logger, messages)


def _workspace_attribute(module: Any) -> None:
    config = module.make("IBuilderConfig")
    config.max_workspace_size = 1 << 30


def _num_bindings(module: Any) -> None:
    assert module.make("ICudaEngine").num_bindings


def _build_engine(module: Any) -> None:
    module.make("Builder", None).build_engine(module.make("INetworkDefinition"), module.make("IBuilderConfig"))


def _execute_async_v2(module: Any) -> None:
    engine = module.make("ICudaEngine")
    engine.create_execution_context().execute_async_v2(bindings=[0], stream_handle=0)


def _explicit_batch(module: Any) -> None:
    assert module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH is not None


def _fp16_flag(module: Any) -> None:
    module.make("IBuilderConfig").set_flag(module.BuilderFlag.FP16)


def _progress_monitor(module: Any) -> None:
    assert module.IProgressMonitor


OLD = {
    "max_workspace_size": (_workspace_attribute, ("8.",)),
    "num_bindings": (_num_bindings, ("8.",)),
    "build_engine": (_build_engine, ("8.",)),
    "execute_async_v2": (_execute_async_v2, ("8.",)),
    "EXPLICIT_BATCH": (_explicit_batch, ("8.", "10.")),
    "FP16": (_fp16_flag, ("8.", "10.")),
    "IProgressMonitor": (_progress_monitor, ("10.", "11.")),
}


@EVERY
@pytest.mark.parametrize("name", OLD)
def test_code_of_other_versions_is_caught(recorded: Any, version: str, name: str) -> None:
    """The control: code for TensorRT 8 fails on what came later, and only there."""
    code, has = OLD[name]
    if version.startswith(has):
        code(recorded(version))
    else:
        with pytest.raises(AttributeError, match=name):
            code(recorded(version))


@EVERY
def test_wrong_calls_are_caught(recorded: Any, version: str) -> None:
    """The control: a recorded name with a wrong number of arguments or a wrong keyword is refused too."""
    module = recorded(version)
    config = module.make("IBuilderConfig")
    for wrong in (
        lambda: config.set_memory_pool_limit(1 << 30),
        lambda: config.set_timing_cache(None),
        lambda: config.set_timing_cache(None, mismatch=True),
        lambda: module.Builder(),
        lambda: module.OnnxParser(None),
        lambda: module.make("OnnxParser", None, None).parse(data=b""),
        lambda: module.make("IExecutionContext", None).execute_async_v3(),
        lambda: module.make("IOptimizationProfile").set_shape("images", (1,), (1,)),
    ):
        with pytest.raises(TypeError, match=version):
            wrong()


def test_too_old_and_too_new(recorded: Any) -> None:
    module = recorded("8.6.0")
    module.__version__ = "8.5.2"
    with pytest.raises(BackendError, match=r"8\.5\.2 is too old"):
        version_of(module)
    module.__version__ = "12.1.0"
    assert version_of(module).network_flags == ("STRONGLY_TYPED",)


def test_tensorrt_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="not installed: on a Jetson"):
        load_tensorrt("tensorrt_that_is_not_there")
