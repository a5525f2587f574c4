"""jetlens export: what it writes, what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from jetlens import cli
from jetlens.predictor import load
from jetlens.spec import read_model


def export(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *map(str, words)])
    return int(end.value.code or 0)


def test_random_weights_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert export("basic_cnn", "--untrained", "--taps") == 0
    said = capsys.readouterr().out
    for words in ("basic_cnn.onnx: classification", "opset 17", "images uint8 ['N', 64, 64, 3]", "checked against PyTorch", "taps.onnx"):
        assert words in said
    assert "boxes" not in said
    assert read_model(tmp_path / "basic_cnn.taps.onnx")[1].task == "classification"
    with load(tmp_path / "basic_cnn.onnx", backend="onnxruntime") as predictor:
        assert predictor.spec.weights == {"source": "none: random weights"}


def test_real_weights_and_json(tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    weights = shared_data / "models/squeezenet_derived/squeezenet1_1_imagenet_tvnorm_fp16.pth"
    target = tmp_path / "s.onnx"
    assert export("squeezenet1_1", "--weights", weights, "--output", target, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    spec = read_model(target)[1]
    assert (record["path"], record["sha256"], record["opset"]) == (str(target), spec.sha256, 17)
    assert record["deviation"]["raw"] <= 1e-4
    assert spec.weights["source"].startswith(f"file {weights.name}")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["basic_cnn"], 1, "--untrained"),
        (["resnet81"], 2, "did you mean 'resnet18'"),
        (["model.onnx"], 2, "adopt"),
        (["weights.pth"], 2, "no such file; give a checkpoint"),
        (["nothing.safetensors"], 1, "no such checkpoint"),
        (["resnet18", "--weights", "absent.pth"], 1, "no such file"),
        (["basic_cnn", "--untrained", "--opset", "99"], 2, "11 to 20"),
        (["basic_cnn", "--untrained", "--output", "x.engine"], 2, ".onnx"),
        (["basic_cnn", "--untrained", "--precision", "int4"], 2, "unknown precision 'int4'"),
        (["basic_cnn", "--untrained", "--budget", "1"], 2, "without --precision"),
        (
            ["basic_cnn", "--untrained", "--precision", "fp16", "--calibration", "x"],
            2,
            "fp16 needs no calibration: leave away --calibration",
        ),
        (["basic_cnn", "--untrained", "--plain", "--taps"], 2, "does not go with --taps"),
        (["basic_cnn", "--untrained", "--plain", "--precision", "fp16"], 2, "does not go with --precision"),
        (["basic_cnn", "--untrained", "--plain", "--input", "uint8-nhwc"], 2, "--plain takes floats"),
        (["basic_cnn", "--untrained", "--input", "nchw-float", "--frame-size", "48x64"], 2, "does not go with --frame-size"),
        (["basic_cnn", "--untrained", "--input-name", "x"], 2, "fixed (--plain frees them): --input-name"),
        (["basic_cnn", "--untrained", "--input", "nhwc"], 2, "nchw-float"),
        (["basic_cnn", "--untrained", "--task", "detection"], 2, "does not take --task"),
        (["basic_cnn", "--untrained", "--batch", "0"], 2, "--batch 0"),
        (["basic_cnn", "--untrained", "--batch", "many"], 2, "or dynamic"),
        (["basic_cnn", "--untrained", "--size", "64"], 2, "--size '64'"),
        (["basic_cnn", "--untrained", "--frame-size", "0x5"], 2, "--frame-size '0x5'"),
        (["orange-grade"], 2, "is ONNX already"),
        (["orange-grade", "--precision", "fp16", "--batch", "4", "--weights", "w.pth"], 2, "not --batch, --weights"),
        (["absent.onnx", "--precision", "fp16"], 1, "no such model"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(*words) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_weights_alone_are_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.pth"
    weights.touch()
    assert export(weights) == 2
    assert "--weights" in capsys.readouterr().err


def test_a_fixed_batch_of_floats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.onnx"
    assert export("basic_cnn", "--untrained", "--input", "nchw-float", "--batch", 4, "--size", "32x64", "--output", target, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["deviation"]["images"] == 8
    assert [(row.name, row.dtype, row.shape) for row in read_model(target)[1].inputs] == [("images", "float32", (4, 3, 32, 64))]


def test_frames_of_a_network_and_of_a_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export("small_seg", "--untrained", "--size", "64x96", "--frame-size", "120x160", "--taps", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in record["frames"]] == ["small_seg.onnx", "small_seg.taps.onnx"]
    assert max(row["levels"] for row in record["frames"]) <= 1
    spec = read_model(tmp_path / "small_seg.onnx")[1]
    assert (spec.inputs[0].shape, spec.sha256) == (("N", 120, 160, 3), record["sha256"])
    assert export("orange-grade", "--frame-size", "120x160") == 0
    assert "orange-grade.120x160.onnx: takes frames images uint8 ['N', 120, 160, 3]" in capsys.readouterr().out
    with load(tmp_path / "orange-grade.120x160.onnx", backend="onnxruntime") as predictor:
        assert predictor.spec.preprocess.frame_hw == (120, 160)


def test_lower_precision_of_a_shipped_model_and_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export("orange-grade", "--precision", "fp16", "--count", 8, "--frame-size", "120x160", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["path"] == record["frames"][0]["path"] == "orange-grade.120x160.fp16.onnx"
    assert record["precision"]["verdict"]["status"] in ("accepted", "undecided")
    spec = read_model(tmp_path / record["path"])[1]
    assert (spec.precision, spec.preprocess.frame_hw) == ("fp16", (120, 160))
    assert export("small_det", "--untrained", "--size", "64x96", "--precision", "int8") == 2
    assert "--calibration" in capsys.readouterr().err
