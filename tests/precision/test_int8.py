"""int8 graphs: where the Q/DQ pairs stand, what they hold, and that every runtime here takes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from residual_graph import batches, residual_graph  # noqa: E402

from jetlens.backends.base import SessionOptions  # noqa: E402
from jetlens.errors import ModelError, UnknownNameError  # noqa: E402
from jetlens.export.zoo import ZOO  # noqa: E402
from jetlens.graph import read_graph  # noqa: E402
from jetlens.precision.activations import observe, scales  # noqa: E402
from jetlens.precision.fp16 import overflowing, to_half  # noqa: E402
from jetlens.precision.graph import Graph  # noqa: E402
from jetlens.precision.int8 import RECIPES, channel_scales, quantizable, quantize, recipe_name, watched, with_half_rest  # noqa: E402
from jetlens.predictor import model_path, shipped_names  # noqa: E402

CONTENT = residual_graph().SerializeToString()


def steps(content: bytes) -> dict[str, float]:
    graph = Graph(content)
    return scales(observe(graph, batches(), watched(graph), "minmax"), "minmax")


def run(content: bytes, pixels: np.ndarray) -> np.ndarray:
    (answer,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": pixels})
    return answer


def inputs_of(content: bytes) -> dict[str, list[str]]:
    return {node.name: list(node.input) for node in Graph(content).proto.node}


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].rest == "fp32"])
def test_every_recipe_answers_nearly_as_fp32(name: str) -> None:
    pixels = batches(seed=9)[0]
    content = quantize(CONTENT, steps(CONTENT), RECIPES[name])
    want, got = run(CONTENT, pixels), run(content, pixels)
    assert 0 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.05
    assert read_graph(content).precision == "int8"
    assert (read_graph(content).inputs, read_graph(content).outputs) == (read_graph(CONTENT).inputs, read_graph(CONTENT).outputs)


def test_the_plain_recipe_is_onnx_runtimes_own(tmp_path: Path) -> None:
    """The recipe that was seen to build with TensorRT was made by quantize_static: the same pairs, scales and answers."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    (tmp_path / "x.onnx").write_bytes(CONTENT)
    feeds = iter([{"images": batch} for batch in batches()])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    quantization.quantize_static(
        tmp_path / "x.onnx",
        tmp_path / "y.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm"],
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False, "AddQDQPairToWeight": True},
    )
    theirs = (tmp_path / "y.onnx").read_bytes()
    ours = quantize(CONTENT, steps(CONTENT), RECIPES["plain"])
    assert read_graph(ours).operators["Conv"] == read_graph(theirs).operators["Conv"]
    pixels = batches(seed=9)[0]
    # Theirs quantizes what Conv and Gemm make as well; what goes in has the same steps.
    values = {row.name: onnx.numpy_helper.to_array(row) for row in onnx.load(tmp_path / "y.onnx").graph.initializer}
    table = steps(CONTENT)
    for node in quantizable(Graph(CONTENT)):
        name, weight = node.input[0], node.input[1]
        assert values[f"{name}_scale"] == pytest.approx(table[name], rel=1e-5)
        np.testing.assert_allclose(values[f"{weight}_scale"], channel_scales(Graph(CONTENT).value(weight), 0), rtol=1e-5)
    assert np.linalg.norm(run(ours, pixels) - run(theirs, pixels)) / np.linalg.norm(run(CONTENT, pixels)) < 0.03


def test_where_the_pairs_stand() -> None:
    table = steps(CONTENT)
    plain, identity, shortcut, both = (
        inputs_of(quantize(CONTENT, table, RECIPES[name])) for name in ("plain", "identity", "shortcut", "both")
    )
    assert plain["one.add"] == ["one.second", "stem.relu"]
    assert identity["one.add"] == ["one.second", "stem.relu.dq"]
    assert identity["two.add"] == ["two.second", "two.down"]
    assert shortcut["one.add"] == identity["one.add"]
    # The branch goes into the addition as it is, so that one kernel makes both; the shortcut comes in int8.
    assert shortcut["two.add"] == ["two.second", "two.down.dq"]
    assert both["two.add"] == ["two.second.dq", "two.down.dq"]
    assert both["stem"][0] == "planes"
    assert inputs_of(quantize(CONTENT, table, RECIPES["pooled"]))["pool"] == ["two.out.dq"]
    for rows in (plain, identity, shortcut):
        assert rows["stem"] == ["planes.dq", "stem.w.dq", "stem.b"]
        assert rows["two.first"][0] == rows["two.down"][0] == "one.out.dq"
    assert Counter(node.op_type for node in Graph(quantize(CONTENT, table, RECIPES["shortcut"])).proto.node)["QuantizeLinear"] == 14


def test_layers_may_stay_fp32() -> None:
    rows = inputs_of(quantize(CONTENT, steps(CONTENT), RECIPES["shortcut"], {"one.second", "logits"}))
    assert rows["one.second"][0] == "one.relu"
    # Without a quantized branch there is no kernel that the addition could go into.
    assert rows["one.add"] == ["one.second", "stem.relu"]
    assert rows["logits"][0] == "flat"
    with pytest.raises(ModelError, match="no Conv or Gemm"):
        quantize(CONTENT, steps(CONTENT), RECIPES["shortcut"], {node.name for node in quantizable(Graph(CONTENT))})


def test_weights_are_symmetric_by_channel() -> None:
    graph = Graph(quantize(CONTENT, steps(CONTENT), RECIPES["shortcut"]))
    for name in ("stem.w", "fc.w"):
        weights, step, zero = (graph.value(text) for text in (name, f"{name}.scale", f"{name}.zero"))
        assert weights is not None
        assert step is not None
        assert zero is not None
        assert zero.dtype == np.int8
        assert not zero.any()
        np.testing.assert_allclose(step * 127, np.abs(weights).reshape(len(weights), -1).max(axis=1), rtol=1e-6)


def test_a_channel_of_zeros_has_a_step() -> None:
    assert channel_scales(np.array([[0.0, 0.0], [1.27, -2.54]]), 0) == pytest.approx([0.02, 0.02])
    assert channel_scales(np.zeros((2, 2)), 0) == pytest.approx([1 / 127, 1 / 127])


def test_openvino_takes_the_file() -> None:
    pytest.importorskip("openvino")
    from jetlens.backends.openvino import OpenVino

    pixels = batches(seed=9)[0]
    content = quantize(CONTENT, steps(CONTENT), RECIPES["shortcut"])
    with OpenVino.open(content, SessionOptions()) as session:
        got = session.run({"images": pixels})["logits"]
    want = run(CONTENT, pixels)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.06


def test_the_rest_in_fp16_has_half_scales() -> None:
    content = with_half_rest(quantize(CONTENT, steps(CONTENT), RECIPES["shortcut-fp16"]))
    graph = Graph(content)
    types = graph.types()
    assert read_graph(content).opsets["ai.onnx"] == 19
    assert types["stem.relu"] == types["one.add"] == onnx.TensorProto.FLOAT16
    assert {types[node.input[1]] for node in graph.proto.node if node.op_type == "QuantizeLinear"} == {onnx.TensorProto.FLOAT16}
    pixels = batches(seed=9)[0]
    assert np.linalg.norm(run(content, pixels) - run(CONTENT, pixels)) / np.linalg.norm(run(CONTENT, pixels)) < 0.05


def test_wrong_names_and_opsets_are_refused() -> None:
    assert recipe_name("default") in RECIPES
    with pytest.raises(UnknownNameError, match="shortcut"):
        recipe_name("short-cut")
    with pytest.raises(ModelError, match="opset 13"):
        quantize(residual_graph(opset=11).SerializeToString(), {}, RECIPES["plain"])


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_models_build_with_tensorrt(name: str) -> None:
    """Strongly typed, as TensorRT 10 and 11 build: fp16, int8, and int8 with the rest in fp16."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'jetlens[trt-rtx]'")
    from strongly_typed import build_engine

    content = model_path(name).read_bytes()
    graph = Graph(content)
    height, width = read_graph(content).inputs[0].shape[1:3]
    pixels = [np.random.default_rng(3).integers(0, 256, (1, height, width, 3), dtype=np.uint8)]
    table = scales(observe(graph, pixels, watched(graph), "minmax"), "minmax")
    whole = quantize(content, table, RECIPES["shortcut"])
    for made in (to_half(content), whole, with_half_rest(whole)):
        assert set(build_engine(made)) == {row.name for row in (*read_graph(content).inputs, *read_graph(content).outputs)}


@pytest.mark.release
@pytest.mark.parametrize("name", ZOO)
def test_named_networks_build_with_tensorrt(tmp_path: Path, name: str) -> None:
    """Random weights; one picture calibrates, since only the graph matters."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'jetlens[trt-rtx]'")
    torch = pytest.importorskip("torch")
    from strongly_typed import build_engine

    from jetlens.export.onnx import export_model
    from jetlens.export.zoo import zoo_network

    torch.manual_seed(0)
    network, spec = zoo_network(name, pretrained=False)
    export_model(network, spec, tmp_path / "x.onnx", allow_random=True)
    content = (tmp_path / "x.onnx").read_bytes()
    graph = Graph(content)
    pixels = [np.random.default_rng(3).integers(0, 256, (1, *spec.preprocess.size_hw, 3), dtype=np.uint8)]
    table = scales(observe(graph, pixels, watched(graph), "minmax"), "minmax")
    whole = quantize(content, table, RECIPES["shortcut"])
    for made in (to_half(content, overflowing(graph, pixels)), whole, with_half_rest(whole)):
        assert "images" in build_engine(made)
