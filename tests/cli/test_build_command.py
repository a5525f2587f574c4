"""`jetlens build` and `jetlens inspect` of a plan: what they print, write and refuse, without TensorRT and with a builder that stands in."""

from __future__ import annotations

import json
import shlex
import stat
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jetlens import cli
from jetlens.engines.build import Worker
from jetlens.engines.environment import Environment
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import PlanFacts
from jetlens.errors import BackendError
from jetlens.spec import TensorSpec, read_model
from tiny_graphs import color_graph, color_spec, write_pair

FACTS = PlanFacts(
    (TensorSpec("images", "uint8", ("N", 8, 12, 3)),),
    (TensorSpec("logits", "float32", ("N", 3)),),
    "fp32",
    {"fp32": 3},
    12.5,
    1024,
    2.5,
    ("the builder warns",),
)


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    monkeypatch.delenv("JETLENS_DEBUG", raising=False)
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)

    def go(*words: object) -> Ran:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        said = capfd.readouterr()
        return Ran(int(end.value.code or 0), said.out, said.err)

    return go


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TensorRT here, whatever this machine has."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> list[BuildOptions]:
    """A TensorRT 10.3 whose builder makes a plan at once; gives the options of every build."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    # What this process found out of its machine before is not what the stand-in says.
    monkeypatch.setattr("jetlens.engines.cache.read_environment", lambda: Environment(tensorrt="10.3.0"))
    monkeypatch.setattr("jetlens.engines.trust.read_environment", lambda: Environment(tensorrt="10.3.0"))
    asked: list[BuildOptions] = []

    def build(model: bytes, options: BuildOptions, *, name: str, timing_cache: Path | None, report: Any, **rest: Worker) -> Any:
        asked.append(options)
        report(f"building a TensorRT engine of {name}; minutes are usual")
        return b"ftrt" + model[:100] + bytes(len(asked)), FACTS

    monkeypatch.setattr("jetlens.engines.build.build", build)
    return asked


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_pair(tmp_path, color_graph(spec=color_spec()), color_spec())


def test_dry_run_without_tensorrt_says_what_is_missing(run: Any, absent: None, model: Path) -> None:
    ran = run("build", model, "--dry-run", "--batch", "1:4:8")
    assert ran.code == 0
    for words in ("fp32 graph, batch 1:4:8", "TensorRT is not installed", "not found on the path", "no engine of this model yet"):
        assert words in ran.out
    lines = [line.strip() for line in ran.out.splitlines() if "--onnx=" in line]
    assert [line.partition(":")[0] for line in lines] == ["TensorRT 8.6", "TensorRT 10", "TensorRT 11"]
    words = shlex.split(lines[1].partition(": ")[2])
    assert words[0] == "trtexec"
    assert {f"--onnx={model}", "--stronglyTyped", "--optShapes=images:4x8x12x3", "--memPoolSize=workspace:1024"} <= set(words)
    record = json.loads(run("build", model, "--dry-run", "--json").out)
    assert (record["tensorrt"], record["precision"], record["cached"]) == (None, "fp32", False)
    assert len(record["commands"]) == 3


def test_without_tensorrt_one_error_with_the_remedy_and_the_command(run: Any, absent: None, model: Path) -> None:
    ran = run("build", model)
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("jetlens: TensorRT is not installed: on a Jetson")
    assert "Traceback" not in ran.err
    assert "trtexec --onnx=" in ran.err
    ran = run("build", model, "--trtexec")
    assert ran.code == 1
    assert "trtexec is not here" in ran.err


def test_the_command_of_an_fp16_graph(run: Any, absent: None, tmp_path: Path) -> None:
    spec = replace(color_spec(), precision="fp16")
    (tmp_path / "half").mkdir()
    half = write_pair(tmp_path / "half", color_graph(half=True), spec)
    commands = json.loads(run("build", half, "--dry-run", "--json").out)["commands"]
    assert "--fp16" in commands["TensorRT 8.6"]
    assert "--fp16" not in commands["TensorRT 10"] + commands["TensorRT 11"]


def test_precision_takes_the_graph_beside_the_model(run: Any, absent: None, model: Path) -> None:
    ran = run("build", model, "--precision", "int8", "--dry-run")
    assert ran.code == 1
    assert f"{model.stem}.int8.onnx is not beside it" in ran.err
    half = model.with_name(f"{model.stem}.fp16.onnx")
    half.write_bytes(color_graph(half=True).SerializeToString())
    assert json.loads(run("build", model, "--precision", "fp16", "--dry-run", "--json").out)["model"] == str(half)


def test_it_builds_once_and_says_where(run: Any, present: list[BuildOptions], model: Path, tmp_path: Path) -> None:
    first = run("build", model, "--batch", "1:4:8", "--workspace", "256", "--optimization-level", "2", "--timeout", "60")
    assert first.code == 0, first.err
    assert present == [BuildOptions((1, 4, 8), 256, 2, timeout_s=60)]
    for words in (
        "built in 12 s (no engine of this model yet)",
        "fp32 (3 fp32 layers)",
        "note: the builder warns",
        "images uint8 [N, 8, 12, 3]",
    ):
        assert words in first.out
    assert "building a TensorRT engine" in first.err
    again = json.loads(run("build", model, "--batch", "1:4:8", "--workspace", "256", "--optimization-level", "2", "--json").out)
    assert again["reused"] is True
    assert Path(again["engine"]).parent == tmp_path / "cache" / "engines"
    assert len(present) == 1
    dry = run("build", model, "--batch", "1:4:8", "--workspace", "256", "--optimization-level", "2", "--dry-run")
    assert "cache: in the cache" in dry.out
    assert dry.out.count("--onnx=") == 1


def test_no_save_keeps_nothing(run: Any, present: list[BuildOptions], model: Path, tmp_path: Path) -> None:
    ran = run("build", model, "--no-save")
    assert ran.code == 0
    assert "in memory, not kept" in ran.out
    assert not list(tmp_path.glob("cache/engines/*.plan"))
    assert not present[0].save


def test_output_writes_a_plain_plan_that_may_run_here(
    run: Any, present: list[BuildOptions], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_open(plan: bytes) -> PlanFacts:
        raise BackendError("there is no GPU")

    monkeypatch.setattr("jetlens.cli.inspect_plan.read_facts", cannot_open)
    target = tmp_path / "out.plan"
    assert run("build", model, "--output", target).code == 0
    content, spec = read_model(target)
    assert content.startswith(b"ftrt")
    assert spec.labels == color_spec().labels
    ran = run("build", model, "--output", target)
    assert ran.code == 1
    assert "is there already; give --force" in ran.err
    assert run("build", model, "--output", target, "--force").code == 0
    # What was recorded at the build is shown, and why nothing newer is.
    record = json.loads(run("inspect", target, "--json").out)
    assert record["opened"] == "no: there is no GPU"
    assert record["manifest"].startswith("signed")
    assert record["facts"]["layers"] == {"fp32": 3}
    assert record["built_for"]["tensorrt"] == "10.3.0"
    assert record["sidecar"] == "out.plan.json, classification, hash matches"
    shown = run("inspect", target)
    assert "fp32; layers by output: 3 fp32" in shown.out
    assert "built in" in shown.out


@pytest.mark.parametrize("bad", ["0:1:2", "2:1:4", "1:2", "a", "1:-1:2", ""])
def test_wrong_batches_are_wrong_usage(run: Any, absent: None, model: Path, bad: str) -> None:
    assert run("build", model, "--batch", bad, "--dry-run").code == 2


def test_what_cannot_be_built(run: Any, absent: None, model: Path, tmp_path: Path) -> None:
    for words in (("--workspace", "0"), ("--optimization-level", "6"), ("--dla-core", "-1"), ("--output", "x.onnx")):
        assert run("build", model, *words, "--dry-run").code == 2
    (tmp_path / "a.plan").write_bytes(b"ftrt")
    assert "is an engine itself" in run("build", tmp_path / "a.plan").err
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    assert "not an ONNX model" in run("build", tmp_path / "junk.onnx").err


def test_trtexec_is_run_and_read(run: Any, absent: None, model: Path, tmp_path: Path, shared_data: Path, monkeypatch: Any) -> None:
    log = shared_data / "logs/trtexec_rtx2080ti_trt8500_fp16_build.txt"
    program = tmp_path / "trtexec"
    program.write_text(
        f'#!/bin/sh\nfor word in "$@"; do case $word in --saveEngine=*) printf plan > ${{word#*=}};; esac; done\ncat {log}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    ran = run("build", model, "--trtexec", "--output", tmp_path / "t.plan")
    assert ran.code == 0, ran.err
    for words in ("throughput 135.689 runs/s", "TensorRT 8.5.0 on NVIDIA GeForce RTX 2080 Ti", "latency ms: min 9.5257", "p99 9.96838"):
        assert words in ran.out
    assert (tmp_path / "t.plan.trtexec.log").read_bytes() == log.read_bytes()
    assert f"running {program} --onnx={model}" in ran.err
    record = json.loads(run("build", model, "--trtexec", "--output", tmp_path / "u.plan", "--json").out)
    assert record["gpu_compute_ms"]["median"] == 7.32544
    # Only its own words say that it was well: an engine that is not there is an error.
    program.write_text(f"#!/bin/sh\ncat {log}\n")
    for target, force in (("v.plan", ()), ("u.plan", ("--force",))):
        ran = run("build", model, "--trtexec", "--output", tmp_path / target, *force)
        assert ran.code == 1
        assert "wrote no engine" in ran.err


def test_inspect_never_opens_a_foreign_plan(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    monkeypatch.setattr("jetlens.cli.inspect_plan.read_facts", opened.append)
    plan = tmp_path / "foreign.engine"
    plan.write_bytes(b"ftrt" + bytes(3000))
    ran = run("inspect", plan)
    assert ran.code == 0
    said = " ".join(ran.out.split())
    for words in ("3,004 bytes", "nobody vouched", "manifest none"):
        assert words in said
    assert f"jetlens adopt {plan} --trust" in json.loads(run("inspect", plan, "--json").out)["opened"]
    (tmp_path / "foreign.engine.manifest.json").write_text('{"sha256": "0"}')
    assert "belongs to another plan" in run("inspect", plan).out
    (tmp_path / "foreign.engine.manifest.json").write_bytes(b"\xff")
    assert "is damaged" in run("inspect", plan).out
    plan.write_bytes((200).to_bytes(4, "little") + b'{"stride": 32}' + bytes(300))
    assert "JSON stands before the plan" in run("inspect", plan).out
    assert not opened
    plan.write_bytes(b"")
    assert run("inspect", plan).code == 1
