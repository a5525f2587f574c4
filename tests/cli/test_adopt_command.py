"""jetlens adopt: flags, what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from jetlens import cli, predictor
from jetlens.spec import read_model, sidecar_path
from tiny_graphs import color_graph


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier without a sidecar, whose logits are ten times the mean of each channel; it takes any batch."""
    path = tmp_path / "colors.onnx"
    path.write_bytes(color_graph(baked=False).SerializeToString())
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    Image.fromarray(np.full((20, 30, 3), (10, 240, 30), np.uint8)).save(tmp_path / "green.png")
    return path


def adopt(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["adopt", *map(str, words)])
    return int(end.value.code or 0)


def test_one_command_makes_a_file_run(model, capsys):
    flags = ["--mean", "0,0,0", "--std", "255,255,255", "--order", "rgb", "--resize", "stretch", "--filter", "antialias"]
    code = adopt(model, "--task", "classification", "--labels", model.parent / "names.txt", *flags, "--try", model.parent / "green.png")
    said = capsys.readouterr().out
    assert code == 0
    assert "decoder logits" in said
    assert "  green: 1.000" in said
    assert f"wrote {sidecar_path(model)}" in said
    assert "assumed" not in said
    with predictor.load(model, threads=1) as net:
        assert net(model.parent / "green.png").label == "green"


def test_every_flag_reaches_the_sidecar(model):
    flags = (
        "--mean 1,2,3 --std 4,5,6 --order bgr --resize letterbox --filter linear --pad 7 --anchor top-left --layout nchw --size 8x12 "
        "--decoder probabilities --decoder-option output=logits --label-offset 0 --confidence 0.3 --iou 0.4 --name net"
    )
    assert adopt(model, "--task", "classification", "--labels", model.parent / "names.txt", *flags.split(), "--short-side", 9) == 0
    spec = read_model(model)[1]
    rule = spec.preprocess
    assert (rule.mean, rule.std, rule.channel_order, rule.resize, rule.filter) == ((1, 2, 3), (4, 5, 6), "bgr", "letterbox", "linear")
    assert (rule.pad_value, rule.anchor, rule.layout, rule.size_hw, rule.short_side) == (7, "top-left", "nchw", (8, 12), 9)
    assert (spec.decoder, spec.decoder_options["output"], spec.label_offset) == ("probabilities", "logits", 0)
    assert (spec.confidence, spec.iou, spec.name, spec.labels) == (0.3, 0.4, "net", ("red", "green", "blue"))


def test_json_is_one_object(model, capsys):
    code = adopt(model, "--preset", "torchvision-classifier", "--bake", "--json", "--try", model.parent / "green.png")
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert record["task"] == "classification"
    assert record["baked"].endswith("colors.baked.onnx")
    assert record["trial"]["top"][0]["class_id"] == 1
    assert any("no labels" in note for note in record["notes"])


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        ("--task guessing", 2, "classification, detection, segmentation"),
        ("--preset yolov99", 2, "yolov8"),
        ("--mean 1,2", 2, "--mean 1,2"),
        ("--std a,b,c", 2, "--std a,b,c"),
        ("--mean nan,0,0", 2, "--mean"),
        ("--size 224", 2, "480x640"),
        ("--order cmyk", 2, "rgb"),
        ("--filter cubic", 2, "antialias"),
        ("--decoder-option strides", 2, "KEY=VALUE"),
        ("--decoder-option note=[1,2] --task classification", 2, "output"),
        ("--decoder-option layout=nwhc --task classification", 2, "nchw"),
        ("--decoder nonsense --task classification", 2, "logits"),
        ("--labels imagenet", 1, "1000"),
        ("--labels missing.txt", 1, "missing.txt"),
        ("--try missing.png", 1, "missing.png"),
        ("--task detection", 1, "detection"),
        ("--output somewhere.pt", 2, ".onnx"),
    ],
)
def test_wrong_flags_are_one_line(model, capsys, flags, code, says):
    assert adopt(model, *flags.split()) == code
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) <= 320
    assert not sidecar_path(model).exists()


def test_a_second_time_needs_force(model, capsys):
    assert adopt(model, "--preset", "cifar10") == 0
    assert adopt(model, "--preset", "cifar10") == 1
    assert "--force" in capsys.readouterr().err
    assert adopt(model, "--preset", "cifar10", "--force") == 0


@pytest.mark.parametrize(("name", "content"), [("empty.onnx", b""), ("text.onnx", b"this is no model"), ("absent.onnx", None)])
def test_broken_files_are_one_line(tmp_path, capsys, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert adopt(tmp_path / name) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
