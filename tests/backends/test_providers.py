"""Providers on a GPU: what was asked for runs, or opening fails; a runtime that falls back in silence is caught."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jetlens.backends import onnxruntime as module
from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime, OnnxRuntimeTensorRt
from jetlens.backends.providers import CPU, CUDA, TENSORRT, placement
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError
from jetlens.graph import read_graph
from tiny_graphs import color_graph

MODEL = color_graph().SerializeToString()


class FakeOrt:
    """An onnxruntime with GPU providers that behave in one of the ways that real ones do.

    Attributes:
        way: ``runs``; ``drops`` the provider in silence; ``shapes`` or ``heavy``: such nodes belong to the CPU; ``breaks``.
    """

    __version__ = "1.31.1"

    def __init__(self, way: str, folder: Path) -> None:
        self.way, self.folder = way, folder
        self.opened: list[Any] = []
        self.disable_telemetry_events = lambda: None
        self.get_available_providers = lambda: [TENSORRT, CUDA, CPU]

    def SessionOptions(self) -> Any:  # noqa: N802
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__, profile_file_prefix="")

    def InferenceSession(self, model: bytes, settings: Any, providers: list[Any], enable_fallback: int) -> Any:  # noqa: N802
        strict = settings.entries.get("session.disable_cpu_ep_fallback") == "1"
        self.opened.append(providers)
        if self.way == "breaks":
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : libcudnn.so.9: cannot open shared object file")
        if strict and self.way in ("shapes", "heavy"):
            raise RuntimeError("nodes are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled")
        names = [row if isinstance(row, str) else row[0] for row in providers]
        return SimpleNamespace(
            get_providers=lambda: [CPU] if self.way == "drops" else names,
            get_inputs=lambda: [SimpleNamespace(name="images", type="tensor(uint8)", shape=["N", 8, 12, 3])],
            get_outputs=lambda: [SimpleNamespace(name="logits", type="tensor(float)", shape=["N", 3])],
            run=lambda names, feed: [np.zeros((1, 3), np.float32)],
            end_profiling=lambda: self._profile(settings.profile_file_prefix),
        )

    def _profile(self, prefix: str) -> str:
        kinds = {"Conv": CUDA, "Shape": CPU} if self.way == "shapes" else {"Conv": CPU, "Shape": CPU}
        path = self.folder / "profile.json"
        rows = ", ".join(
            f'{{"cat": "Node", "name": "{kind}_kernel_time", "args": {{"provider": "{where}", "op_name": "{kind}"}}}}'
            for kind, where in kinds.items()
        )
        path.write_text(f'[{{"cat": "Session", "name": "model_run", "args": {{}}}}, {rows}]')
        return str(path)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def install(way: str) -> FakeOrt:
        fake = FakeOrt(way, tmp_path)
        monkeypatch.setattr(module, "require", lambda *args, **named: fake)
        monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
        return fake

    return install


def test_cuda_that_runs_is_reported(runtime: Any) -> None:
    fake = runtime("runs")
    with OnnxRuntime.open(MODEL, SessionOptions(device="cuda")) as session:
        assert (session.facts.provider, session.facts.notes) == (CUDA, ())
    assert fake.opened == [[(CUDA, {"use_tf32": "0"})]]


def test_nodes_that_compute_shapes_may_run_on_the_cpu_and_are_named(runtime: Any) -> None:
    runtime("shapes")
    with OnnxRuntime.open(MODEL, SessionOptions(device="cuda")) as session:
        assert session.facts.provider == CUDA
        assert session.facts.notes == ("1 of 2 nodes run on the CPU: Shape",)


@pytest.mark.parametrize(
    ("way", "message"),
    [("heavy", "its Conv nodes would run on the CPU"), ("drops", "CPUExecutionProvider ran instead"), ("breaks", "libcudnn")],
)
def test_cuda_that_does_not_run_everything_fails(runtime: Any, way: str, message: str) -> None:
    fake = runtime(way)
    with pytest.raises(BackendError, match=message) as caught:
        OnnxRuntime.open(MODEL, SessionOptions(device="cuda"))
    assert "device cuda was asked for" in str(caught.value)
    assert len(str(caught.value)) <= 285
    # Negative control: what the naive call reports.
    if way == "heavy":
        naive = fake.InferenceSession(MODEL, fake.SessionOptions(), [CUDA, CPU], 0)
        assert naive.get_providers()[0] == CUDA


def test_int8_on_cuda_is_the_fp32_that_runs(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime("runs")
    monkeypatch.setattr("jetlens.graph.GraphFacts.precision", property(lambda self: "int8"))
    assert OnnxRuntime.open(MODEL, SessionOptions(device="cuda")).facts.precision == "fp32"
    with pytest.raises(BackendError, match="int8 was asked for, but this graph runs in fp32"):
        OnnxRuntime.open(MODEL, SessionOptions(device="cuda", precision="int8"))


def test_tensorrt_gets_the_batch_range_precision_and_a_private_cache(runtime: Any, tmp_path: Path) -> None:
    fake = runtime("runs")
    options = SessionOptions(build=BuildOptions(batch=(1, 4, 8), workspace_mib=256, optimization_level=2))
    with OnnxRuntimeTensorRt.open(color_graph(half=True).SerializeToString(), options) as session:
        facts = session.facts
        with pytest.raises(BackendError, match="takes 1 to 8 pictures"):
            session.run({"images": np.zeros((9, 8, 12, 3), np.uint8)})
    assert (facts.backend, facts.provider, facts.precision, facts.largest_batch) == ("onnxruntime-tensorrt", TENSORRT, "fp16", 8)
    [[(provider, settings)]] = fake.opened
    assert provider == TENSORRT
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"], settings["trt_builder_optimization_level"]) == ("True", "False", "2")
    assert settings["trt_max_workspace_size"] == str(256 << 20)
    assert [settings[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")] == [f"images:{n}x8x12x3" for n in (1, 4, 8)]
    folder = Path(settings["trt_engine_cache_path"])
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("way", ["heavy", "shapes", "drops", "breaks"])
def test_tensorrt_runs_every_node_or_fails(runtime: Any, way: str) -> None:
    runtime(way)
    with pytest.raises(BackendError, match="onnxruntime-tensorrt: TensorRT") as caught:
        OnnxRuntimeTensorRt.open(MODEL, SessionOptions())
    assert len(str(caught.value)) <= 300


def test_tensorrt_is_refused_on_the_cpu_and_without_its_provider(runtime: Any) -> None:
    fake = runtime("runs")
    with pytest.raises(BackendError, match="NVIDIA GPUs only"):
        OnnxRuntimeTensorRt.open(MODEL, SessionOptions(device="cpu"))
    fake.get_available_providers = lambda: [CPU]
    assert "onnxruntime-gpu" in str(OnnxRuntimeTensorRt.unavailable())
    with pytest.raises(BackendError, match="has no TensorRT provider"):
        OnnxRuntimeTensorRt.open(MODEL, SessionOptions())


def test_the_placement_of_a_real_profile_is_read(tmp_path: Path) -> None:
    import onnxruntime

    def opened(prefix: Path) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.enable_profiling, settings.profile_file_prefix = True, str(prefix)
        return onnxruntime.InferenceSession(MODEL, settings, providers=[CPU])

    found = placement(opened, read_graph(MODEL))
    assert {where for where, _ in found} == {CPU}
    assert any(kind.endswith("Conv") for _, kind in found)
