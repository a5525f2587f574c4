"""jetlens cache: what it lists, explains and removes, with or without TensorRT."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jetlens import cli
from jetlens.engines.cache import obtain
from jetlens.engines.environment import Environment
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Engine, PlanFacts
from jetlens.engines.trust import UNREAD, is_trusted, trust
from jetlens.predictor import model_path

HERE = Environment("10.3.0", "12.6", "560.35.03", "NVIDIA H200", "9.0", "none", "53-0123456789ab", "linux-x86_64")
MODEL = "orange-grade"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine of a shipped model, built by nothing, in a cache of its own, on a machine that has TensorRT."""
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("jetlens.engines.cache.read_environment", lambda: HERE)
    return build(environment=HERE)


def build(**changes: Any) -> Engine:
    def builder(*_: Any, **__: Any) -> tuple[bytes, PlanFacts]:
        return os.urandom(2 << 20), PlanFacts((), (), "fp16", build_s=12.5)

    content = model_path(MODEL).read_bytes()
    return obtain(content, changes.pop("options", BuildOptions()), name=MODEL, builder=builder, **changes)


def cache(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["cache", *map(str, words)])
    return int(end.value.code or 0)


def test_engines_are_listed(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    build(options=BuildOptions(batch=(1, 4, 8)))
    engine.path.chmod(0o644)
    assert cache("ls") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (MODEL, "fp16", "1:4:8", "NVIDIA H200", "10.3.0", "560.35.03", "2.0", "ok"))
    assert "its mode is 644 and not 600" in said
    assert "2 engines, 4.0 MiB in " in said
    assert cache("ls", "--json") == 0
    bad, good = sorted((json.loads(line) for line in capsys.readouterr().out.splitlines()), key=lambda row: row["problem"] is None)
    assert (good["problem"], good["key"]["batch"], good["build_s"], good["bytes"]) == (None, "1:4:8", 12.5, 2 << 20)
    assert (bad["path"], bad["key"], bad["problem"]) == (str(engine.path), None, "its mode is 644 and not 600")


def test_an_empty_cache_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path))
    assert (cache("ls"), cache("ls", "--json"), cache("prune")) == (0, 0, 0)
    assert capsys.readouterr().out.splitlines() == [
        f"no engines in {tmp_path / 'engines'}; the first run with --backend tensorrt builds one",
        "0 engines removed, 0.0 MiB freed",
    ]


def test_why_names_the_field(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache("why", MODEL) == 0
    assert capsys.readouterr().out.splitlines() == [f"{MODEL}.onnx: in the cache", f"  engine  {engine.path}"]
    monkeypatch.setattr("jetlens.engines.cache.read_environment", lambda: replace(HERE, driver="580.65.06"))
    assert (
        cache("why", MODEL, "--batch", "1:8:32", "--workspace", 512, "--optimization-level", 2, "--dla-core", 1, "--version-compatible")
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        f"{MODEL}.onnx: would be built: batch 1:1:1 -> 1:8:32, workspace mib 1024 -> 512, optimization level default -> 2, "
        "dla core none -> 1, version compatible no -> yes, driver 560.35.03 -> 580.65.06",
        f"  nearest  {engine.path}",
    ]
    assert cache("why", "orange-detect", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["cached"], record["reason"], record["nearest"]) == (False, "no engine of this model yet", None)


def test_why_works_without_tensorrt(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("jetlens.engines.cache.read_environment", lambda: Environment(cuda="12.6", l4t="none", platform="linux-x86_64"))
    assert cache("why", MODEL, "--batch", 4) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{MODEL}.onnx: would be built: batch 1:1:1 -> 4:4:4",
        f"  nearest  {engine.path}",
        "  unknown on this machine: tensorrt, driver, gpu, sm, plugins",
    ]
    assert cache("why", MODEL, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["cached"], record["unknown"][0], record["nearest"]["path"]) == (True, "tensorrt", str(engine.path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["why", MODEL, "--batch", "1:2"], "smallest:usual:largest"),
        (["why", MODEL, "--batch", "x"], "smallest:usual:largest"),
        (["why", MODEL, "--batch", "8:1:1"], "in that order"),
        (["why", MODEL, "--optimization-level", 9], "optimization level 9"),
        (["why", "none"], "unknown model name"),
        (["prune", "--all", "--older-than", 3], "give one of them"),
        (["prune", "--older-than", -1], "--older-than"),
    ],
)
def test_wrong_usage_is_one_line(engine: Engine, capsys: pytest.CaptureFixture[str], words: list[object], said: str) -> None:
    assert cache(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_plan_is_not_asked_why(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache("why", engine.path) == 2
    assert "is an engine itself" in capsys.readouterr().err


def test_prune_says_what_it_removed(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = build(environment=replace(HERE, tensorrt="8.6.0"))
    assert cache("prune") == 0
    assert capsys.readouterr().out.splitlines() == [f"removed {foreign.path.name}", "1 engines removed, 2.0 MiB freed"]
    manifest = engine.path.with_name(engine.path.name + ".json")
    os.utime(manifest, (1, time.time() - 5 * 86400))
    assert cache("prune", "--older-than", 6) == 0
    assert cache("prune", "--model", "orange-detect.onnx") == 0
    assert engine.path.exists()
    assert cache("prune", "--model", f"{MODEL}.onnx", "--older-than", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["path"] == str(engine.path)
    assert not engine.path.exists()
    assert not manifest.exists()
    build()
    assert cache("prune", "--all") == 0
    assert "1 engines removed" in capsys.readouterr().out


def test_trusted_plans_are_listed_and_trust_is_taken_back(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.plan", "b.trt"):
        trust(name.encode(), UNREAD, name)
    assert cache("ls") == 0
    said = capsys.readouterr().out
    assert "1 engines" in said
    assert ": a.plan, sha256 " in said
    assert ": b.trt, sha256 " in said
    assert cache("ls", "--json") == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [MODEL, "a.plan", "b.trt"]
    assert cache("prune", "--trusted", "--all") == 2
    assert (cache("prune", "--trusted", "--model", "a.plan"), is_trusted(b"a.plan"), is_trusted(b"b.trt")) == (0, False, True)
    assert capsys.readouterr().out.startswith("no longer trusted: a.plan, sha256 ")
    assert (cache("prune", "--trusted", "--json"), is_trusted(b"b.trt"), engine.path.exists()) == (0, False, True)


def test_the_command_imports_no_runtime() -> None:
    code = (
        "import sys; from jetlens import cli\ntry: cli.main(['cache', 'ls'])\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'cv2', 'numpy') if n in sys.modules])"
    )
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reply.stdout.splitlines()[-1] in ("[]", "['numpy']")
