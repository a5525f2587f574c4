"""`jetlens-cnn`: the two command lines of the tutorial run as they are written there, through the code of `jetlens train`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("safetensors")

from jetlens.checkpoint import load_checkpoint
from jetlens.cli import toolkit

BASIC = "--mode train --model BasicCNN --dataset cifar10 --epochs 20"
RESNET = "--mode train --model CustomResNet --dataset imagenet --batch-size 64 --lr 0.001"
ROOT = Path(__file__).parents[2]


def run(words, capsys):
    try:
        toolkit.main(words.split() if isinstance(words, str) else words)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def binary_cifar10(folder: Path) -> Path:
    """The official binary layout with a few pictures: one byte of label, then the planes of R, G and B."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        rows = rng.integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / name)
    return folder


def imagenet(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for synset in ("n01440764", "n01443537"):
            (root / part / synset).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / synset / f"{synset}_{number}.JPEG")
    return root


def test_the_first_command_of_the_tutorial_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    binary_cifar10(tmp_path / "data" / "cifar-10-batches-bin")
    code, out, err = run(f"{BASIC} --device cpu --workers 0", capsys)
    assert (code, out.strip()) == (0, str(Path("runs", "basic_cnn.safetensors"))), err
    _, meta = load_checkpoint(tmp_path / "runs" / "basic_cnn.safetensors")
    assert meta["model"] == "basic_cnn"
    assert meta["labels"][0] == "airplane"
    assert meta["preprocess"]["size_hw"] == [32, 32]
    assert "epoch 20" in err


@pytest.fixture
def configs(monkeypatch):
    """The configs that would be trained."""
    seen = []
    monkeypatch.setattr(toolkit, "train_and_show", seen.append)
    return seen


def test_the_second_command_is_understood(tmp_path, capsys, monkeypatch, configs):
    monkeypatch.chdir(tmp_path)
    imagenet(tmp_path / "data" / "imagenet")
    assert run(RESNET, capsys)[0] == 0
    (config,) = configs
    assert (config.task, config.model, config.layout, config.batch_size, config.lr) == (
        "classification",
        "custom_resnet",
        "imagenet",
        64,
        0.001,
    )
    assert config.model_arguments == {"stem": "imagenet"}
    assert Path(config.data) == Path("data/imagenet")


def test_the_second_command_trains(tmp_path, capsys):
    words = f"{RESNET} --epochs 1 --device cpu --workers 0 --data {imagenet(tmp_path / 'pictures')} --output {tmp_path}"
    code, _, err = run(words, capsys)
    assert code == 0, err
    _, meta = load_checkpoint(tmp_path / "custom_resnet.safetensors")
    assert meta["labels"] == ["tench", "goldfish"]
    assert meta["arguments"]["stem"] == "imagenet"


def test_the_oranges_need_no_folder(capsys, configs):
    assert run("--dataset orange-line --model ResNet18 --epochs 3", capsys)[0] == 0
    assert (configs[0].data, configs[0].layout, configs[0].model) == ("orange-line", None, "resnet18")


@pytest.mark.parametrize(("words", "code", "what"), [
    ("--dataset cifar10", 1, ("data/cifar10 and data", "data_batch_1", "--data DIR", "--download")),
    ("--dataset imagenet", 1, ("data/imagenet and data", "train/nXXXXXXXX", "--data DIR")),
    ("--dataset imagenet --download", 2, ("cifar10 only",)),
    ("--dataset cifar10 --data nowhere", 1, ("not found in nowhere",)),
    ("--dataset cifar11", 2, ("did you mean 'cifar10'", "imagenet", "custom")),
    ("--model BasicCNM", 2, ("did you mean 'BasicCNN'", "CustomResNet")),
    ("--mode fly", 2, ("train",)),
    ("--dataset orange-line --device tpu", 2, ("auto, cpu, cuda",)),
    ("--epochs many", 2, ("--epochs",)),
])  # fmt: skip
def test_what_cannot_work_is_said(words, code, what, tmp_path, capsys, monkeypatch, configs):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(words, capsys)
    assert (found, out, configs) == (code, "", [])
    assert all(text in err for text in what), err
    assert "Traceback" not in err


def test_download_fetches_into_the_folder(tmp_path, capsys, monkeypatch, configs):
    monkeypatch.setattr(toolkit, "download", lambda folder: binary_cifar10(folder / "cifar-10-batches-bin").parent)
    assert run(["--download", "--data", str(tmp_path / "mine")], capsys)[0] == 0
    assert Path(configs[0].data) == tmp_path / "mine"


def test_the_script_at_the_root_is_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "jetson_cnn_toolkit.py", *BASIC.split()], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith("jetlens-cnn: cifar10: not found in data/cifar10 and data")
