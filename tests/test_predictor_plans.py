"""TensorRT engines given as models: adopted with --trust, or refused with the command that does it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from jetlens import cli
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.engines.plan import PlanFacts
from jetlens.engines.trust import is_trusted, trusted
from jetlens.errors import BackendError, SidecarError, UsageError
from jetlens.predictor import load, precision_path
from jetlens.spec import read_model, sidecar_path
from tiny_graphs import GREEN, color_graph

START = b"ftrt"
FLAGS = [
    "--task",
    "classification",
    "--mean",
    "0,0,0",
    "--std",
    "255,255,255",
    "--order",
    "rgb",
    "--resize",
    "stretch",
    "--filter",
    "antialias",
]


class FakeTensorRt:
    """Runs plans that are ONNX files behind four bytes, if they are trusted; keeps what it deserialized."""

    deserialized: list[bytes]
    missing: str | None = None

    @classmethod
    def unavailable(cls) -> str | None:
        return cls.missing

    @classmethod
    def open(cls, model: bytes, options: Any) -> Any:
        plan = trusted(model).plan
        cls.deserialized.append(plan)
        return OnnxRuntime.open(plan.removeprefix(START), options)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeTensorRt]:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FakeTensorRt, "deserialized", [], raising=False)
    monkeypatch.setattr("jetlens.backends.tensorrt.TensorRt", FakeTensorRt)
    monkeypatch.setattr("jetlens.export.plans.read_facts", lambda plan: PlanFacts((), (), "fp16"))
    return FakeTensorRt


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "colors.plan"
    path.write_bytes(START + color_graph(baked=False).SerializeToString())
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    return path


def adopt(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["adopt", *map(str, words)])
    return int(end.value.code or 0)


@pytest.mark.parametrize("suffix", [".plan", ".engine", ".trt"])
def test_an_adopted_plan_runs(plan: Path, tensorrt: type[FakeTensorRt], capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    plan = plan.rename(plan.with_suffix(suffix))
    assert adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS) == 0
    said = capsys.readouterr().out
    assert "decoder logits" in said
    assert f"wrote {sidecar_path(plan)}" in said
    assert "tried on a synthetic picture" in said
    with load(plan) as net:
        assert net(GREEN).label == "green"
        assert net.chosen == "tensorrt"
    assert set(tensorrt.deserialized) == {plan.read_bytes()}
    assert trusted(plan.read_bytes()).manifest.facts.precision == "fp16"
    assert precision_path(plan, "fp16") == plan


def test_without_trust_it_is_refused_with_the_command(plan: Path, tensorrt: type[FakeTensorRt], capsys: pytest.CaptureFixture[str]) -> None:
    assert adopt(plan, "--labels", plan.parent / "names.txt", *FLAGS) == 2
    said = capsys.readouterr().err
    assert "code that runs when it is loaded" in said
    assert f"jetlens adopt {plan} --trust --task T --labels FILE" in " ".join(said.split())
    with pytest.raises(BackendError, match=f"jetlens adopt {plan} --trust --task T --labels FILE"):
        load(plan)
    assert tensorrt.deserialized == []
    assert not sidecar_path(plan).exists()


def test_a_plan_that_changed_is_refused(plan: Path, tensorrt: type[FakeTensorRt]) -> None:
    adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS)
    good = plan.read_bytes()
    tensorrt.deserialized.clear()
    plan.write_bytes(good + b"\0")
    with pytest.raises(BackendError, match="nobody vouched"):
        load(plan)
    spec = json.loads(sidecar_path(plan).read_text())
    sidecar_path(plan).write_text(json.dumps({**spec, "sha256": trust_hash(plan)}))
    with pytest.raises(BackendError, match="nobody vouched"):
        load(plan, "tensorrt")
    assert tensorrt.deserialized == []
    plan.write_bytes(good)
    with pytest.raises(SidecarError, match="belongs to another file"):
        load(plan)


def trust_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_backends_do_not_get_a_plan(plan: Path, tensorrt: type[FakeTensorRt]) -> None:
    adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS)
    with pytest.raises(UsageError, match="give tensorrt"):
        load(plan, "onnxruntime")


def test_a_failed_adoption_takes_trust_back(plan: Path, tensorrt: type[FakeTensorRt]) -> None:
    assert adopt(plan, "--trust", "--task", "detection", "--labels", plan.parent / "names.txt") == 1
    assert not is_trusted(plan.read_bytes())
    assert adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS) == 0
    assert adopt(plan, "--trust", "--force", "--task", "detection", "--labels", plan.parent / "names.txt") == 1
    assert is_trusted(plan.read_bytes())


def test_without_tensorrt_the_hash_is_recorded(plan: Path, tensorrt: type[FakeTensorRt], monkeypatch, capsys) -> None:
    monkeypatch.setattr(FakeTensorRt, "missing", "tensorrt is not installed")
    assert adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS) == 2
    assert "give --size HxW too" in capsys.readouterr().err
    assert not is_trusted(plan.read_bytes())
    assert adopt(plan, "--trust", "--labels", plan.parent / "names.txt", *FLAGS, "--size", "8x12") == 0
    said = capsys.readouterr().out
    assert "not looked into: tensorrt is not installed" in said
    assert "not tried" in said
    assert tensorrt.deserialized == []
    assert is_trusted(plan.read_bytes())
    monkeypatch.setattr(FakeTensorRt, "missing", None)
    with load(plan) as net:
        assert net(GREEN).label == "green"


def test_what_the_user_said_wrongly_is_found_when_it_loads(plan: Path, tensorrt: type[FakeTensorRt], monkeypatch) -> None:
    monkeypatch.setattr(FakeTensorRt, "missing", "tensorrt is not installed")
    flags = ["--trust", "--labels", plan.parent / "names.txt", *FLAGS, "--size", "9x12", "--json"]
    assert adopt(plan, *flags) == 0
    monkeypatch.setattr(FakeTensorRt, "missing", None)
    with pytest.raises(SidecarError, match="the graph takes"):
        load(plan)


def test_a_plan_of_our_own_graph_takes_pixels(plan: Path, tensorrt: type[FakeTensorRt]) -> None:
    plan.write_bytes(START + color_graph().SerializeToString())
    assert adopt(plan, "--trust", "--labels", plan.parent / "names.txt", "--resize", "stretch", "--filter", "antialias") == 0
    assert read_model(plan)[1].preprocess.baked
    with load(plan) as net:
        assert net(GREEN).label == "green"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--preset", "yolov8"], 1, "no such file"),
        (["--preset", "deeplab"], 2, "--decoder D"),
        (["--preset", "yolov8", "--bake"], 2, "leave --bake away"),
        (["--preset", "yolov8", "--output", "x.onnx"], 2, "ends in .plan or .engine or .trt"),
        (["--preset", "tf-inception", "--labels", "none.txt"], 1, "none.txt"),
        ([], 2, "--task T, --size HxW, --labels FILE, --decoder D"),
    ],
)
def test_what_cannot_be_adopted_unread(plan: Path, tensorrt: type[FakeTensorRt], monkeypatch, capsys, words, code, said) -> None:
    monkeypatch.setattr(FakeTensorRt, "missing", "tensorrt is not installed")
    model = plan if said != "no such file" else plan.with_name("none.plan")
    assert adopt(model, "--trust", *words) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not is_trusted(plan.read_bytes())


def test_a_preset_serves_without_tensorrt(plan: Path, tensorrt: type[FakeTensorRt], monkeypatch) -> None:
    monkeypatch.setattr(FakeTensorRt, "missing", "tensorrt is not installed")
    assert adopt(plan, "--trust", "--preset", "mnist", "--mean", "3") == 0
    spec = read_model(plan)[1]
    assert (spec.labels, spec.preprocess.mean, spec.preprocess.size_hw) == (tuple("0123456789"), (3.0,), (28, 28))
    assert adopt(plan, "--trust", "--force", "--task", "detection", "--preset", "yolov8", "--size", "320x320", "--mean", "1") == 0
    spec = read_model(plan)[1]
    assert (spec.task, spec.decoder, spec.preprocess.size_hw, len(spec.labels)) == ("detection", "yolov8", (320, 320), 80)


def test_an_onnx_file_needs_no_trust(tmp_path: Path, tensorrt: type[FakeTensorRt], capsys) -> None:
    path = tmp_path / "colors.onnx"
    path.write_bytes(color_graph(baked=False).SerializeToString())
    assert adopt(path, "--trust") == 2
    assert "leave --trust away" in capsys.readouterr().err
