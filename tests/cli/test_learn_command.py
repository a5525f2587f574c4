"""`jetlens learn`: every view as a user types it, wrong words too, and without the optional packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")
pytest.importorskip("torch")

from jetlens.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["learn", *words])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "files", "said"),
    [
        (["convolution", "--kernel", "-1,0,1;-2,0,2;-1,0,1", "--at", "244,138"], ["convolution.png"], "the sum of all products is -269"),
        (["activations", "--at", "-1,0.5"], ["activations.png"], "leaky ReLU"),
        (["pooling"], ["pooling.png"], "max_pool2d differ by at most 0"),
        (["normalization"], ["normalization.png"], "group norm"),
        (["features"], ["features.png", "features-cam.png"], "Selvaraju"),
        (["architecture", "BasicCNN"], ["architecture.png"], "1,147,914 parameters"),
        (["edges"], ["edges.png"], "Canny keeps"),
        (["colors"], ["colors.png"], "of the pixels have the hue"),
        (["keypoints"], ["keypoints.png"], "within 3 pixels of the truth"),
        (["edges", "test://orange-line?frames=3&size=90x160"], ["edges.mp4"], "3 frames"),
    ],
)
def test_views_as_they_are_typed(capsys: pytest.CaptureFixture[str], words: list[str], files: list[str], said: str) -> None:
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert said in out
    assert len(out.splitlines()) > 5
    for name in files:
        assert Path(name).stat().st_size > 5_000
        assert f"-> {name}" in out
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["files"] == files


def test_layers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "features", "--layers")
    assert code == 0
    assert "features.1.2  64 maps of 32x32" in out
    code, out, _ = run(capsys, "features", "--layers", "--json")
    assert json.loads(out)["features.1.2"] == [64, 32, 32]
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["convolution", "--kernel", "sobelx"], 2, "did you mean 'sobel-x'"),
        (["convolution", "--kernel", "1,2;3"], 2, "its rows have 2, 1 numbers"),
        (["convolution", "nothing.jpg"], 1, "no such file"),
        (["convolution", "--output", "x.jpg"], 1, "ends in .png"),
        (["convolution", "--output", "no/x.png"], 1, "make it first"),
        (["convolution", "test://orange-line?frames=2"], 1, "takes one picture"),
        (["activations", "--at", "1,x"], 2, "numbers with commas"),
        (["pooling", "--layer", "nope"], 2, "unknown layer"),
        (["normalization", "--groups", "5"], 2, "equal groups"),
        (["features", "--class", "banana"], 2, "unknown class"),
        (["features", "--model", "orange-detect", "--class", "0"], 2, "needs a classifier"),
        (["features", "--model", "orange-grade", "--weights", "w.pth"], 2, "has its own weights"),
        (["architecture", "nonsense"], 2, "unknown network"),
        (["architecture", "x.onnx"], 1, "no such model file"),
        (["architecture", "basic_cnn", "--size", "33"], 2, "height x width"),
        (["edges", "--low", "9", "--high", "3"], 2, "low <= high"),
        (["edges", "--output", "x.txt"], 1, ".png"),
        (["edges", "ftp://x/y"], 2, "not ftp:"),
        (["colors", "--hue", "red"], 2, "FROM-TO"),
        (["keypoints", "--method", "surf"], 2, "orb, sift"),
        (["keypoints", "test://orange-line?frames=2", "--match", "x.png"], 2, "goes with a picture"),
        (["nothing"], 2, "No such command"),
    ],
)
def test_wrong_words_get_one_line(capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    found, out, err = run(capsys, *words)
    assert found == code, err
    assert said in err
    assert out == ""
    assert len(err.splitlines()) == 1
    assert len(err) <= 310
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["activations"], "matplotlib", "report"),
        (["convolution"], "matplotlib", "report"),
        (["pooling"], "onnx", "export"),
        (["architecture", "basic_cnn"], "torch", "train"),
        (["features", "--model", "resnet18"], "torch", "train"),
        (["edges"], "cv2", "cpu"),
        (["colors"], "cv2", "cpu"),
        (["keypoints"], "cv2", "cpu"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], package: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run(capsys, *words)
    assert code == 1
    assert package in err
    assert f"jetlens[{extra}]" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("view", ["convolution", "pooling", "features", "edges", "keypoints"])
def test_an_input_is_never_written_over(capsys: pytest.CaptureFixture[str], view: str) -> None:
    Image.new("RGB", (64, 48), (200, 120, 10)).save(f"{view}.png")
    before = Path(f"{view}.png").read_bytes()
    code, _, err = run(capsys, view, f"{view}.png")
    assert (code, Path(f"{view}.png").read_bytes()) == (1, before)
    assert "is the input itself" in err
