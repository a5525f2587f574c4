"""Graphs that take raw frames: they resize as the host does, answer as the graph behind them does, and say where boxes and masks are in the frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.errors import InputError, ModelError, SidecarError, VerificationError
from jetlens.export import frame_size, resampling
from jetlens.export.resampling import axis_weights, resize_steps
from jetlens.imagefile import load_image
from jetlens.ops.images import place, prepare, resize_into
from jetlens.predictor import load, model_path
from jetlens.spec import ModelSpec, PreprocessSpec, read_model, sidecar_path
from tiny_graphs import color_graph, color_spec, write_pair

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")

add_frame_size = frame_size.add_frame_size


def echo(spec: PreprocessSpec) -> Any:
    """A deployable graph that answers with its picture as floats."""
    helper, shape = onnx.helper, ["N", *spec.size_hw, 3]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["y"], to=onnx.TensorProto.FLOAT), helper.make_node("Identity", ["y"], ["out"])],
        "echo",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resized_in_graph(frames: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    framed = replace(spec, frame_hw=frames.shape[1:3])
    model = frame_size.frame_graph(onnx, echo(spec), ModelSpec("echo", "classification", (), framed, "logits"))
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": frames})[0]


def resized_on_host(frames: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    host = np.empty((len(frames), *spec.size_hw, 3), np.uint8)
    for frame, canvas in zip(frames, host, strict=True):
        resize_into(frame, spec, canvas)
    return host


side = st.integers(1, 90)


@st.composite
def rules(draw: st.DrawFn) -> tuple[tuple[int, int], PreprocessSpec]:
    rule = draw(st.sampled_from(["stretch", "letterbox", "crop"]))
    short = draw(st.one_of(st.none(), st.integers(4, 90))) if rule == "crop" else None
    spec = PreprocessSpec(
        (draw(side), draw(side)),
        rule,
        draw(st.sampled_from(["antialias", "linear"])),
        short,
        draw(st.sampled_from(["center", "top-left"])),
        draw(st.integers(0, 255)),
    )
    return (draw(st.integers(2, 120)), draw(st.integers(2, 120))), spec


def check_equal(frame_hw: tuple[int, int], spec: PreprocessSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    edges = np.where(noise > 127, 255, 0).astype(np.uint8)
    frames = np.stack([noise, edges])
    made, host = resized_in_graph(frames, spec), resized_on_host(frames, spec)
    assert (made == np.rint(made)).all()
    assert np.abs(made - host).max() <= 1


@given(rules(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_frame_and_rule_is_resized_as_on_the_host(case: tuple[tuple[int, int], PreprocessSpec], seed: int) -> None:
    check_equal(*case, seed)


@pytest.mark.release
@settings(max_examples=3000, deadline=None)
@given(rules(), st.integers(0, 10**6))
def test_any_frame_and_rule_is_resized_as_on_the_host_in_full(case: tuple[tuple[int, int], PreprocessSpec], seed: int) -> None:
    check_equal(*case, seed)


CAMERAS = [
    ((720, 1280), PreprocessSpec((288, 512), "letterbox")),
    ((720, 1280), PreprocessSpec((300, 300), "stretch", "linear")),
    ((480, 640), PreprocessSpec((224, 224), "crop", "antialias", 256)),
    ((1080, 1920), PreprocessSpec((320, 320), "letterbox", "linear")),
]


@pytest.mark.parametrize(("frame_hw", "spec"), CAMERAS)
def test_photographs(shared_data: Path, frame_hw: tuple[int, int], spec: PreprocessSpec) -> None:
    pictures = []
    for file in ("darknet/dog.jpg", "navel_orange/img324.jpg"):
        photo = load_image(shared_data / "images" / file)
        pictures.append(cv2.resize(photo, frame_hw[::-1], interpolation=cv2.INTER_CUBIC))
    frames = np.stack(pictures)
    made, host = resized_in_graph(frames, spec), resized_on_host(frames, spec)
    assert np.abs(made - host).max() <= 1
    assert (made == host).mean() > 0.8, "most values are the very same"


def test_naive_resizing_would_be_caught(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: two pixels in place of Pillow's triangle, and a canvas shifted by a pixel, are refused and leave nothing behind."""
    source = model_path("orange-grade")

    def no_antialias(frame: int, size: int, offset: int, canvas: int, kind: str) -> Any:
        return axis_weights(frame, size, offset, canvas, "linear")

    def shifted(frame: int, size: int, offset: int, canvas: int, kind: Any) -> Any:
        return np.roll(axis_weights(frame, size, offset, canvas, kind), 1, axis=1)

    for bug in (no_antialias, shifted):
        monkeypatch.setattr(resampling, "axis_weights", bug)
        with pytest.raises(VerificationError, match=r"grey levels .*nothing was kept"):
            add_frame_size(source, (480, 640), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["orange-detect", "orange-grade", "orange-segment"])
def test_answers_are_in_the_pixels_of_the_frame(tmp_path: Path, name: str) -> None:
    from jetlens.data.orange_line import still

    source = model_path(name)
    spec, check = add_frame_size(source, (540, 720), tmp_path / "x.onnx")
    assert (spec.inputs[0].shape, spec.preprocess.frame_hw) == (("N", 540, 720, 3), (540, 720))
    assert check.levels <= 1
    frames = [still(seed, (540, 720))[0] for seed in (11, 12)]
    with load(source, "onnxruntime", threads=1) as host, load(tmp_path / "x.onnx", "onnxruntime", threads=1) as graph:
        for want, got in zip(host.batch(frames), graph.batch(frames), strict=True):
            assert want.size_hw == got.size_hw == (540, 720)
            if name == "orange-segment":
                assert (want.mask == got.mask).mean() >= 0.999
            elif name == "orange-detect":
                assert len(want) == len(got) > 0
                np.testing.assert_allclose(got.xyxy, want.xyxy, atol=0.5)
            else:
                np.testing.assert_allclose(got.confidence, want.confidence, atol=0.01)


def test_the_host_only_copies() -> None:
    spec = PreprocessSpec((8, 12), "letterbox", frame_hw=(20, 40))
    frame = np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3)
    out = np.zeros((3, 20, 40, 3), np.uint8)
    array, placements = prepare([frame, frame], spec, out)
    assert array.base is out
    assert (out[:2] == frame).all()
    assert not out[2].any()
    assert placements == (place((20, 40), replace(spec, frame_hw=None)),) * 2
    with pytest.raises(InputError, match=r"\[20, 40, 3\].*\[40, 20, 3\] came.*--frame-size"):
        prepare([np.zeros((40, 20, 3), np.uint8)], spec)


@pytest.mark.parametrize(("batch", "half"), [("N", False), (2, False), ("N", True)])
def test_batch_axis_and_half_precision(tmp_path: Path, batch: int | str, half: bool) -> None:
    path = write_pair(tmp_path, color_graph(batch=batch, half=half))
    spec, _ = add_frame_size(path, (24, 36), tmp_path / "framed.onnx")
    assert spec.inputs[0].shape[0] == batch
    frames = [np.full((24, 36, 3), color, np.uint8) for color in ((250, 10, 20), (10, 20, 250), (10, 250, 20))]
    with load(tmp_path / "framed.onnx", "onnxruntime", threads=1) as predictor:
        assert [row.class_id[0] for row in predictor.batch(frames)] == [0, 2, 1]
        assert predictor.spec.preprocess.frame_hw == (24, 36)


def test_what_cannot_take_frames_is_refused(tmp_path: Path) -> None:
    floats = write_pair(tmp_path, color_graph(baked=False), color_spec(baked=False), "floats.onnx")
    with pytest.raises(ModelError, match="takes floats"):
        add_frame_size(floats, (24, 36), tmp_path / "x.onnx")
    add_frame_size(write_pair(tmp_path, color_graph()), (24, 36), tmp_path / "framed.onnx")
    with pytest.raises(ModelError, match="frames of one size already"):
        add_frame_size(tmp_path / "framed.onnx", (24, 36), tmp_path / "x.onnx")
    model = echo(PreprocessSpec((8, 12)))
    model.graph.node[0].op_type = "QuantizeLinear"
    with pytest.raises(ModelError, match="not uint8 that goes into a Cast"):
        frame_size.frame_graph(onnx, model, replace(color_spec(), preprocess=PreprocessSpec((8, 12), frame_hw=(24, 36))))


def test_the_sidecar_keeps_the_frame_size(tmp_path: Path) -> None:
    add_frame_size(write_pair(tmp_path, color_graph()), (24, 36), tmp_path / "framed.onnx")
    text = sidecar_path(tmp_path / "framed.onnx").read_text()
    assert ModelSpec.from_json(text) == read_model(tmp_path / "framed.onnx")[1]
    assert PreprocessSpec((8, 12)).frame_hw is None, "older sidecars, which have no such key, are read as before"
    for frame_hw, baked in (((0, 5), True), ((5, 5), False)):
        with pytest.raises(SidecarError, match="frame_hw"):
            PreprocessSpec((8, 12), baked=baked, frame_hw=frame_hw)


def test_bands_leave_out_what_is_zero() -> None:
    """At a camera's size the matrix products cost a small part of the full ones."""
    steps = resize_steps(PreprocessSpec((288, 512), "letterbox"), (720, 1280))
    weights = [values for step in steps for name, values in step.constants if name.endswith(".weights")]
    assert len(weights) == 2
    assert sum(values.size for values in weights) < 0.15 * (720 * 288 + 1280 * 512)
