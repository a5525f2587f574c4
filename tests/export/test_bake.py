"""Baked graphs answer to uint8 pixels as the unbaked ones answer to normalised tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jetlens.errors import ModelError
from jetlens.export.bake import INPUT_NAME, bake_preprocessing, graph_input
from jetlens.spec import PreprocessSpec

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

FLOAT, HALF, BYTES = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8


def echo(shape: list[int | str], kind: int = FLOAT, name: str = "x", opset: int = 13) -> Any:
    """A graph that answers with what it is fed."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [name], ["y"])],
        "echo",
        [onnx.helper.make_tensor_value_info(name, kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, shape)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def answer(model: Any, pixels: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def expected(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """The definition, in double precision."""
    values = pixels.astype(np.float64)
    if spec.channel_order == "bgr":
        values = values[..., ::-1]
    if spec.channel_order == "gray":
        grey = [np.asarray(Image.fromarray(row).convert("L")) for row in pixels]
        values = np.stack(grey)[..., None].astype(np.float64)
    values = (values - np.array(spec.mean)) / np.array(spec.std)
    return values.transpose(0, 3, 1, 2) if spec.layout == "nchw" else values


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_baked_steps_equal_their_definition(data: st.DataObject) -> None:
    order = data.draw(st.sampled_from(["rgb", "bgr", "gray"]))
    channels = 1 if order == "gray" else 3
    values = st.lists(st.floats(0.5, 255, width=32), min_size=channels, max_size=channels).map(tuple)
    spec = PreprocessSpec(
        size_hw=(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))),
        channel_order=order,
        mean=data.draw(st.one_of(values, st.just((0.0,) * channels))),
        std=data.draw(st.one_of(values, st.just((1.0,) * channels))),
        layout=data.draw(st.sampled_from(["nchw", "nhwc"])),
        baked=False,
    )
    batch: int | str = data.draw(st.sampled_from(["N", 2]))
    shape = [batch, channels, *spec.size_hw] if spec.layout == "nchw" else [batch, *spec.size_hw, channels]
    baked = bake_preprocessing(echo(shape, opset=data.draw(st.sampled_from([7, 13, 17]))), spec)
    onnx.checker.check_model(baked, full_check=True)
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (2, *spec.size_hw, 3), dtype=np.uint8)
    want = expected(pixels, spec)
    np.testing.assert_allclose(answer(baked, pixels), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_the_order_is_the_one_that_tensorrt_8_6_accepts() -> None:
    spec = PreprocessSpec(size_hw=(4, 6), channel_order="bgr", mean=(1, 2, 3), std=(4, 5, 6))
    baked = bake_preprocessing(echo(["N", 3, 4, 6]), spec)
    assert [node.op_type for node in baked.graph.node] == ["Cast", "Gather", "Sub", "Mul", "Transpose", "Identity"]
    assert [list(row.dims) for row in baked.graph.initializer] == [[3], [3], [3]]
    (images,) = baked.graph.input
    assert images.name == INPUT_NAME
    assert images.type.tensor_type.elem_type == BYTES
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["N", 4, 6, 3]


@pytest.mark.parametrize("kind", [HALF, BYTES])
def test_the_type_of_the_graph_is_kept(kind: int) -> None:
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    got = answer(bake_preprocessing(echo(["N", 3, 4, 6], kind), PreprocessSpec(size_hw=(4, 6))), pixels)
    assert got.dtype == (np.float16 if kind == HALF else np.uint8)
    np.testing.assert_array_equal(got, pixels.transpose(0, 3, 1, 2))


def test_an_input_that_already_has_the_name_is_renamed() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
    model = echo([1, 3, 4, 6], name=INPUT_NAME)
    before = model.SerializeToString()
    np.testing.assert_array_equal(answer(bake_preprocessing(model, PreprocessSpec(size_hw=(4, 6))), pixels), pixels.transpose(0, 3, 1, 2))
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (echo(["N", 3, 5, 6]), "shape"),
        (echo(["N", 4, 6, 3]), "layout"),
        (echo(["N", 3, 4]), "shape"),
        (echo(["N", 3, 4, 6], onnx.TensorProto.INT64), "uint8"),
        (echo(["N", 3, 4, 6], opset=6), "opset"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(model: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        bake_preprocessing(model, PreprocessSpec(size_hw=(4, 6)))


@pytest.mark.parametrize(
    ("file", "order", "mean", "std"),
    [
        ("yolox_nano/yolox_nano_bigisland.onnx", "bgr", (0, 0, 0), (1, 1, 1)),
        ("squeezenet_winml/SqueezeNet_fp16.onnx", "bgr", (104, 117, 123), (1, 1, 1)),
        ("mnist_cntk/mnist.onnx", "gray", (0,), (1,)),
        ("ultraface/version-slim-320.onnx", "rgb", (127, 127, 127), (128, 128, 128)),
        ("yunet/yunet_n_dynamic.onnx", "bgr", (0, 0, 0), (1, 1, 1)),
    ],
)
def test_real_graphs_answer_alike(shared_data: Path, file: str, order: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    model = onnx.load(shared_data / "models" / file)
    shape = [dim.dim_value for dim in graph_input(model.graph).type.tensor_type.shape.dim]
    spec = PreprocessSpec(size_hw=(shape[2] or 160, shape[3] or 160), channel_order=order, mean=mean, std=std)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 256, (1, *spec.size_hw, 3), dtype=np.uint8)
    half = graph_input(model.graph).type.tensor_type.elem_type == HALF
    want = answer(model, expected(pixels, spec).astype(np.float16 if half else np.float32))
    got = answer(bake_preprocessing(model, spec), pixels)
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=1e-3 if half else 1e-4, atol=1e-4 * np.abs(want).max())
