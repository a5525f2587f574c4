"""`jetlens inspect`, and the one clear line that every unusable model gets from the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jetlens.cli import main
from jetlens.spec import sidecar_path
from tiny_graphs import color_graph, color_spec, with_external_weights, write_pair


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.delenv("JETLENS_DEBUG", raising=False)

    def go(*arguments: str | Path) -> Ran:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(int(caught.value.code or 0), captured.out, captured.err)

    return go


def test_shows_a_model_with_its_sidecar(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spec = replace(color_spec(), accuracy={"top1": 0.99, "data": "three colours"})
    path = write_pair(tmp_path, color_graph(spec=spec), spec)
    shown = run("inspect", path)
    assert shown.code == 0
    for text in (
        "images uint8 [N, 8, 12, 3]",
        "logits float32 [N, 3]",
        "red, green, blue",
        "opset ai.onnx 17",
        "hash matches",
        "top1 0.99",
    ):
        assert text in " ".join(shown.out.split()), text
    facts = json.loads(run("inspect", path, "--json").out)
    assert (facts["sidecar"], facts["precision"], facts["parameters"]) == ("ok", "fp32", 10)
    assert facts["spec"]["labels"] == ["red", "green", "blue"]


def test_a_model_without_a_sidecar_says_so_and_is_shown(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bare.onnx"
    path.write_bytes(color_graph().SerializeToString())
    shown = run("inspect", path)
    assert shown.code == 0
    assert "jetlens adopt" in shown.out
    assert json.loads(run("inspect", path, "--json").out)["sidecar"] == "missing"


def test_every_real_model_is_shown(run, shared_data: Path) -> None:  # type: ignore[no-untyped-def]
    files = sorted(shared_data.glob("models/**/*.onnx"))
    codes = [run("inspect", file, "--json").code for file in files]
    assert codes == [0] * len(files)


def test_hostile_names_are_made_harmless(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    labels = ("\x1b[31mred\x1b]0;title\x07", "a\nb\r", "[bold]x[/bold]")
    path = write_pair(tmp_path, color_graph(), replace(color_spec(), labels=labels))
    shown = run("inspect", path)
    assert shown.code == 0
    assert not set("\x1b\x07\r") & set(shown.out)
    assert "[bold]x[/bold]" in shown.out


def test_a_sidecar_of_another_model_is_shown_and_fails(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write_pair(tmp_path, color_graph())
    path.write_bytes(color_graph(batch=4).SerializeToString())
    shown = run("inspect", path, "--json")
    assert shown.code == 1
    assert json.loads(shown.out)["sidecar"] == "wrong"
    assert "another file" in shown.err


def _missing(folder: Path) -> list[str]:
    return [str(folder / "absent.onnx")]


def _folder(folder: Path) -> list[str]:
    return [str(folder)]


def _empty(folder: Path) -> list[str]:
    return [str(write_pair(folder, b""))]


def _text(folder: Path) -> list[str]:
    (folder / "notes.txt").write_text("hello")
    return [str(folder / "notes.txt")]


def _text_named_onnx(folder: Path) -> list[str]:
    return [str(write_pair(folder, b"this is a text and no model\n" * 20))]


def _cut(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph().SerializeToString()[:-40]))]


def _other_sidecar(folder: Path) -> list[str]:
    path = write_pair(folder, color_graph())
    path.write_bytes(color_graph(batch=2).SerializeToString())
    return [str(path)]


def _sidecar_is_no_json(folder: Path) -> list[str]:
    path = write_pair(folder, color_graph())
    sidecar_path(path).write_text("{'a':")
    return [str(path)]


def _sidecar_has_another_key(folder: Path) -> list[str]:
    path = write_pair(folder, color_graph())
    sidecar_path(path).write_text(sidecar_path(path).read_text().replace('"iou"', '"jou"'))
    return [str(path)]


def _contradiction(folder: Path) -> list[str]:
    wrong = replace(color_spec(), preprocess=replace(color_spec().preprocess, resize="letterbox"))
    return [str(write_pair(folder, color_graph(spec=color_spec()), wrong))]


def _external(folder: Path) -> list[str]:
    (folder / "weights.bin").write_bytes(np.ones((3, 3), np.float32).tobytes())
    return [str(write_pair(folder, with_external_weights(color_graph())))]


def _unknown_operator(folder: Path) -> list[str]:
    graph = color_graph()
    graph.graph.node[-1].op_type = "NoSuchOperator"
    return [str(write_pair(folder, graph)), "--backend", "onnxruntime"]


def _unknown_backend(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph())), "--backend", "tensorflow"]


def _absent_device(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph())), "--backend", "openvino", "--device", "cuda"]


def _unknown_precision(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph())), "--precision", "fp8"]


def _unknown_data(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph())), "--data", str(folder / "nowhere")]


def _other_labels(folder: Path) -> list[str]:
    return [str(write_pair(folder, color_graph())), "--data", "orange-line"]


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (_missing, 1, "no such model file"),
        (_folder, 1, "folder"),
        (_empty, 1, "empty"),
        (_text, 1, "not an .onnx file"),
        (_text_named_onnx, 1, "not an ONNX model"),
        (_cut, 1, "damaged"),
        (_other_sidecar, 1, "belongs to another file"),
        (_sidecar_is_no_json, 1, "not valid JSON"),
        (_sidecar_has_another_key, 1, "unknown key 'jou'"),
        (_contradiction, 1, "preprocess.resize"),
        (_external, 1, "other files"),
        (_unknown_operator, 1, "NoSuchOperator"),
        (_unknown_backend, 2, "known: auto, onnxruntime, onnxruntime-tensorrt, openvino, pytorch, tensorrt"),
        (_absent_device, 1, "NVIDIA"),
        (_unknown_precision, 2, "fp32, bf16"),
        (_unknown_data, 1, "orange-line or a folder"),
        (_other_labels, 1, "red, green, blue"),
    ],
)
def test_each_unusable_thing_is_one_clear_line(run, tmp_path: Path, make, code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    ran = run("evaluate", *make(tmp_path))
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("jetlens: ")
    assert said in ran.err
    assert len(ran.err) <= 300 + len("jetlens: \n")
    assert "Traceback" not in ran.err


def test_an_unavailable_backend_says_how_to_get_it(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    ran = run("evaluate", write_pair(tmp_path, color_graph()), "--backend", "openvino")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "pip install 'jetlens[openvino]'" in ran.err


def test_an_unknown_name_lists_the_known_ones(run) -> None:  # type: ignore[no-untyped-def]
    ran = run("inspect", "orange-grad")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "known:" in ran.err
    assert len(ran.err) <= 310
