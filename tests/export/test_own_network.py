"""Exporting a checkpoint of the user's own network: only under the name that the user types."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from jetlens.checkpoint import save_checkpoint  # noqa: E402
from jetlens.errors import UsageError  # noqa: E402
from jetlens.export.trained import network_to_export  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.spec import PreprocessSpec  # noqa: E402

CODE = """
from pathlib import Path
Path("was-run").touch()
from torch import nn
def make(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network_here.py").write_text(CODE)
    network = build("own_network_here:make", own_code=True, num_classes=2)
    (tmp_path / "was-run").unlink(missing_ok=True)
    spec = dataclasses.asdict(PreprocessSpec((16, 16)))
    meta = {"model": "own_network_here:make", "arguments": {"num_classes": 2}, "task": "classification", "labels": ["a", "b"]}
    save_checkpoint(tmp_path / "own.safetensors", network.state_dict(), meta | {"preprocess": spec, "training": {}, "accuracy": {}})
    return tmp_path / "own.safetensors", network


def test_the_users_name_builds_it(checkpoint):
    path, network = checkpoint
    found, spec = network_to_export(str(path), own_network="own_network_here:make")
    assert spec.labels == ("a", "b")
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "said"), [(None, "--network own_network_here:make"), ("other:make", "not 'other:make'"), ("os:getcwd", "not 'os:getcwd'")]
)
def test_another_name_or_none_runs_nothing(checkpoint, monkeypatch, name, said):
    path, _ = checkpoint
    monkeypatch.delitem(__import__("sys").modules, "own_network_here")
    with pytest.raises(UsageError, match=said):
        network_to_export(str(path), own_network=name)
    assert not (path.parent / "was-run").exists()


def test_it_goes_with_a_checkpoint_only():
    with pytest.raises(UsageError, match="goes with a checkpoint"):
        network_to_export("resnet18", own_network="a:b")
