"""fp16 graphs: types that fit everywhere, decoding untouched, and layers that overflow kept in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from residual_graph import batches, residual_graph  # noqa: E402

from jetlens.deviation import deviation  # noqa: E402
from jetlens.errors import ModelError  # noqa: E402
from jetlens.export.verify import verification_batches  # noqa: E402
from jetlens.graph import read_graph  # noqa: E402
from jetlens.precision.fp16 import halvable, overflowing, rounded, to_half  # noqa: E402
from jetlens.precision.graph import Graph  # noqa: E402
from jetlens.predictor import model_path, shipped_names  # noqa: E402
from jetlens.spec import read_model  # noqa: E402

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def run(content: bytes, pixels: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return dict(zip([row.name for row in session.get_outputs()], session.run(None, {"images": pixels}), strict=True))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_models_answer_as_in_fp32(name: str) -> None:
    content, spec = read_model(model_path(name))
    half = to_half(content)
    before, after = read_graph(content), read_graph(half)
    assert (after.inputs, after.outputs, after.opsets) == (before.inputs, before.outputs, before.opsets)
    assert after.precision == "fp16"
    assert len(half) < 0.56 * len(content)
    pixels = verification_batches(spec, "N")[1]
    figures = deviation(spec.task, run(content, pixels), run(half, pixels))
    assert figures.get("top1_agreement", 1) == figures.get("matched_boxes", 1) == 1
    assert figures.get("mask_agreement", 1) > 0.999


@pytest.mark.parametrize(
    ("name", "kept"), [("orange-detect", ("TopK", "Softmax", "Sigmoid", "Exp", "GatherElements")), ("orange-segment", ("ArgMax",))]
)
def test_normalisation_and_decoding_stay_fp32(name: str, kept: tuple[str, ...]) -> None:
    graph = Graph(to_half(model_path(name).read_bytes()))
    types = graph.types()
    first = next(node for node in graph.proto.node if node.op_type == "Conv")
    for node in graph.proto.node:
        if node.name.startswith("jetlens.") or node.op_type in kept:
            assert HALF not in [types[text] for text in (*node.input, *node.output)], node.name
    assert types[first.input[0]] == types[first.output[0]] == HALF
    assert {node.op_type for node in graph.proto.node} & set(kept)


def test_numbers_that_fp16_cannot_hold_are_found_and_kept() -> None:
    content = residual_graph(gain=3e5).SerializeToString()
    graph, pixels = Graph(content), batches()
    found = overflowing(graph, pixels)
    assert set(found) == {"two.first", "two.relu", "two.second"}
    assert min(found.values()) > 32752
    want = run(content, pixels[0])["logits"]
    assert np.abs(run(to_half(content, found), pixels[0])["logits"] - want).max() < 0.05
    assert np.abs(run(rounded(content, found), pixels[0])["logits"] - want).max() < 0.05
    # The control: casts alone, as converters do them that look at no picture, answer with no number.
    assert not np.isfinite(run(rounded(content), pixels[0])["logits"]).all()


def test_nothing_is_kept_where_nothing_overflows() -> None:
    graph = Graph(residual_graph().SerializeToString())
    assert overflowing(graph, batches()) == {}
    assert {"stem", "two.add", "logits"} <= set(halvable(graph))
    assert "scaled" not in halvable(graph)


def test_weights_too_large_for_half_keep_their_layer() -> None:
    model = residual_graph()
    weights = next(row for row in model.graph.initializer if row.name == "one.second.w")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0, 0, 0, 0] = 1e6
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    graph = Graph(to_half(model.SerializeToString()))
    assert graph.types()["one.second.w"] == FLOAT
    assert graph.types()["one.first.w.half"] == HALF


@pytest.mark.parametrize("keep", [{"stem"}, {"one.add"}, {"logits"}, {"one.first", "two.down", "pool"}, {"flat"}])
def test_any_layer_may_stay_fp32(keep: set[str]) -> None:
    content, pixels = residual_graph().SerializeToString(), batches()[0]
    half = to_half(content, keep)
    np.testing.assert_allclose(run(half, pixels)["logits"], run(content, pixels)["logits"], atol=0.05)
    types = Graph(half).types()
    nodes = {node.name: node for node in Graph(half).proto.node}
    assert all(types[nodes[name].input[0]] == FLOAT for name in keep)


def test_rounding_is_that_of_fp16() -> None:
    """By the reference implementation in NumPy, which computes each layer of the fp16 graph in fp16."""
    content, pixels = residual_graph().SerializeToString(), batches()[0]
    from onnx.reference import ReferenceEvaluator

    (want,) = ReferenceEvaluator(onnx.load_model_from_string(to_half(content))).run(None, {"images": pixels})
    (exact,) = run(content, pixels).values()
    (got,) = run(rounded(content), pixels).values()
    assert 0 < np.abs(got - exact).max() < 0.05
    assert np.abs(got - want).max() < 0.05


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_the_batch_axis_stays(batch: int | str) -> None:
    half = to_half(residual_graph(batch=batch).SerializeToString())
    assert read_graph(half).inputs[0].shape[0] == read_graph(half).outputs[0].shape[0] == batch


def test_a_graph_without_heavy_layers_is_refused() -> None:
    helper = onnx.helper
    rows = [helper.make_tensor_value_info(name, FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "plain", rows[:1], rows[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="no convolution"):
        to_half(model.SerializeToString())


@pytest.mark.release
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_named_networks_are_typed_soundly(tmp_path: Path, name: str) -> None:
    """Resize, TopK, ArgMax, HardSwish and shape arithmetic between halves; the checker infers every type."""
    torch = pytest.importorskip("torch")
    from jetlens.export.onnx import export_model
    from jetlens.export.zoo import zoo_network

    torch.manual_seed(0)
    network, spec = zoo_network(name, pretrained=False)
    export_model(network, spec, tmp_path / "x.onnx", allow_random=True)
    content = (tmp_path / "x.onnx").read_bytes()
    half = to_half(content)
    pixels = verification_batches(spec, "N")[1]
    assert [row.shape for row in run(half, pixels).values()] == [row.shape for row in run(content, pixels).values()]
    assert read_graph(half).precision == "fp16"
