"""`jetlens train`: a checkpoint from flags and a TOML file, and one clear line for what cannot work."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("safetensors")

from jetlens.checkpoint import load_checkpoint
from jetlens.cli import main


def run(capsys, *words):
    try:
        main(["train", *words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_flags_go_over_the_file(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text('task = "classification"\nsamples = 4\nepochs = 9\nworkers = 0\nsize_hw = [32, 32]\nbatch_size = 8\n')
    code, out, err = run(
        capsys, "--config", str(file), "--epochs", "2", "--device", "cpu", "--output", str(tmp_path), "--name", "mine", "--no-pictures"
    )
    assert code == 0, err
    assert out.strip() == str(tmp_path / "mine.safetensors")
    assert err.count("top1") == 2
    assert err.splitlines()[-1] == f"next: jetlens export {tmp_path / 'mine.safetensors'}"
    assert "\x1b" not in out + err
    assert load_checkpoint(tmp_path / "mine.safetensors")[1]["preprocess"]["size_hw"] == [32, 32]
    assert [row["epoch"] for row in json.loads((tmp_path / "mine.history.json").read_text())] == [1, 2]


def test_between_validations_a_line_comes_now_and_then(capsys, monkeypatch):
    from jetlens.cli import train as module

    event = module.Event(0.1, 0, 10, 0.5, 1e-3, 31.0)
    show = module._printer()
    show(event)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_LINE_EVERY_S", 0.0)
    show(event)
    assert capsys.readouterr().err.startswith("epoch 1  step 10  loss 0.5000")


@pytest.mark.parametrize(("words", "code", "what"), [
    ((), 2, "task is needed"),
    (("--task", "depth"), 2, "allowed: classification, detection, segmentation"),
    (("--task", "detection", "--model", "smal_det"), 2, "did you mean 'small_det'"),
    (("--task", "detection", "--size", "big"), 2, "height x width"),
    (("--task", "detection", "--size", "50x50"), 1, "nearest is 64x64"),
    (("--task", "detection", "--config", "none.toml"), 2, "none.toml: the configuration cannot be read (No such file or directory)"),
    (("--task", "classification", "--model", "small_det"), 2, "small_det is no network for classification"),
    (("--task", "segmentation", "--model", "basic_cnn", "--size", "64x64"), 2, "basic_cnn is no network for segmentation"),
])  # fmt: skip
def test_what_cannot_work_is_one_clear_line(words, code, what, capsys):
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "")
    assert what in err
    assert "Traceback" not in err
