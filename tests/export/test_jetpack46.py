"""Source 004's board, JetPack 4.6: the graph and the configuration stay within what TensorRT 8.0's parser and DeepStream 6.0's nvinfer read.

Neither ran: this compares with what their documents and headers name.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jetlens import cli  # noqa: E402
from jetlens.export.deepstream import write_deepstream  # noqa: E402
from jetlens.predictor import model_path  # noqa: E402

# The names in gstnvinfer_property_parser.h of DeepStream 6.0, as far as full frames and ONNX files go.
PROPERTIES = (
    "gie-unique-id process-mode interval labelfile-path gpu-id output-tensor-meta batch-size network-mode model-engine-file int8-calib-file "
    "workspace-size output-blob-names network-type force-implicit-batch-dim infer-dims model-color-format net-scale-factor offsets mean-file "
    "maintain-aspect-ratio symmetric-padding scaling-filter scaling-compute-hw network-input-order custom-lib-path parse-bbox-func-name "
    "onnx-file num-detected-classes cluster-mode classifier-type classifier-threshold segmentation-threshold segmentation-output-order"
)
CLASS_ATTRIBUTES = "threshold pre-cluster-threshold post-cluster-threshold eps group-threshold minboxes nms-iou-threshold topk"
# Operators that the parser of TensorRT 8.0 reads.
OPERATORS = (
    "Add ArgMax AveragePool Cast Clip Concat Constant Conv Div Equal Erf Exp Gather InstanceNormalization MatMul MaxPool Mul Pow ReduceMean Relu "
    "Reshape Resize Sigmoid Slice Softmax Split Sqrt Sub Transpose Unsqueeze"
)
OWN = ("--task", "segmentation", "--labels", "classes.txt", "--size", "224x224", "--resize", "stretch", "--filter", "linear")


def keys(folder: Path) -> tuple[set[str], set[str]]:
    parser = configparser.ConfigParser()
    parser.read(folder / "nvinfer.txt")
    attributes = set(parser["class-attrs-all"]) if parser.has_section("class-attrs-all") else set()
    return set(parser["property"]), attributes


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four-class segmenter as a plain graph of opset 11, from a .pth file."""
    from poolformer_style import tiny

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(tiny().eval().state_dict(), "best.pth")
    Path("classes.txt").write_text("background\nsunburn\nulcer\nwind scarring\n")
    words = ["export", "poolformer_style:tiny", "--weights", "best.pth", *OWN, "--plain", "--opset", "11", "--output", "nano.onnx"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert not end.value.code
    return tmp_path / "nano.onnx"


def test_the_plain_graph_of_opset_11_computes_no_shapes(plain: Path) -> None:
    """GroupNorm and interpolate leave Shape, Slice and Gather behind, which the builder of a small board has to fold."""
    graph = onnx.load(plain).graph
    assert {node.op_type for node in graph.node} <= set(OPERATORS.split()) - {"Gather", "Slice", "Concat"}
    (answer,) = graph.output
    assert [dim.dim_value for dim in answer.type.tensor_type.shape.dim] == [1, 4, 224, 224]


def test_deepstream_of_the_plain_graph_answers_the_same_classes(plain: Path) -> None:
    written = write_deepstream(plain, plain.parent / "nano")
    assert written.differences == ()
    model = onnx.load(written.graph)
    assert [row.version for row in model.opset_import] == [11]
    assert {node.op_type for node in model.graph.node} <= set(OPERATORS.split())
    assert float(written.settings["net-scale-factor"]) == pytest.approx(1 / 255)
    assert written.settings["offsets"] == "0.0;0.0;0.0"
    pixels = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    (logits,) = ort.InferenceSession(str(plain), providers=["CPUExecutionProvider"]).run(None, {"images": pixels})
    (planes,) = ort.InferenceSession(str(written.graph), providers=["CPUExecutionProvider"]).run(None, {"images": pixels})
    assert planes.shape == (1, 4, 224, 224)
    assert (planes.argmax(1) == logits.argmax(1)).all()


def test_every_setting_is_one_that_deepstream_6_0_knows(plain: Path) -> None:
    folders = [write_deepstream(plain, plain.parent / "nano").folder]
    for name in ("orange-detect", "orange-grade", "orange-segment"):
        folders.append(write_deepstream(model_path(name), plain.parent / name).folder)
    for folder in folders:
        properties, attributes = keys(folder)
        assert not properties - set(PROPERTIES.split())
        assert not attributes - set(CLASS_ATTRIBUTES.split())
