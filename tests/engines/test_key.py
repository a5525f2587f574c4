"""The key: what changes the engine changes it, nothing else does (goal C5)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from fake_builder import HERE, FakeBuilder, naive_obtain
from onnx import TensorProto, helper, numpy_helper

from jetlens.engines import key as key_module
from jetlens.engines.cache import obtain
from jetlens.engines.environment import Environment, read_environment
from jetlens.engines.key import Difference, differences, digest, key_fields, unknown_fields
from jetlens.engines.options import BuildOptions
from jetlens.spec import METADATA_KEY, ModelSpec, PreprocessSpec

OPTIONS = BuildOptions()
WEIGHTS = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1) / 8


def graph(
    *,
    weights: Any = WEIGHTS,
    mean: Any = (120.0, 110.0, 100.0),
    std: Any = (60.0, 57.0, 55.0),
    size: tuple[int, int] = (8, 12),
    batch: int | str = "N",
    scale: float | None = None,
    opset: int = 17,
    last: str = "Relu",
    spec: ModelSpec | None = None,
) -> bytes:
    """A small graph with its preprocessing inside; ``scale`` quantises its input."""
    values = {"weights": weights, "mean": mean, "inverse": [1 / value for value in std]}
    constants = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()]
    nodes = [helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT), helper.make_node("Sub", ["real", "mean"], ["centred"])]
    nodes += [
        helper.make_node("Mul", ["centred", "inverse"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    source = "planes"
    if scale is not None:
        constants += [numpy_helper.from_array(np.array(scale, np.float32), "scale"), numpy_helper.from_array(np.array(0, np.int8), "zero")]
        nodes += [
            helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        ]
        source = "dq"
    nodes += [helper.make_node("Conv", [source, "weights"], ["maps"]), helper.make_node(last, ["maps"], ["answer"])]
    taken = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *size, 3])
    given = helper.make_tensor_value_info("answer", TensorProto.FLOAT, [batch, 3, *size])
    model = helper.make_model(
        helper.make_graph(nodes, "net", [taken], [given], constants), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    if spec is not None:
        helper.set_model_props(model, {"other": "first", METADATA_KEY: spec.to_json()})
    return bytes(model.SerializeToString())


def spec(precision: str = "fp32", **weights: Any) -> ModelSpec:
    return ModelSpec("net", "classification", ("a", "b", "c"), PreprocessSpec((8, 12)), "logits", precision=precision, weights=weights)


def changed(values: Any, index: int, by: float) -> Any:
    array = np.array(values, np.float32)
    array.flat[index] += by
    return array


GRAPHS: dict[str, Callable[[], bytes]] = {
    **{f"weight {i}": lambda i=i: graph(weights=changed(WEIGHTS, i, 1e-6)) for i in range(9)},
    **{f"mean {i}": lambda i=i: graph(mean=changed((120, 110, 100), i, 0.5)) for i in range(3)},
    **{f"std {i}": lambda i=i: graph(std=changed((60, 57, 55), i, 0.5)) for i in range(3)},
    "height": lambda: graph(size=(9, 12)),
    "width": lambda: graph(size=(8, 13)),
    "fixed batch": lambda: graph(batch=1),
    "int8": lambda: graph(scale=0.02),
    "calibration": lambda: graph(scale=0.021),
    "opset": lambda: graph(opset=18),
    "operator": lambda: graph(last="Sigmoid"),
}
BUILDS = {
    **{f"batch {batch}": {"batch": batch} for batch in ((1, 1, 2), (1, 2, 2), (2, 2, 2), (1, 1, 8), (1, 4, 8), (1, 8, 8))},
    **{f"workspace {mib}": {"workspace_mib": mib} for mib in (256, 512, 1023, 4096)},
    **{f"level {level}": {"optimization_level": level} for level in range(6)},
    "DLA 0": {"dla_core": 0},
    "DLA 1": {"dla_core": 1},
    "version compatible": {"version_compatible": True},
}
MACHINES = {
    "tensorrt": ("10.3.0.26", "8.6.0", "10.13.3.9"),
    "cuda": ("12.5", "13.0"),
    "driver": ("560.35.05", "580.65.06", ""),
    "gpu": ("NVIDIA H100 80GB HBM3", "Orin"),
    "sm": ("8.7", "9.1"),
    "l4t": ("36.4.3", "36.4.4"),
    "plugins": ("54-0123456789ab", "53-0123456789ac"),
    "platform": ("linux-aarch64",),
}
CHANGES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"graph": make}) for name, make in GRAPHS.items()),
    *((name, {"options": replace(OPTIONS, **values)}) for name, values in BUILDS.items()),
    *((f"{name} {value}", {"environment": replace(HERE, **{name: value})}) for name, values in MACHINES.items() for value in values),
    ("recipe", {"recipe": key_module.RECIPE + 1}),
    ("what the graph says of its precision", {"graph": lambda: graph(spec=spec("fp16"))}),
]


def test_sixty_changes_of_one_fact_build_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    builder = FakeBuilder()
    base = graph()
    first = obtain(base, OPTIONS, name="net", builder=builder, environment=HERE)
    anew, stale, naive_stale = 0, [], 0
    naive = folder.parent / "naive"
    naive.mkdir(exist_ok=True)
    naive_first = naive_obtain(base, OPTIONS, name="net", builder=builder, folder=naive)
    for what, change in CHANGES:
        model = change["graph"]() if "graph" in change else base
        options = change.get("options", OPTIONS)
        with monkeypatch.context() as patch:
            patch.setattr(key_module, "RECIPE", change.get("recipe", key_module.RECIPE))
            engine = obtain(model, options, name="net", builder=builder, environment=change.get("environment", HERE))
        anew += not engine.reused and engine.plan != first.plan
        stale += [what] if engine.reused else []
        naive_stale += naive_obtain(model, options, name="net", builder=builder, folder=naive) == naive_first
    assert len(CHANGES) == 60
    record_property("rebuilt", f"{anew}/60")
    assert (anew, stale) == (60, [])
    assert naive_stale == 60
    assert obtain(base, OPTIONS, name="net", builder=builder, environment=HERE).plan == first.plan


def irrelevant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Twenty changes after which the same engine fits; each does something and says what is asked otherwise."""
    model = tmp_path / "net.onnx"
    model.write_bytes(graph(spec=spec()))

    def set_variable(name: str, value: str) -> Callable[[], dict[str, Any]]:
        return lambda: monkeypatch.setenv(name, value) or {}

    def copied() -> dict[str, Any]:
        (tmp_path / "elsewhere").mkdir()
        return {"model": Path(shutil.copy(model, tmp_path / "elsewhere" / "other.onnx")).read_bytes(), "name": "other"}

    def touched(path: Path, time_s: float) -> dict[str, Any]:
        os.utime(path, (time_s, time_s))
        return {"model": model.read_bytes()}

    def sidecar(**values: Any) -> dict[str, Any]:
        (tmp_path / "net.onnx.json").write_text(replace(spec(), **values).to_json())
        return {"model": model.read_bytes()}

    def moved() -> dict[str, Any]:
        os.rename(folder.parent, tmp_path / "moved")
        monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "moved"))
        return {}

    return {
        "file name": lambda: {"name": "renamed"},
        "a name that no file can have": lambda: {"name": "../../a/b\0 ä" + "x" * 300},
        "copy in another folder": copied,
        "time of the model": lambda: touched(model, 1),
        "time of the plan": lambda: touched(next(folder.glob("*.plan")), 1),
        "time of the manifest": lambda: touched(next(folder.glob("*.plan.json")), time.time() + 9e5),
        "working folder": lambda: monkeypatch.chdir("/") or {},
        "sidecar's labels": lambda: sidecar(labels=("x", "y", "z")),
        "sidecar's thresholds": lambda: sidecar(confidence=0.1, iou=0.9),
        "sidecar's accuracy": lambda: sidecar(accuracy={"top1": 0.5}),
        "time-out": lambda: {"options": replace(OPTIONS, timeout_s=5)},
        "saving": lambda: {"options": replace(OPTIONS, save=False)},
        "timing cache": lambda: {"options": replace(OPTIONS, timing_cache=False)},
        "who is told": lambda: {"report": print},
        "threads": set_variable("OMP_NUM_THREADS", "7"),
        "language": set_variable("LANG", "ru_RU.UTF-8"),
        "time zone": set_variable("TZ", "Asia/Tokyo"),
        "temporary folder": set_variable("TMPDIR", "/var/tmp"),
        "another engine beside it": lambda: obtain(b"other", OPTIONS, name="net", builder=FakeBuilder()) and {},
        "the cache in another place": moved,
    }


def test_twenty_irrelevant_changes_hit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    builder = FakeBuilder()
    model = graph(spec=spec())
    first = obtain(model, OPTIONS, name="net", builder=builder)
    hits = []
    changes = irrelevant(tmp_path, monkeypatch, folder)
    for what, change in changes.items():
        asked = {"model": model, "options": OPTIONS, "name": "net", "builder": builder, **change()}
        read_environment.cache_clear()
        engine = obtain(asked.pop("model"), asked.pop("options"), **asked)
        hits += [what] if engine.reused and engine.plan == first.plan else []
    record_property("hits", f"{len(hits)}/20")
    assert len(changes) == 20
    assert hits == list(changes)
    assert len(builder.plans) == 1


def test_precision_and_calibration_are_named() -> None:
    said = key_fields(graph(spec=spec("int8", calibration={"images": 500, "sha256": "ab"})), OPTIONS, HERE)
    other = key_fields(graph(spec=spec("int8", calibration={"images": 500, "sha256": "ac"})), OPTIONS, HERE)
    assert said["precision"] == "int8"
    assert [row.field for row in differences(said, other)] == ["model", "calibration"]
    assert key_fields(graph(spec=spec("int8", calibration_sha256="12")), OPTIONS, HERE)["calibration"] == "12"
    assert key_fields(graph(), OPTIONS, HERE)["precision"] == ""


@pytest.mark.parametrize("model", [b"", b"\x72", b"\x72\xff\xff\xff\xff", b"\x0f" * 50, b"\x80" * 30, graph(spec=spec())[:-7]])
def test_any_bytes_have_a_key(model: bytes) -> None:
    assert len(key_fields(model, OPTIONS, HERE)["model"]) == 64


def test_a_difference_is_one_short_phrase() -> None:
    cached = key_fields(b"a", OPTIONS, replace(HERE, driver="550.54"))
    asked = key_fields(b"b", replace(OPTIONS, batch=(1, 8, 8)), replace(HERE, driver="580.65", gpu=""))
    rows = differences(cached, asked)
    assert rows[2:] == [Difference("driver", "550.54", "580.65"), Difference("gpu", HERE.gpu, "")]
    assert ", ".join(map(str, rows[1:])) == "batch 1:1:1 -> 1:8:8, driver 550.54 -> 580.65, gpu NVIDIA H200 -> unknown"
    assert len(str(rows[0])) < 40
    assert unknown_fields(asked) == ["gpu"]


def test_every_fact_of_the_machine_is_in_the_key() -> None:
    assert set(MACHINES) == {row.name for row in fields(Environment)} < set(key_fields(b"", OPTIONS, HERE))
    assert len(digest(key_fields(b"", OPTIONS, HERE))) == 32
