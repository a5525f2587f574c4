"""Every exported graph parses and builds, strongly typed, with the ONNX parser of a real TensorRT; no GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetlens.models import build
from jetlens.spec import ModelSpec, PreprocessSpec

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'jetlens[trt-rtx]'")

from jetlens.export.frame_size import add_frame_size  # noqa: E402
from jetlens.export.onnx import Form, export_model, taps_path  # noqa: E402
from jetlens.export.trained import network_to_export  # noqa: E402
from jetlens.export.zoo import zoo_network  # noqa: E402
from jetlens.predictor import model_path  # noqa: E402

SHIPPED = sorted((Path(__file__).parents[2] / "src/jetlens/assets/models").glob("*.onnx"))


def build_engine(model: bytes, largest_batch: int = 4) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Parses and builds for one GPU generation ahead of time; gives shape and type of every input and output.

    Raises:
        AssertionError: the parser or the builder refuses the graph; the message has their words.
    """
    said: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    image = network.get_input(0)
    shape = tuple(image.shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, (1, *shape[1:]), (1, *shape[1:]), (largest_batch, *shape[1:]))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, said
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    return {row.name: (tuple(row.shape), row.dtype) for row in tensors}


OWN: dict[str, tuple[Any, tuple[int, int], dict[str, Any]]] = {
    "basic_cnn": ("classification", (32, 32), {"num_classes": 4}),
    "small_det": ("detection", (64, 96), {"num_classes": 2, "size_hw": (64, 96)}),
    "small_seg": ("segmentation", (64, 96), {"num_classes": 4}),
}
OUTPUTS = {
    "classification": ("logits", (-1, 4), "FLOAT"),
    "detection": ("detections", (-1, 252, 6), "FLOAT"),
    "segmentation": ("mask", (-1, 64, 96), "INT32"),
}


@pytest.mark.parametrize("name", OWN)
def test_own_networks_build(tmp_path: Path, name: str) -> None:
    task, size_hw, arguments = OWN[name]
    path = tmp_path / f"{name}.onnx"
    labels = tuple(map(str, range(arguments["num_classes"])))
    torch.manual_seed(0)
    spec = ModelSpec(name, task, labels, PreprocessSpec(size_hw, mean=(124, 116, 104), std=(58, 57, 57)), "")
    export_model(build(name, **arguments), spec, path, taps=True, allow_random=True)
    tensors = build_engine(path.read_bytes())
    output, shape, kind = OUTPUTS[task]
    assert tensors == {"images": ((-1, *size_hw, 3), trt.DataType.UINT8), output: (shape, getattr(trt.DataType, kind))}
    build_engine(taps_path(path).read_bytes())


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvision_networks_build(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network, spec = zoo_network(name, pretrained=False)
    export_model(network, spec, tmp_path / "x.onnx", allow_random=True)
    assert "images" in build_engine((tmp_path / "x.onnx").read_bytes())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_models_build(path: Path) -> None:
    assert build_engine(path.read_bytes())["images"][1] == trt.DataType.UINT8


def test_a_network_of_the_users_own_builds(tmp_path: Path) -> None:
    """GroupNorm, pooling in place of attention and a bilinear pyramid, the kind that could not be reloaded elsewhere; plain and deployable."""
    from poolformer_style import tiny

    torch.manual_seed(0)
    spec = ModelSpec("own", "segmentation", tuple("abcd"), PreprocessSpec((64, 96), std=(255.0,) * 3), "", weights={"source": "test"})
    export_model(tiny(), spec, tmp_path / "own.onnx")
    assert build_engine((tmp_path / "own.onnx").read_bytes())["mask"] == ((-1, 64, 96), trt.DataType.INT32)
    export_model(tiny(), spec, tmp_path / "plain.onnx", form=Form(raw=True), batch=1, opset=11)
    tensors = build_engine((tmp_path / "plain.onnx").read_bytes())
    assert tensors == {"images": ((1, 3, 64, 96), trt.DataType.FLOAT), "output": ((1, 4, 64, 96), trt.DataType.FLOAT)}


@pytest.mark.parametrize("form", [Form(raw=True), Form(floats=True)], ids=["plain", "floats"])
def test_detectors_for_other_tools_build(tmp_path: Path, form: Form) -> None:
    torch.manual_seed(0)
    network, spec = network_to_export("small_det", untrained=True, size_hw=(64, 96))
    export_model(network, spec, tmp_path / "x.onnx", form=form, batch=2, opset=13, allow_random=True)
    assert build_engine((tmp_path / "x.onnx").read_bytes())["images"] == ((2, 3, 64, 96), trt.DataType.FLOAT)


@pytest.mark.parametrize(
    ("frame_hw", "rule"),
    [
        ((120, 200), PreprocessSpec((64, 96), "letterbox", std=(255.0,) * 3)),
        ((97, 61), PreprocessSpec((64, 96), "crop", "linear", 70, std=(255.0,) * 3)),
    ],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_graphs_for_frames_build(tmp_path: Path, frame_hw: tuple[int, int], rule: PreprocessSpec, batch: int | None) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("seg", "segmentation", tuple("abcd"), rule, "", weights={"source": "test"})
    export_model(build("small_seg", num_classes=4), spec, tmp_path / "x.onnx", batch=batch)
    add_frame_size(tmp_path / "x.onnx", frame_hw, tmp_path / "frames.onnx")
    taken = build_engine((tmp_path / "frames.onnx").read_bytes())["images"]
    assert taken == ((-1 if batch is None else batch, *frame_hw, 3), trt.DataType.UINT8)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions_build_for_pictures_and_for_frames(tmp_path: Path, precision: Any) -> None:
    from jetlens.precision import make

    path = tmp_path / f"orange-grade.{precision}.onnx"
    make(model_path("orange-grade"), precision, path, count=8, calibration_count=8)
    add_frame_size(path, (120, 160), tmp_path / "frames.onnx")
    for file, side in ((path, 64), (tmp_path / "frames.onnx", 160)):
        shape, kind = build_engine(file.read_bytes())["images"]
        assert (shape[2], kind) == (side, trt.DataType.UINT8)


@pytest.mark.release
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "alexnet", "deeplabv3_resnet50", "ssd300_vgg16"])
def test_the_rest_of_the_zoo_builds(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network, spec = zoo_network(name, pretrained=False)
    export_model(network, spec, tmp_path / "x.onnx", allow_random=True)
    assert "images" in build_engine((tmp_path / "x.onnx").read_bytes())


def test_the_builder_does_refuse_what_tensorrt_cannot_do() -> None:
    """The control: uint8 moved before it is cast, as a naive bake would, is no graph that TensorRT takes."""
    import onnx

    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["images"], ["t"], perm=[0, 3, 1, 2]), helper.make_node("Cast", ["t"], ["y"], to=1)],
        "naive",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(AssertionError):
        build_engine(model.SerializeToString())
