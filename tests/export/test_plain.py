"""Kinds of graph: the plain one of tutorials, floats for tools that feed them, fixed and free batches, chosen sizes; each still answers as PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.errors import ModelError, UsageError
from jetlens.imagefile import load_image
from jetlens.ops.images import normalize, prepare
from jetlens.predictor import load
from jetlens.spec import METADATA_KEY, read_model

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from jetlens import cli  # noqa: E402
from jetlens.export.onnx import Form, export_model  # noqa: E402
from jetlens.export.trained import network_to_export  # noqa: E402
from jetlens.export.zoo import zoo_network  # noqa: E402

MOBILENET = "models/mobilenetv2_torchvision/mobilenet_v2_imagenet_tvnorm_fp16.pth"
PLAIN = Form(raw=True)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_source_000s_snippet_runs_unchanged(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(
            [
                "export",
                "mobilenet_v2",
                "--weights",
                str(shared_data / MOBILENET),
                "--plain",
                "--opset",
                "11",
                "--input-name",
                "input",
                "--output-name",
                "logits",
                "--output",
                "model.onnx",
            ]
        )
    assert end.value.code == 0
    network, spec = zoo_network("mobilenet_v2", shared_data / MOBILENET)
    pixels, _ = prepare([load_image(shared_data / "images/darknet/dog.jpg")], spec.preprocess)
    tensor = normalize(pixels, spec.preprocess)

    session = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: tensor})

    with torch.inference_mode():
        want = network.eval()(torch.from_numpy(tensor)).numpy()
    assert np.abs(outputs[0] - want).max() <= 1e-4
    model = onnx.load("model.onnx")
    assert [row.version for row in model.opset_import] == [11]
    assert [(row.name, row.type.tensor_type.elem_type) for row in (*model.graph.input, *model.graph.output)] == [
        ("input", 1),
        ("logits", 1),
    ]
    assert not any(row.key == METADATA_KEY for row in model.metadata_props)
    with load("model.onnx", "onnxruntime", threads=1) as predictor:
        assert predictor(shared_data / "images/darknet/dog.jpg").to_dict()["top"][0]["label"] == "malamute"


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 20])
def test_every_opset_of_a_plain_detector(tmp_path: Path, opset: int) -> None:
    network, spec = network_to_export("small_det", untrained=True, size_hw=(64, 96))
    checks: list[Any] = []
    written = export_model(network, spec, tmp_path / "x.onnx", form=PLAIN, batch=1, opset=opset, allow_random=True, report=checks.append)
    assert [(row.name, row.shape) for row in written.outputs] == [("boxes", (1, 126, 4)), ("scores", (1, 126, 1))]
    assert checks[0].passed
    assert "TopK" not in operators(tmp_path / "x.onnx")
    assert onnx.load(tmp_path / "x.onnx").opset_import[0].version == opset


def test_plain_and_deployable_detectors_find_the_same(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, spec = network_to_export("small_det", untrained=True, size_hw=(64, 96))
    network.class_output.bias.data.zero_()  # half-sure of everything, so that there is something to find
    export_model(network, spec, tmp_path / "deployable.onnx", allow_random=True)
    export_model(network, spec, tmp_path / "plain.onnx", form=Form(raw=True, output_names=("b", "s")), batch=1, allow_random=True)
    picture = np.random.default_rng(0).integers(0, 256, (130, 170, 3), dtype=np.uint8)
    found = []
    for name in ("deployable", "plain"):
        with load(tmp_path / f"{name}.onnx", "onnxruntime", threads=1) as predictor:
            found.append(predictor(picture))
    assert len(found[0]) == len(found[1]) > 2
    np.testing.assert_allclose(found[0].xyxy, found[1].xyxy, atol=0.05)
    np.testing.assert_allclose(found[0].confidence, found[1].confidence, atol=1e-3)


def test_plain_ssd_keeps_cocos_ids(tmp_path: Path) -> None:
    """The graph's column 0 is COCO's id 1, as in the deployable graph; an id without a name is no error."""
    torch.manual_seed(0)
    network, spec = zoo_network("ssdlite320_mobilenet_v3_large", pretrained=False)
    written = export_model(network, spec, tmp_path / "ssd.onnx", form=PLAIN, batch=1, opset=11, allow_random=True)
    assert (written.decoder, written.label_offset) == ("ssd", -1)
    anchors = written.outputs[0].shape[1]
    boxes, scores = np.zeros((1, anchors, 4), np.float32), np.zeros((1, anchors, 90), np.float32)
    boxes[0, :2] = [[32, 64, 160, 288], [200, 100, 300, 300]]
    scores[0, 0, 2], scores[0, 1, 11] = 0.9, 0.8
    from jetlens.tasks.detection import DetectionTask

    task = DetectionTask(written)
    picture = np.zeros((640, 480, 3), np.uint8)
    (answer,) = task.postprocess({"boxes": boxes, "scores": scores}, task.preprocess([picture]))
    rows = answer.to_dict()["detections"]
    assert [(row["class_id"], row["label"]) for row in rows] == [(3, "car"), (12, "class 12")]
    np.testing.assert_allclose(answer.xyxy[0], [48, 128, 240, 576], atol=1e-3)


@pytest.mark.parametrize("task", ["small_seg", "small_det", "basic_cnn"])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_floats_in_decoded_answers_out(tmp_path: Path, task: str, batch: int | None) -> None:
    """For DeepStream and the like: what the host would have fed the network, and the outputs of the deployable graph."""
    torch.manual_seed(2)
    size = {"small_seg": (64, 96), "small_det": (64, 96), "basic_cnn": (32, 32)}[task]
    network, spec = network_to_export(task, untrained=True, size_hw=size)
    form = Form(floats=True, input_name="data")
    written = export_model(network, spec, tmp_path / "floats.onnx", form=form, batch=batch, taps=True, allow_random=True)
    assert [(row.name, row.dtype, row.shape) for row in written.inputs] == [
        ("data", "float32", ("N" if batch is None else batch, 3, *size))
    ]
    export_model(network, spec, tmp_path / "pixels.onnx", batch=batch, allow_random=True)
    pictures = list(np.random.default_rng(3).integers(0, 256, (2, *size, 3), dtype=np.uint8))
    with load(tmp_path / "floats.onnx", "onnxruntime", threads=1) as one, load(tmp_path / "pixels.onnx", "onnxruntime", threads=1) as two:
        for first, second in zip(one.batch(pictures), two.batch(pictures), strict=True):
            if task == "small_seg":
                assert (first.mask == second.mask).mean() >= 0.9999
            else:
                np.testing.assert_allclose(first.confidence, second.confidence, atol=1e-4)
    assert read_model(tmp_path / "floats.taps.onnx")[1].inputs == written.inputs


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("images", "b"), ("a", "b", "c"), ("a", "")])
def test_names_must_fit(tmp_path: Path, names: tuple[str, ...]) -> None:
    network, spec = network_to_export("small_det", untrained=True, size_hw=(64, 96))
    with pytest.raises(UsageError, match=r"2 outputs \(boxes, scores\)"):
        export_model(network, spec, tmp_path / "x.onnx", form=Form(raw=True, output_names=names), batch=1, allow_random=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "size_hw"),
    [
        ("mobilenet_v2", (160, 160)),
        ("resnet18", (96, 128)),
        pytest.param("alexnet", (224, 160), marks=pytest.mark.release),
        ("lraspp_mobilenet_v3_large", (96, 160)),
    ],
)
def test_chosen_sizes_and_batches_of_the_zoo(tmp_path: Path, name: str, size_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, spec = zoo_network(name, pretrained=False, size_hw=size_hw)
    if name == "mobilenet_v2":
        assert spec.preprocess.short_side == 183  # 256 of 224, as the reference does
    written = export_model(network, spec, tmp_path / "x.onnx", batch=2, allow_random=True)
    assert written.inputs[0].shape == (2, *size_hw, 3)
    assert not operators(tmp_path / "x.onnx") & {"Shape", "NonZero", "If", "Loop"}
    pictures = list(np.random.default_rng(3).integers(0, 256, (3, 200, 300, 3), dtype=np.uint8))
    with load(tmp_path / "x.onnx", "onnxruntime", threads=1) as predictor:
        assert [row.size_hw for row in predictor.batch(pictures)] == [(200, 300)] * 3


@pytest.mark.parametrize(
    ("name", "size_hw", "said"),
    [("ssd300_vgg16", (512, 512), "takes 300x300 and no other"), ("resnet18", (16, 16), "too small"), ("small_det", (65, 96), "32")],
)
def test_sizes_that_do_not_fit(name: str, size_hw: tuple[int, int], said: str) -> None:
    with pytest.raises((UsageError, ModelError), match=said):
        network_to_export(name, untrained=True, size_hw=size_hw)


@pytest.mark.parametrize("size_hw", [(31, 45), (36, 60), (12, 6)])
def test_adaptive_pools_of_any_size(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    """A pyramid of pools as PSPNet and its followers have, at sizes that no bin divides."""
    from jetlens.spec import ModelSpec, PreprocessSpec

    class Pyramid(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.pools = torch.nn.ModuleList(torch.nn.AdaptiveAvgPool2d(bins) for bins in (1, 2, 3, (6, None)))
            self.head = torch.nn.Conv2d(20, 3, 1)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            pooled = [torch.nn.functional.interpolate(pool(x), x.shape[2:], mode="bilinear") for pool in self.pools]
            return self.head(torch.cat([x, *pooled], 1))

    torch.manual_seed(0)
    spec = ModelSpec("pyramid", "segmentation", ("a", "b", "c"), PreprocessSpec(size_hw, std=(255.0,) * 3), "", weights={"source": "test"})
    checks: list[Any] = []
    export_model(Pyramid(), spec, tmp_path / "x.onnx", report=checks.append)
    assert checks[0].passed


ALL = ["resnet18", "resnet50", "mobilenet_v2", "alexnet", "deeplabv3_resnet50", "lraspp", "ssd300_vgg16", "ssdlite320"]


@pytest.mark.release
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("form", ["dynamic", "batch 4", "plain 11"])
def test_every_network_in_every_form(tmp_path: Path, name: str, form: str, record_property: Any) -> None:
    torch.manual_seed(0)
    network, spec = network_to_export(name, untrained=True)
    checks: list[Any] = []
    kinds: dict[str, dict[str, Any]] = {
        "dynamic": {},
        "batch 4": {"batch": 4},
        "plain 11": {"form": PLAIN, "batch": 1, "opset": 11},
    }
    export_model(network, spec, tmp_path / "x.onnx", allow_random=True, report=checks.append, **kinds[form])
    record_property("raw_deviation", checks[0].raw)
    assert not operators(tmp_path / "x.onnx") & {"Shape", "NonMaxSuppression", "NonZero", "If", "Loop"}
