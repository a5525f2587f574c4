"""A network of the user's own, module:factory: exported with their weights, labels and rules, in every kind of graph."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jetlens import cli  # noqa: E402
from jetlens.data.orange_line import still  # noqa: E402
from jetlens.export.own import is_own_name  # noqa: E402
from jetlens.predictor import load  # noqa: E402
from jetlens.spec import METADATA_KEY, read_model  # noqa: E402

CLASSES = "names:\n  0: background\n  1: sunburn\n  2: ulcer\n  3: wind scarring\n"
OWN = ("--task", "segmentation", "--labels", "classes.yaml", "--size", "224x224")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user works: weights as their training saved them, a list of classes, the code on the path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    from poolformer_style import tiny

    torch.manual_seed(0)
    torch.save({"model_state_dict": {f"module.{key}": value for key, value in tiny().state_dict().items()}}, "best.pth")
    Path("classes.yaml").write_text(CLASSES)
    return tmp_path


def export(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *map(str, words)])
    return int(end.value.code or 0)


def reference(pixels: np.ndarray) -> np.ndarray:
    """The logits of the network itself for uint8 pixels [N, H, W, 3], scaled to 0 to 1."""
    from poolformer_style import tiny

    network = tiny().eval()
    state = torch.load("best.pth", weights_only=True)["model_state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    with torch.inference_mode():
        answer: np.ndarray = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)).numpy()
    return answer


def test_the_deployable_graph_of_a_pooling_segmenter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("poolformer_style:tiny", "--weights", "best.pth", *OWN) == 0
    said = capsys.readouterr().out
    assert "assumed: pixels from 0 to 1, rgb, stretch, antialias filter" in said
    assert "masks agree on 100.0000%" in said
    spec = read_model(folder / "tiny.onnx")[1]
    assert (spec.labels, spec.weights["source"]) == (
        ("background", "sunburn", "ulcer", "wind scarring"),
        "file best.pth for poolformer_style:tiny",
    )
    picture = still(3, (224, 224))[0]
    with load(folder / "tiny.onnx", backend="onnxruntime", threads=1) as predictor:
        mask = predictor(picture).mask
    want = reference(picture[None])[0].argmax(0)
    assert (mask == want).mean() >= 0.9999
    assert len(np.unique(want)) > 1, "a mask of one class would prove nothing"


def test_source_004s_graph(folder: Path) -> None:
    """images -> output, float32 NCHW, static, opset 11: as its own export script writes it, run as its own script runs it."""
    assert export("poolformer_style:tiny", "--weights", "best.pth", *OWN, "--plain", "--opset", 11, "--output", "seg.onnx") == 0
    model = onnx.load("seg.onnx")
    assert [row.version for row in model.opset_import] == [11]
    assert METADATA_KEY not in {row.key for row in model.metadata_props}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    session = ort.InferenceSession("seg.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(["output"], {"images": pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255})
    want = reference(pixels)
    assert answer.shape == want.shape == (1, 4, 224, 224)
    assert np.abs(answer - want).max() <= 1e-4
    with load("seg.onnx", backend="onnxruntime", threads=1) as predictor:  # through the sidecar, our own commands run it too
        assert (predictor(pixels[0]).mask == want[0].argmax(0)).mean() >= 0.9999


@pytest.mark.release
def test_the_full_size_of_source_004(folder: Path, record_property: Any) -> None:
    from poolformer_style import s12

    torch.manual_seed(1)
    network = s12().eval()
    torch.save(network.state_dict(), "s12.pth")
    assert export("poolformer_style:s12", "--weights", "s12.pth", *OWN, "--json") == 0
    pixels = np.stack([still(seed, (224, 224))[0] for seed in range(4)])
    with torch.inference_mode():
        want = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)).argmax(1).numpy()
    with load("s12.onnx", backend="onnxruntime", threads=1) as predictor:
        got = np.stack([row.mask for row in predictor.batch(list(pixels))])
    record_property("mask_agreement", float((got == want).mean()))
    assert (got == want).mean() >= 0.9999


def test_rules_of_the_user(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ("--mean", "123.675,116.28,103.53", "--std", "58.4", "--order", "bgr", "--resize", "letterbox", "--filter", "linear")
    assert (
        export("poolformer_style:tiny", "--weights", "best.pth", "--task", "segmentation", "--labels", 4, "--size", "96x160", *rules) == 0
    )
    assert "assumed" not in capsys.readouterr().out
    rule = read_model(folder / "tiny.onnx")[1].preprocess
    assert (rule.size_hw, rule.resize, rule.filter, rule.channel_order) == ((96, 160), "letterbox", "linear", "bgr")
    assert (rule.mean, rule.std) == ((123.675, 116.28, 103.53), (58.4, 58.4, 58.4))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_hostile_weights_run_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {"x": Hostile(folder / "canary")}}, "evil.pth")
    assert export("poolformer_style:tiny", "--weights", "evil.pth", *OWN) == 1
    assert not (folder / "canary").exists()
    assert "evil.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["poolformer_style:tiny", "--weights", "best.pth"], 2, "--task and --labels and --size"),
        (["poolformer_style:tiny", *OWN], 2, "--weights FILE.pth"),
        (["poolformer_style:absent", "--weights", "best.pth", *OWN], 2, "has no absent"),
        (["no_such_module:make", "--weights", "best.pth", *OWN], 2, "no module no_such_module"),
        (["poolformer_style:not_a_segmenter", "--untrained", *OWN], 1, "answers [1, 5, 224, 224]; segmentation with 4 labels"),
        (["poolformer_style:s12", "--weights", "best.pth", *OWN], 1, "weights of another network"),
        (["poolformer_style:tiny", "--weights", "absent.pth", *OWN], 1, "absent.pth"),
        (["poolformer_style:tiny", "--weights", "best.pth", *OWN, "--mean", "a"], 2, "--mean a"),
        (["poolformer_style:tiny", "--weights", "best.pth", *OWN[:3], "0", *OWN[4:]], 2, "--labels 0"),
    ],
)
def test_mistakes_are_one_clear_line(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    assert export(*words) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert len(error) <= 301
    assert not list(folder.glob("*.onnx*"))


def test_json_stays_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("poolformer_style:tiny", "--weights", "best.pth", *OWN, "--json") == 0
    assert json.loads(capsys.readouterr().out)["deviation"]["mask_agreement"] >= 0.9999


def test_names_that_are_factories() -> None:
    assert is_own_name("a.b:make")
    assert not any(is_own_name(text) for text in ("resnet18", "C:/x.onnx", "a:", ":b", "http://a", "a-b:c"))
