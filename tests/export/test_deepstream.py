"""DeepStream's files: read back, they say what the sidecar says; run as nvinfer would, they answer as jetlens does."""

from __future__ import annotations

import os
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.cli import deepstream as command_module
from jetlens.data.orange_line import still
from jetlens.errors import ModelError, OutputError, UsageError
from jetlens.export.deepstream import CONFIG, LABELS, SCRIPT, DeepStreamFiles, write_deepstream
from jetlens.ops.boxes import nms
from jetlens.ops.images import normalize
from jetlens.predictor import load, model_path
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec, read_model, write_sidecar

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

SHIPPED = ("orange-detect", "orange-grade", "orange-segment", "cifar10-basic")

PROPERTIES = {
    "gpu-id", "onnx-file", "model-engine-file", "labelfile-path", "batch-size", "network-mode", "network-type", "process-mode", "gie-unique-id",
    "interval", "infer-dims", "network-input-order", "model-color-format", "net-scale-factor", "offsets", "maintain-aspect-ratio",
    "symmetric-padding", "scaling-filter", "num-detected-classes", "cluster-mode", "parse-bbox-func-name", "custom-lib-path",
    "output-blob-names", "classifier-threshold", "segmentation-threshold", "segmentation-output-order",
}  # fmt: skip
"""What gstnvinfer_property_parser.h of DeepStream 6.4 to 8.0 knows of the group [property]; nvinfer warns of other keys."""


def read_back(folder: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    with (folder / CONFIG).open() as file:
        parser.read_file(file)
    return parser


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(";")]


class Nvinfer:
    """What Gst-nvinfer does with these files, after its documentation and the parsers' published source: y = scale * (x - offset), planar."""

    def __init__(self, folder: Path) -> None:
        self.config = read_back(folder)
        self.own = self.config["property"]
        self.session = ort.InferenceSession(str(folder / self.own["onnx-file"]), providers=["CPUExecutionProvider"])

    def tensor(self, scaled_rgb: np.ndarray) -> np.ndarray:
        channels, height, width = (int(side) for side in self.own["infer-dims"].split(";"))
        assert scaled_rgb.shape == (height, width, channels)
        ordered = scaled_rgb[..., ::-1] if self.own["model-color-format"] == "1" else scaled_rgb
        offsets = np.array(numbers(self.own["offsets"]), np.float32)
        y = np.float32(self.own["net-scale-factor"]) * (ordered.astype(np.float32) - offsets)
        assert self.own["network-input-order"] == "0"
        return np.ascontiguousarray(y.transpose(2, 0, 1))[None]

    def run(self, scaled_rgb: np.ndarray) -> dict[str, np.ndarray]:
        (taken,) = self.session.get_inputs()
        assert taken.type == "tensor(float)"
        names = self.own["output-blob-names"].split(";")
        assert [row.name for row in self.session.get_outputs()] == names
        answers = self.session.run(names, {taken.name: self.tensor(scaled_rgb)})
        assert all(answer.dtype == np.float32 for answer in answers)
        return {name: answer[0] for name, answer in zip(names, answers, strict=True)}

    def boxes(self, rgb: np.ndarray) -> Detections:
        """The SSD parser, then clustering by NMS."""
        answer = self.run(rgb)
        height, width = rgb.shape[:2]
        count = min(int(answer["num_detections"][0]), len(answer["detection_classes"]))
        top, left, bottom, right = (answer["detection_boxes"][:count] * np.tile([height, width], 2).astype(np.float32)).T
        xyxy = np.stack([left.clip(0, width - 1), top.clip(0, height - 1), right.clip(0, width - 1), bottom.clip(0, height - 1)], 1)
        confidence, class_id = answer["detection_scores"][:count], answer["detection_classes"][:count].astype(np.uint32).astype(np.int64)
        rules = self.config["class-attrs-all"]
        kept = np.flatnonzero((confidence >= float(rules["pre-cluster-threshold"])) & (class_id < int(self.own["num-detected-classes"])))
        best = kept[nms(xyxy[kept], confidence[kept], class_id[kept], float(rules["nms-iou-threshold"]))]
        return Detections(xyxy[best].astype(np.float32), confidence[best], class_id[best], (height, width))

    def mask(self, rgb: np.ndarray) -> np.ndarray:
        (planes,) = self.run(rgb).values()
        assert self.own["segmentation-output-order"] == "0"
        assert len(planes) == int(self.own["num-detected-classes"])
        best, value = np.full(planes.shape[1:], -1), np.full(planes.shape[1:], -1.0, np.float32)
        for class_id, plane in enumerate(planes):
            better = (plane > value) & (plane > float(self.own["segmentation-threshold"]))
            best[better], value[better] = class_id, plane[better]
        return best


def written(name: str, folder: Path, **options: Any) -> tuple[DeepStreamFiles, ModelSpec]:
    path = model_path(name)
    return write_deepstream(path, folder, **options), read_model(path)[1]


# ---- what the files say


@pytest.mark.parametrize("frame_hw", [None, (360, 640)])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_configuration_read_back_says_what_the_sidecar_says(name: str, frame_hw: tuple[int, int] | None, tmp_path: Path) -> None:
    files, spec = written(name, tmp_path, batch=3, frame_hw=frame_hw)
    pre = spec.preprocess
    config = read_back(tmp_path)
    own = config["property"]
    assert set(own) <= PROPERTIES
    assert dict(own) == files.settings
    height, width = frame_hw or pre.size_hw
    assert own["infer-dims"] == f"3;{height};{width}"
    assert (own["batch-size"], own["network-input-order"], own["model-color-format"]) == ("3", "0", "0")
    assert (float(own["net-scale-factor"]), numbers(own["offsets"])) == (1, [0, 0, 0])
    assert own["network-type"] == {"detection": "0", "classification": "1", "segmentation": "2"}[spec.task]
    letterbox = pre.resize == "letterbox" and frame_hw is None
    assert (own["maintain-aspect-ratio"], own["symmetric-padding"]) == (str(int(letterbox)), str(int(letterbox)))
    assert (tmp_path / own["onnx-file"]).is_file()
    assert (tmp_path / own["labelfile-path"]).is_file()
    (taken,) = onnx.load(tmp_path / own["onnx-file"]).graph.input
    shape = [dim.dim_value or dim.dim_param for dim in taken.type.tensor_type.shape.dim]
    assert shape == ["N", 3, height, width]
    if spec.task == "detection":
        rules = config["class-attrs-all"]
        assert (float(rules["pre-cluster-threshold"]), float(rules["nms-iou-threshold"])) == (spec.confidence, spec.iou)
        assert int(own["num-detected-classes"]) == len(spec.labels)
    assert bool(files.differences) == (frame_hw is None)


def test_labels_stand_as_each_kind_of_network_reads_them(tmp_path: Path) -> None:
    for name in SHIPPED:
        _, spec = written(name, tmp_path / name)
        separator = ";" if spec.task == "classification" else "\n"
        assert (tmp_path / name / LABELS).read_text().removesuffix("\n").split(separator) == list(spec.labels)


def test_precision_is_the_graphs(tmp_path: Path) -> None:
    content, spec = read_model(model_path("cifar10-basic"))
    for precision, mode in (("fp32", "0"), ("int8", "1"), ("fp16", "2")):
        path = tmp_path / f"{precision}.onnx"
        path.write_bytes(content)
        # Only what the sidecar says counts here; the graph is the same.
        write_sidecar(path, replace(spec, precision=precision))
        files = write_deepstream(path, tmp_path / precision)
        assert files.settings["network-mode"] == mode
        shapes = "--minShapes=images:1x3x32x32 --optShapes=images:1x3x32x32"
        assert any("--stronglyTyped" in difference and shapes in difference for difference in files.differences) == (precision == "fp16")
        assert files.settings["model-engine-file"] == f"{precision}.deepstream.onnx_b1_gpu0_{precision}.engine"


# ---- what the files do


def test_a_detector_finds_the_same_boxes(tmp_path: Path) -> None:
    written("orange-detect", tmp_path)
    nvinfer = Nvinfer(tmp_path)
    with load("orange-detect", "onnxruntime", threads=1) as predictor:
        for seed in range(5, 8):
            image = still(seed, predictor.spec.preprocess.size_hw)[0]
            want, got = predictor(image), nvinfer.boxes(image)
            assert isinstance(want, Detections)
            assert len(want) == len(got) > 0
            # Its parser clips to the last pixel's left and upper edge.
            assert np.abs(want.xyxy - got.xyxy).max() <= 1.001
            inner = (want.xyxy > 1).all(axis=1) & (want.xyxy < [511, 287, 511, 287]).all(axis=1)
            assert np.abs(want.xyxy - got.xyxy)[inner].max() < 1e-3
            assert np.abs(want.confidence - got.confidence).max() < 1e-5


def test_a_graph_for_frames_finds_boxes_where_they_are_in_the_frame(tmp_path: Path) -> None:
    frame_hw = (300, 700)
    written("orange-detect", tmp_path, frame_hw=frame_hw)
    nvinfer = Nvinfer(tmp_path)
    image = still(6, frame_hw)[0]
    with load("orange-detect", "onnxruntime", threads=1) as predictor:
        want = predictor(image)
    got = nvinfer.boxes(image)
    assert isinstance(want, Detections)
    assert len(want) == len(got) > 0
    assert np.abs(want.xyxy - got.xyxy).max() <= 1.2


def test_a_classifier_gives_the_same_probabilities(tmp_path: Path) -> None:
    for name in ("orange-grade", "cifar10-basic"):
        written(name, tmp_path / name)
        with load(name, "onnxruntime", threads=1) as predictor:
            image = still(3, predictor.spec.preprocess.size_hw)[0]
            want = predictor(image)
        assert isinstance(want, Classification)
        (got,) = Nvinfer(tmp_path / name).run(image).values()
        assert got[want.class_id] == pytest.approx(want.confidence, abs=1e-6)
        assert got.argmax() == want.class_id[0]


@pytest.mark.parametrize("frame_hw", [None, (200, 400)])
def test_a_segmenter_gives_the_same_mask(frame_hw: tuple[int, int] | None, tmp_path: Path) -> None:
    written("orange-segment", tmp_path, frame_hw=frame_hw)
    with load("orange-segment", "onnxruntime", threads=1) as predictor:
        image = still(9, frame_hw or predictor.spec.preprocess.size_hw)[0]
        want = predictor(image)
    assert isinstance(want, Segmentation)
    got = Nvinfer(tmp_path).mask(image)
    assert len(np.unique(want.mask)) > 1
    # Frames are resized within one grey level; without resizing nothing may differ.
    assert (got != want.mask).mean() <= (0 if frame_hw is None else 0.002)


# ---- graphs of others


SIZE_HW = (6, 8)


def classifier(
    folder: Path, pre: PreprocessSpec, *, decoder: str = "logits", offset: int = 0, batch: int | str = "N", opset: int = 17
) -> Path:
    """A float graph [N, 3, H, W] that answers the means of its channels."""
    shape = [batch, 3, *SIZE_HW] if pre.layout == "nchw" else [batch, *SIZE_HW, 3]
    axes = [2, 3] if pre.layout == "nchw" else [1, 2]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=0)],
        "means",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 3])],
    )
    path = folder / "means.onnx"
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8).SerializeToString())
    labels = ("first", "second; with a semicolon", "third")[max(0, offset) :]
    write_sidecar(path, ModelSpec("means", "classification", labels, pre, decoder, label_offset=offset))
    return path


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_one_std_for_all_channels_is_nvinfers_own_arithmetic(order: Any, tmp_path: Path) -> None:
    pre = PreprocessSpec(SIZE_HW, filter="linear", baked=False, channel_order=order, mean=(123.5, 110.25, 101.0), std=(57.0, 57.0, 57.0))
    files = write_deepstream(classifier(tmp_path, pre), tmp_path / "out")
    own = files.settings
    assert (float(own["net-scale-factor"]), numbers(own["offsets"])) == (1 / 57, [123.5, 110.25, 101.0])
    assert own["model-color-format"] == {"rgb": "0", "bgr": "1"}[order]
    assert files.differences == ()
    # The tensor that nvinfer makes is the tensor that jetlens makes.
    want = normalize(picture()[None], pre)
    assert Nvinfer(tmp_path / "out").tensor(picture()) == pytest.approx(want, abs=1e-5)


def test_a_std_for_each_channel_goes_into_the_graph_because_one_factor_cannot_say_it(tmp_path: Path) -> None:
    pre = PreprocessSpec(SIZE_HW, filter="linear", baked=False, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    files = write_deepstream(classifier(tmp_path, pre, decoder="probabilities"), tmp_path / "out")
    assert any("one net-scale-factor" in change for change in files.changes)
    (got,) = Nvinfer(tmp_path / "out").run(picture()).values()
    want = normalize(picture()[None], pre).mean(axis=(2, 3))[0]
    assert got == pytest.approx(want, abs=1e-5)
    # What is usually written, the mean of the three, is off by more than any rounding.
    one_factor = (picture().astype(np.float32) - np.float32(pre.mean)).mean(axis=(0, 1)) / np.mean(pre.std)
    assert np.abs(one_factor - want).max() > 1e-3


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_other_layouts_and_orders_are_made_planar_rgb(layout: Any, order: Any, tmp_path: Path) -> None:
    pre = PreprocessSpec(
        SIZE_HW, filter="linear", baked=False, layout=layout, channel_order=order, mean=(9.0, 8.0, 7.0), std=(2.0, 3.0, 4.0)
    )
    write_deepstream(classifier(tmp_path, pre, decoder="probabilities"), tmp_path / "out")
    (got,) = Nvinfer(tmp_path / "out").run(picture()).values()
    channels = normalize(picture()[None], pre)
    assert got == pytest.approx(channels.mean(axis=(2, 3) if layout == "nchw" else (1, 2))[0], abs=1e-4)


def test_a_background_without_label_is_no_answer(tmp_path: Path) -> None:
    pre = PreprocessSpec(SIZE_HW, filter="linear", baked=False, std=(50.0, 50.0, 50.0))
    path = classifier(tmp_path, pre, offset=1)
    write_deepstream(path, tmp_path / "out")
    (got,) = Nvinfer(tmp_path / "out").run(picture()).values()
    with load(path, "onnxruntime") as predictor:
        want = predictor(picture())
    assert isinstance(want, Classification)
    assert got[want.class_id] == pytest.approx(want.confidence, abs=1e-6)
    assert (tmp_path / "out" / LABELS).read_text() == "second, with a semicolon;third\n"


def boxes_graph(folder: Path, decoder: str, rows: list[list[float]], offset: int = 0) -> Path:
    """A graph that answers the same rows for every picture."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["images"], ["x"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=1),
            onnx.helper.make_node("Squeeze", ["m", "axis"], ["s"]),
            onnx.helper.make_node("Mul", ["s", "zero"], ["z"]),
            onnx.helper.make_node("Add", ["z", "rows"], ["out"]),
        ],
        "boxes",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", *SIZE_HW, 3])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["N", len(rows), 6])],
        [
            onnx.numpy_helper.from_array(np.array([3], np.int64), "axis"),
            onnx.numpy_helper.from_array(np.float32(0), "zero"),
            onnx.numpy_helper.from_array(np.array([rows], np.float32), "rows"),
        ],
    )
    path = folder / "boxes.onnx"
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    write_sidecar(
        path, ModelSpec("boxes", "detection", ("cat", "dog"), PreprocessSpec(SIZE_HW, filter="linear"), decoder, label_offset=offset)
    )
    return path


def test_a_detectors_background_class_gets_no_box(tmp_path: Path) -> None:
    rows = [[1, 1, 4, 4, 0.9, 0], [2, 1, 5, 5, 0.8, 2], [1, 2, 3, 3, 0.7, 1]]
    path = boxes_graph(tmp_path, "detections", rows, offset=1)
    write_deepstream(path, tmp_path / "out")
    got = Nvinfer(tmp_path / "out").boxes(picture())
    with load(path, "onnxruntime") as predictor:
        want = predictor(picture())
    assert isinstance(want, Detections)
    assert want.class_id.tolist() == got.class_id.tolist() == [1, 0]
    assert got.xyxy == pytest.approx(want.xyxy, abs=1e-4)


# ---- what cannot be


def test_a_head_that_the_host_decodes_is_refused_with_the_graph_that_it_needs(tmp_path: Path) -> None:
    path = boxes_graph(tmp_path, "yolox", [[0, 0, 1, 1, 0.5, 0.5]])
    with pytest.raises(ModelError, match=r"decoder 'yolox'.*stock parsers.*\[N, K, 6\]"):
        write_deepstream(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_crop_needs_the_frames_size(tmp_path: Path) -> None:
    pre = PreprocessSpec(SIZE_HW, resize="crop", short_side=7, filter="linear", baked=False, std=(50.0, 50.0, 50.0))
    path = classifier(tmp_path, pre)
    with pytest.raises(ModelError, match="--frame-size"):
        write_deepstream(path, tmp_path / "out")
    write_deepstream(path, tmp_path / "out", frame_hw=(20, 30))
    frame = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (got,) = Nvinfer(tmp_path / "out").run(frame).values()
    with load(path, "onnxruntime") as predictor:
        want = predictor(frame)
    assert isinstance(want, Classification)
    assert got[want.class_id] == pytest.approx(want.confidence, abs=0.01)


def test_what_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    pre = PreprocessSpec(SIZE_HW, filter="linear", baked=False, std=(50.0, 50.0, 50.0))
    fixed = classifier(tmp_path, pre, batch=2)
    assert write_deepstream(fixed, tmp_path / "fixed").settings["batch-size"] == "2"
    with pytest.raises(ModelError, match="batches of 2 only"):
        write_deepstream(fixed, tmp_path / "other", batch=4)
    with pytest.raises(OutputError, match="--force"):
        write_deepstream(fixed, tmp_path / "fixed")
    stale = tmp_path / "fixed" / "means.deepstream.onnx_b2_gpu0_fp32.engine"
    stale.write_bytes(b"of the graph before")
    write_deepstream(fixed, tmp_path / "fixed", force=True)
    assert not stale.exists()
    write_deepstream(classifier(tmp_path, pre, opset=11), tmp_path / "old")
    with pytest.raises(ModelError, match="opset 10"):
        write_deepstream(classifier(tmp_path, pre, opset=10), tmp_path / "older")
    with pytest.raises(UsageError, match="is an engine"):
        write_deepstream(tmp_path / "x.plan", tmp_path / "out")


# ---- the script

FAKE = '#!/bin/sh\nfor argument in "$@"; do printf "%s\\n" "$argument"; done\n'


def launched(folder: Path, *sources: str, **environment: str) -> tuple[int, list[str], str]:
    """What run.sh hands to gst-launch-1.0."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "gst-launch-1.0").write_text(FAKE)
    (tools / "gst-launch-1.0").chmod(0o755)
    run = subprocess.run(
        [folder / SCRIPT, *sources],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **environment},
        check=False,
    )
    return run.returncode, run.stdout.splitlines(), run.stderr


def test_the_script_passes_sources_as_they_are(tmp_path: Path) -> None:
    written("orange-detect", tmp_path, batch=2, frame_hw=(360, 640))
    video = tmp_path / "my video; rm -rf $HOME.mp4"
    code, words, _ = launched(tmp_path, str(video), "rtsp://host/stream?a=1&b=2")
    assert code == 0
    assert f"uri=file://{video}" in words
    assert "uri=rtsp://host/stream?a=1&b=2" in words
    mux = words[words.index("nvstreammux") :]
    assert mux[1:6] == ["name=mux", "batch-size=2", "width=640", "height=360", "live-source=1"]
    assert f"config-file-path={tmp_path / CONFIG}" in words
    assert words.index("nvinfer") < words.index("nvdsosd") < words.index("location=out.mp4") < words.index(f"uri=file://{video}")
    assert {"mux.sink_0", "mux.sink_1"} <= set(words)


def test_the_script_refuses_more_streams_than_the_batch_and_none_at_all(tmp_path: Path) -> None:
    written("orange-segment", tmp_path)
    assert launched(tmp_path)[0] == 2
    code, _, message = launched(tmp_path, "a.mp4", "b.mp4")
    assert (code, "--batch 2" in message) == (2, True)
    code, words, _ = launched(tmp_path, "a.mp4", SINK="none")
    assert (code, "nvsegvisual" in words, "fakesink" in words) == (0, True, True)
    code, words, _ = launched(tmp_path, "a.mp4", ENCODER="x264enc", SINK="b.mp4")
    assert (code, "x264enc" in words, "video/x-raw,format=I420" in words, "location=b.mp4" in words) == (0, True, True, True)


# ---- the command


def test_the_command_says_what_differs_and_what_the_graph_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: dict[str, Any] = {"precision": None, "batch": None, "force": False, "as_json": False}
    command_module.command("orange-detect", output=tmp_path / "a", frame_size=None, **arguments)
    shown = capsys.readouterr().out
    assert "differs: letterbox" in shown
    command_module.command("orange-detect", output=tmp_path / "b", frame_size="360x640", **arguments)
    shown = capsys.readouterr().out
    assert "differs" not in shown
    assert "resizes frames of 360x640" in shown
    with pytest.raises(UsageError, match="fp32, fp16 and int8"):
        command_module.command("orange-detect", output=tmp_path / "c", frame_size=None, **{**arguments, "precision": "bf16"})
