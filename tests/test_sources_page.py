"""The five documents: their commands run one after the other, and the page that maps them names only what is there."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("cv2")
pytest.importorskip("jinja2")

from documented import FOUND, ROOT, make_inputs, run
from jetlens.backends import BACKENDS
from jetlens.cli import COMMANDS, main

PAGE = ROOT / "docs" / "sources.md"
SEGMENTER = '''
from torch import nn

class Segmenter(nn.Module):
    """Four classes, at the size of its input."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(1, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(self.norm(self.first(x)).relu())

def network():
    return Segmenter()
'''


@dataclass(frozen=True)
class Step:
    """A command of a document and what has to come of it.

    Attributes:
        said: a pattern in what it prints.
        code: how it ends; 1 where this machine lacks what it needs.
        leaves: a file that it writes.
    """

    document: str
    command: str
    said: str = ""
    code: int = 0
    leaves: str = ""


NO_TENSORRT = 0 if BACKENDS.load("tensorrt").unavailable() is None else 1
OWN = "jetlens export own:network --weights oranges.pth --task segmentation --labels names.txt --size 224x224"
WALK = (
    Step("000", "jetlens predict cat.jpg --model resnet18 --weights r18.pth", r"class \d+ ", leaves="predictions/cat.jpg"),
    Step(
        "000",
        "jetlens export resnet18 --weights r18.pth --plain --opset 11 --input-name input --output-name logits",
        "opset 11",
        leaves="resnet18.onnx",
    ),
    Step("000", "python examples/onnxruntime_plain.py resnet18.onnx cat.jpg"),
    Step("000", "jetlens build resnet18.onnx --dry-run", r"trtexec --onnx=resnet18\.onnx --saveEngine=resnet18\.plan(?!.*explicitBatch)"),
    Step("000", "jetlens predict cat.jpg --model made-elsewhere.plan", "jetlens adopt .*--trust", 1),
    Step("000", "jetlens bench resnet18.onnx --images cat.jpg --output lab.json", "identical input for all"),
    Step("000", "jetlens report lab.json --lab", r"lab\.html: 1 run", leaves="lab.html"),
    Step("002", "jetlens predict dog.jpg --model resnet18.onnx --repeat 5", r"first call .* ms; then .*; median of these"),
    Step("002", "jetlens report --lab resnet18.onnx --image dog.jpg --output hand-in.md", r"hand-in\.md: 1 run", leaves="hand-in.md"),
    Step("003", "jetlens doctor", "TensorRT"),
    Step("003", "jetlens run /dev/video98 --model orange-segment --output camera.mp4", "no such camera", 1),
    Step("003", "python examples/realtime_segmentation/torch_seg.py belt.mp4 seg.mp4 orange-segment", leaves="seg.mp4"),
    Step("003", "python examples/realtime_segmentation/trt_seg.py belt.mp4 trt.mp4 orange-segment", code=NO_TENSORRT),
    Step("003", "jetlens monitor", "memory"),
    Step("004", OWN, "mask", leaves="network.onnx"),
    Step("004", f"{OWN} --plain --opset 11 --output plain.onnx", "opset 11", leaves="plain.onnx"),
    Step("004", "jetlens predict photo.jpg --model orange-segment --json", '"ratio"'),
    Step("004", "jetlens predict belt.mp4 --model orange-segment --output out", leaves="out/belt.mp4"),
    Step("004", "jetlens deepstream orange-segment", "nvinfer", leaves="orange-segment-deepstream/nvinfer.txt"),
)
"""What no page of the documentation runs; the command lines of source 001 are in docs/training.md."""
ELSEWHERE = {
    "jetlens-cnn --mode train --model BasicCNN --dataset cifar10 --epochs 20": "docs/training.md",
    "python jetson_cnn_toolkit.py --mode train --model CustomResNet --dataset imagenet --batch-size 64 --lr 0.001": "docs/training.md",
    "jetlens learn convolution": "docs/learn.md",
    "jetlens learn edges": "docs/learn.md",
    "jetlens learn colors": "docs/learn.md",
    "jetlens learn keypoints": "docs/learn.md",
    "jetlens bench orange-segment --scenario video": "docs/labs/orchard.md",
}


def test_the_commands_of_the_documents_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    make_inputs(folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "made-elsewhere.plan").write_bytes(os.urandom(64))
    (folder / "names.txt").write_text("background\nsunburn\nulcer\nwind scarring\n")
    (folder / "own.py").write_text(SEGMENTER)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    from own import network  # type: ignore[import-not-found]

    torch.save(network().state_dict(), folder / "oranges.pth")
    wrong = []
    for step in WALK:
        capfd.readouterr()
        code = run(step.command, folder)
        said = "".join(capfd.readouterr())
        if code != step.code or not re.search(step.said, said) or (step.leaves and not (folder / step.leaves).is_file()):
            wrong.append((step, code, said[-600:]))
        assert "Traceback" not in said
    assert wrong == []


def test_what_the_walk_leaves_to_a_page_is_run_there() -> None:
    ran = [(command, block.page) for block in FOUND for command, reason in block.commands if not reason]
    missing = {
        command: page for command, page in ELSEWHERE.items() if not any(page == where and one.startswith(command) for one, where in ran)
    }
    assert missing == {}


ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| section", "|---"))
]


def test_every_document_has_its_sections() -> None:
    assert re.findall(r"^## (00\d): ", PAGE.read_text("utf-8"), re.MULTILINE) == ["000", "001", "002", "003", "004"]
    assert len(ROWS) > 35
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_what_the_page_names_is_there(row: tuple[str, ...]) -> None:
    _, _, command, seen = row
    proofs = [*re.findall(r"`(tests/[^`]+)`", seen), *(f"docs/{name}" for name in re.findall(r"\]\(([^)]+)\)", seen))]
    assert proofs
    assert [proof for proof in proofs if not (ROOT / proof).is_file()] == []
    words = shlex.split(command.strip("`"))
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "jetlens":
        assert words[1] in COMMANDS


def flags_of(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_every_flag_of_the_page_is_one_of_its_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[str]] = {}
    for *_, command, _ in ROWS:
        words = shlex.split(command.strip("`"))
        if words[0] == "jetlens":
            name = " ".join(words[1:3]) if words[1] in ("learn", "data", "cache") else words[1]
            used.setdefault(name, set()).update(word for word in words if word.startswith("--"))
    unknown = {}
    for name, flags in used.items():
        told = flags_of(name.split(), capsys, monkeypatch)
        if absent := {flag for flag in flags if not re.search(rf"{flag}\b", told)}:
            unknown[name] = absent
    assert unknown == {}
    assert "--no-such" not in flags_of(["predict"], capsys, monkeypatch)
