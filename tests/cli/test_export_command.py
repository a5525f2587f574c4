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
        (["weights.pth"], 2, "--weights"),
        (["nothing.safetensors"], 1, "no such checkpoint"),
        (["resnet18", "--weights", "absent.pth"], 1, "no such file"),
        (["basic_cnn", "--untrained", "--opset", "99"], 2, "13 to 20"),
        (["basic_cnn", "--untrained", "--output", "x.engine"], 2, ".onnx"),
        (["basic_cnn", "--precision", "int8"], 2, "precision"),
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
