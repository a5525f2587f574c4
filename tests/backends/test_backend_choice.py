"""auto: TensorRT where an engine is ready, never a build that nobody asked for, and a plan goes to TensorRT alone."""

from __future__ import annotations

from typing import Any

import pytest

import jetlens.backends.tensorrt as backend
from jetlens.backends import choice
from jetlens.backends.base import SessionOptions
from jetlens.backends.checks import is_plan
from jetlens.backends.tensorrt import TensorRt, open_cached
from jetlens.errors import BackendError
from tiny_graphs import color_graph

MODEL = color_graph().SerializeToString()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with TensorRT and a GPU, as far as auto can tell, and an engine in its cache."""
    monkeypatch.setattr(choice, "installed", lambda name: True)
    monkeypatch.setattr(TensorRt, "unavailable", classmethod(lambda cls: None))
    monkeypatch.setattr(backend, "cached", lambda model, options: True)
    monkeypatch.setattr(backend, "obtain", lambda model, options, *, name, builder: "engine")
    monkeypatch.setattr(backend, "open_engine", lambda engine, options, graph: f"session on {engine}")
    return monkeypatch


def chosen(model: bytes = MODEL, **options: Any) -> tuple[Any, str]:
    return choice.open_session(model, "auto", SessionOptions(**options))


def test_a_ready_engine_is_taken_and_said(here: pytest.MonkeyPatch) -> None:
    assert chosen() == ("session on engine", "tensorrt (auto: its engine is in the cache)")


def test_without_an_engine_nothing_is_built(here: pytest.MonkeyPatch) -> None:
    here.setattr(backend, "cached", lambda model, options: False)
    here.setattr(backend, "obtain", lambda *args, **named: pytest.fail("auto asked for an engine"))
    session, why = chosen(device="auto")
    assert session.facts.backend == "onnxruntime"
    assert "tensorrt" not in why


def test_a_damaged_engine_is_not_built_again(here: pytest.MonkeyPatch) -> None:
    def rebuild(model: bytes, options: object, *, name: str, builder: Any) -> object:
        return builder(model, options, name=name, timing_cache=None, report=print)

    here.setattr(backend, "obtain", rebuild)
    assert open_cached(MODEL, SessionOptions()) is None
    assert chosen()[0].facts.backend == "onnxruntime"
    # Negative control: asked for by name, the builder is called.
    here.setattr(backend, "obtain", lambda model, options, **named: pytest.fail("built"))
    with pytest.raises(pytest.fail.Exception, match="built"):
        choice.open_session(MODEL, "tensorrt", SessionOptions())


def test_the_cpu_and_a_machine_without_a_gpu_stay_away_from_tensorrt(here: pytest.MonkeyPatch) -> None:
    assert chosen(device="cpu")[0].facts.backend == "onnxruntime"
    here.setattr(TensorRt, "unavailable", classmethod(lambda cls: "no GPU"))
    assert chosen()[0].facts.backend == "onnxruntime"


def test_a_plan_runs_in_tensorrt_alone(here: pytest.MonkeyPatch) -> None:
    here.setattr(backend, "trusted", lambda plan: "trusted engine")
    here.setattr(backend, "open_engine", lambda engine, options: f"session on {engine}")
    assert chosen(b"ftrt a plan") == ("session on trusted engine", "tensorrt (auto: it is a TensorRT engine)")
    here.undo()
    with pytest.raises(BackendError, match="tensorrt"):
        chosen(b"ftrt a plan")


def test_what_is_a_plan() -> None:
    assert is_plan(b"ftrt\0\0\0\0")
    assert not is_plan(MODEL)
    assert not is_plan(MODEL[:-9])
