"""Exported graphs: contract, verification before anything is written, refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.backends.base import SessionOptions
from jetlens.checkpoint import save_checkpoint
from jetlens.errors import ModelError, UsageError, VerificationError, WeightsError
from jetlens.models import build
from jetlens.ops.images import normalize
from jetlens.spec import METADATA_KEY, ModelSpec, PreprocessSpec, read_model, sidecar_path

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jetlens.backends.onnxruntime import OnnxRuntime  # noqa: E402
from jetlens.backends.pytorch import PyTorch  # noqa: E402
from jetlens.export import onnx as exporter  # noqa: E402
from jetlens.export.onnx import export_model, taps_path  # noqa: E402
from jetlens.export.trained import network_to_export  # noqa: E402

MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any], str, str, list[Any]]] = {
    "basic_cnn": ("classification", (32, 64), {"num_classes": 7}, "logits", "float32", ["N", 7]),
    "small_det": ("detection", (64, 96), {"num_classes": 3, "size_hw": (64, 96)}, "detections", "float32", ["N", 300, 6]),
    "small_seg": ("segmentation", (48, 80), {"num_classes": 4}, "mask", "int32", ["N", 48, 80]),
}


def network(name: str) -> Any:
    """A network as training leaves it: every statistic differs from its start, and modes differ in their answers."""
    torch.manual_seed(3)
    made = build(name, **CASES[name][2])
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return made.train()


def spec_of(name: str, **changes: Any) -> ModelSpec:
    task, size_hw, arguments, *_ = CASES[name]
    labels = tuple(f"l{index}" for index in range(arguments["num_classes"]))
    values = {"weights": {"source": "test"}, **changes}
    return ModelSpec(name, task, labels, PreprocessSpec(size_hw, "letterbox", mean=MEAN, std=STD), "", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_the_deployable_graph(tmp_path: Path, name: str) -> None:
    task, size_hw, _, output, dtype, shape = CASES[name]
    made, path = network(name), tmp_path / "deep" / f"{name}.onnx"
    checks: list[Any] = []
    spec = export_model(made, spec_of(name), path, taps=True, report=checks.append)
    assert made.training, "the caller's network stays in its mode"
    content, read = read_model(path)
    assert read == spec
    assert (spec.task, spec.decoder, spec.precision, spec.preprocess.baked) == (task, output, "fp32", True)
    assert [(row.name, row.dtype, list(row.shape)) for row in spec.inputs] == [("images", "uint8", ["N", *size_hw, 3])]
    assert [(row.name, row.dtype, list(row.shape)) for row in spec.outputs] == [(output, dtype, shape)]
    model = onnx.load_model_from_string(content)
    assert [(row.domain, row.version) for row in model.opset_import] == [("", 17)]
    inner = json.loads(next(row.value for row in model.metadata_props if row.key == METADATA_KEY))
    assert inner == {**json.loads(spec.to_json()), "sha256": ""}
    assert spec.sha256 == hashlib.sha256(content).hexdigest()
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Shape", "Identity", "NonMaxSuppression", "NonZero", "If", "Loop", "Range", "Expand"}
    assert checks[0].passed
    assert checks[0].images == 4
    assert sorted(row.name for row in path.parent.iterdir()) == sorted(
        [path.name, f"{path.name}.json", taps_path(path).name, f"{taps_path(path).name}.json"]
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [OnnxRuntime, PyTorch])
def test_both_runtimes_answer_as_the_network(tmp_path: Path, name: str, backend: Any) -> None:
    made, path = network(name).eval(), tmp_path / "x.onnx"
    spec = export_model(made, spec_of(name), path, taps=True)
    pixels = np.random.default_rng(5).integers(0, 256, (5, *spec.preprocess.size_hw, 3), dtype=np.uint8)
    with torch.inference_mode():
        answer = made(torch.from_numpy(normalize(pixels, spec.preprocess)))
    raw = answer if isinstance(answer, tuple) else (answer,)
    names = {"basic_cnn": ["logits"], "small_det": ["logits", "boxes"], "small_seg": ["logits"]}[name]
    with backend.open(taps_path(path).read_bytes(), SessionOptions(device="cpu", threads=1)) as session:
        got = session.run({"images": pixels})
    for key, want in zip(names, raw, strict=True):
        np.testing.assert_allclose(got[key], want.numpy(), rtol=0, atol=1e-4 * max(1, float(want.abs().max())))
    if name == "small_seg":
        assert (got["mask"] == raw[0].argmax(1).numpy()).mean() >= 0.9999
    if name == "small_det":
        xyxy, scores = (value.numpy() for value in made.decode(*raw))
        best = np.sort(scores.reshape(5, -1), axis=1)[:, ::-1]
        found = got["detections"]
        np.testing.assert_allclose(found[..., 4], best[:, : found.shape[1]], atol=1e-4)
        for picture in range(5):
            for row in found[picture, :20]:
                near = np.abs(xyxy[picture] - row[:4]).max(1) + np.abs(scores[picture, :, int(row[5])] - row[4])
                assert near.min() < 0.01


def wrong_order(model: Any, spec: PreprocessSpec) -> Any:
    """The bug of a tutorial: mean and std in the order BGR."""
    from jetlens.export.bake import bake_preprocessing

    return bake_preprocessing(model, PreprocessSpec(spec.size_hw, mean=spec.mean[::-1], std=spec.std[::-1]))


def lost_division(model: Any, spec: PreprocessSpec) -> Any:
    """The bug of another: pixels of 0 to 1 for statistics of 0 to 255."""
    from jetlens.export.bake import bake_preprocessing

    return bake_preprocessing(model, PreprocessSpec(spec.size_hw, mean=spec.mean, std=tuple(255 * value for value in spec.std)))


def nudged_weight(model: Any, spec: PreprocessSpec) -> Any:
    """One bias of the last layers is off by a thousandth."""
    from jetlens.export.bake import bake_preprocessing

    baked = bake_preprocessing(model, spec)
    row = next(row for row in reversed(baked.graph.initializer) if row.data_type == 1 and len(row.dims) == 1 and row.dims[0] >= 4)
    row.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(row) + np.float32(1e-2), row.name))
    return baked


@pytest.mark.parametrize("bug", [wrong_order, lost_division, nudged_weight])
def test_a_graph_that_answers_differently_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[..., Any]) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"the version of yesterday")
    monkeypatch.setattr(exporter, "bake_preprocessing", bug)
    with pytest.raises(VerificationError, match=r"off by .*allowed 1e-04.*nothing was kept"):
        export_model(network("small_seg"), spec_of("small_seg"), path, taps=True)
    assert [row.name for row in tmp_path.iterdir()] == ["x.onnx"]
    assert path.read_bytes() == b"the version of yesterday"


def test_a_batch_axis_that_the_tracer_lost_is_found(tmp_path: Path) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, x: Any) -> Any:
            count = len(x.tolist())  # a Python number: the tracer bakes 2 into the graph
            return self.layer(x.mean((2, 3))).reshape(count, 4)

    spec = ModelSpec("fixed", "classification", ("a", "b", "c", "d"), PreprocessSpec((8, 8)), "", weights={"source": "test"})
    with pytest.raises((VerificationError, ModelError), match="fixed"):
        export_model(Fixed(), spec, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_random_weights_are_refused_unless_wanted(tmp_path: Path) -> None:
    spec = spec_of("basic_cnn", weights={})
    with pytest.raises(WeightsError, match="--untrained"):
        export_model(network("basic_cnn"), spec, tmp_path / "x.onnx")
    written = export_model(network("basic_cnn"), spec, tmp_path / "x.onnx", allow_random=True)
    assert "random" in written.weights["source"]
    with pytest.raises(WeightsError, match="--untrained"):
        network_to_export("basic_cnn")
    assert network_to_export("small_det", untrained=True)[1].task == "detection"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = network("basic_cnn")
    made.output.bias.data[3] = float("nan")
    with pytest.raises(WeightsError, match=r"output\.bias"):
        export_model(made, spec_of("basic_cnn"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "opset"), [("x.onnx", 10), ("x.onnx", 99), ("x.engine", 17)])
def test_wrong_usage(tmp_path: Path, name: str, opset: int) -> None:
    with pytest.raises(UsageError):
        export_model(network("basic_cnn"), spec_of("basic_cnn"), tmp_path / name, opset=opset)


def test_a_grey_network_takes_the_same_colour_pictures(tmp_path: Path) -> None:
    preprocess = PreprocessSpec((32, 32), channel_order="gray", mean=(33.3,), std=(78.6,))
    spec = ModelSpec("grey", "classification", tuple("0123456789"), preprocess, "", weights={"source": "test"})
    written = export_model(build("basic_cnn", in_channels=1), spec, tmp_path / "grey.onnx")
    assert written.inputs[0].shape == ("N", 32, 32, 3)


def test_static_batch(tmp_path: Path) -> None:
    spec = export_model(network("small_det"), spec_of("small_det"), tmp_path / "x.onnx", batch=1)
    assert (spec.inputs[0].shape, spec.outputs[0].shape) == ((1, 64, 96, 3), (1, 300, 6))


def test_export_writes_the_same_bytes_again(tmp_path: Path) -> None:
    first, second = (export_model(network("small_seg"), spec_of("small_seg"), tmp_path / f"{i}.onnx").sha256 for i in (1, 2))
    assert first == second


def test_from_a_checkpoint(tmp_path: Path) -> None:
    made, spec = network("small_det").eval(), spec_of("small_det")
    meta = {
        "model": "small_det",
        "arguments": {"num_classes": 3, "size_hw": [64, 96]},
        "task": "detection",
        "labels": list(spec.labels),
        "preprocess": asdict(spec.preprocess),
        "training": {"command": "jetlens train detection", "data": "orange line", "seed": 0},
        "accuracy": {"map50": 0.5, "data": "100 held-out samples"},
    }
    checkpoint = save_checkpoint(tmp_path / "fruit.safetensors", made.state_dict(), meta)
    loaded, read = network_to_export(str(checkpoint))
    assert (read.name, read.labels, read.preprocess) == ("fruit", spec.labels, spec.preprocess)
    assert read.weights["command"] == "jetlens train detection"
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(loaded.eval()(x), made(x), strict=True))
    written = export_model(loaded, read, tmp_path / "fruit.onnx")
    assert written.accuracy == meta["accuracy"]
    assert sidecar_path(tmp_path / "fruit.onnx").is_file()
    del meta["labels"]
    save_checkpoint(checkpoint, made.state_dict(), meta)
    with pytest.raises(WeightsError, match="labels"):
        network_to_export(str(checkpoint))
