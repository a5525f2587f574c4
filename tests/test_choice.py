import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from jetlens.choice import Choice, choice_path, machine_name, read_choice, write_choice


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.onnx").write_bytes(b"model")
    return tmp_path / "m.onnx"


def made(model: Path) -> Choice:
    digest = sha256(model.read_bytes()).hexdigest()
    return Choice(digest, machine_name(), str(model), "onnxruntime", "int8", "auto", 1, 2, "the fastest", "2026-11-21")


def test_a_choice_stands_beside_its_model(model: Path) -> None:
    assert write_choice(model, made(model)) == model.with_name("m.choice.json")
    assert read_choice(model) == made(model)


def test_where_the_folder_takes_nothing_it_goes_into_the_cache(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jetlens.choice

    monkeypatch.setattr(jetlens.choice, "choice_path", lambda path: Path("/proc/nothing/m.choice.json"))
    assert "cache" in str(write_choice(model, made(model)))
    assert read_choice(model) == made(model)


@pytest.mark.parametrize("changed", [{"sha256": "another"}, {"machine": "another"}])
def test_another_file_or_machine_has_none(model: Path, changed: dict[str, str]) -> None:
    write_choice(model, replace(made(model), **changed))
    assert read_choice(model) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[1]",
        lambda text: text.replace('"jetlens_choice": 1', '"jetlens_choice": 2'),
        lambda text: json.dumps({**json.loads(text), "batch": "8"}),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
    ],
)
def test_a_damaged_choice_is_none(model: Path, damage) -> None:
    write_choice(model, made(model))
    file = choice_path(model)
    file.write_text(damage(file.read_text()))
    assert read_choice(model) is None


def test_an_absent_model_has_none(tmp_path: Path) -> None:
    assert read_choice(tmp_path / "absent.onnx") is None
