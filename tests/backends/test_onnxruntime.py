"""ONNX Runtime: what was asked for runs or an error says why, and no file but the checked bytes is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.errors import BackendError, ModelError
from tiny_graphs import RED, SIZE_HW, color_graph, with_external_weights

ONE_THREAD = SessionOptions(device="cpu", threads=1)
PICTURE = np.ascontiguousarray(RED[None, : SIZE_HW[0], : SIZE_HW[1]])


def _one_clear_line(message: str) -> None:
    assert len(message) <= 300
    assert "\n" not in message
    assert ".cc:" not in message
    assert "ONNXRuntimeError" not in message


def test_runs_and_says_what_ran() -> None:
    import onnxruntime

    with OnnxRuntime.open(color_graph().SerializeToString(), ONE_THREAD) as session:
        logits = session.run({"images": PICTURE})["logits"]
        facts = session.facts
    np.testing.assert_allclose(logits, np.array([[250, 10, 20]]) * 10 / 255, rtol=1e-5)
    assert (facts.backend, facts.version, facts.provider) == ("onnxruntime", onnxruntime.__version__, "CPUExecutionProvider")
    assert facts.precision == "fp32"
    assert facts.device


def test_half_precision_on_x86_is_reported_as_the_fp32_that_runs() -> None:
    """A product above float16's range, made small again by the next node, survives only where the arithmetic is fp32."""
    import platform

    if platform.machine() != "x86_64":
        pytest.skip(f"says something about x86 alone, this is {platform.machine()}")
    graph = color_graph(half=True, baked=False)
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float16), "small"))
    graph.graph.node.insert(3, helper.make_node("Mul", ["flat", "small"], ["shrunk"]))
    graph.graph.node[-1].input[0] = "shrunk"
    with OnnxRuntime.open(graph.SerializeToString(), ONE_THREAD) as session:
        logits = session.run({"planes": np.full((1, 3, *SIZE_HW), 60000, np.float16)})["logits"]
        assert session.facts.precision == "fp32"
    np.testing.assert_allclose(logits, 6000, rtol=1e-2)


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"images": PICTURE.astype(np.float32)}, "float32"),
        ({"images": PICTURE[:, :-1]}, "7"),
        ({"images": PICTURE[0]}, "[8, 12, 3]"),
        ({"picture": PICTURE}, "picture"),
        ({}, "images"),
    ],
)
def test_a_wrong_feed_is_named(feed: dict[str, np.ndarray], said: str) -> None:
    with OnnxRuntime.open(color_graph().SerializeToString(), ONE_THREAD) as session, pytest.raises(BackendError) as caught:
        session.run(feed)
    assert said in str(caught.value)
    _one_clear_line(str(caught.value))


def test_the_caller_owns_the_outputs() -> None:
    with OnnxRuntime.open(color_graph().SerializeToString(), ONE_THREAD) as session:
        first = session.run({"images": PICTURE})["logits"]
        kept = first.copy()
        session.run({"images": 255 - PICTURE})
    np.testing.assert_array_equal(first, kept)


def test_a_closed_session_says_so() -> None:
    session = OnnxRuntime.open(color_graph().SerializeToString(), ONE_THREAD)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"images": PICTURE})


def test_cuda_without_the_gpu_build_says_how_to_get_it() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(BackendError, match="onnxruntime-gpu") as caught:
        OnnxRuntime.open(color_graph().SerializeToString(), SessionOptions(device="cuda"))
    _one_clear_line(str(caught.value))


def test_a_cuda_provider_that_does_not_start_is_an_error_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of providers is no proof: what the session says after loading counts."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    content = color_graph().SerializeToString()
    with pytest.raises(BackendError, match="cuda was asked for") as caught:
        OnnxRuntime.open(content, SessionOptions(device="cuda"))
    _one_clear_line(str(caught.value))
    with OnnxRuntime.open(content, SessionOptions(device="auto")) as session:
        assert session.facts.provider == "CPUExecutionProvider"


def test_a_precision_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(BackendError, match="bf16"):
        OnnxRuntime.open(color_graph().SerializeToString(), SessionOptions(precision="bf16"))
    OnnxRuntime.open(color_graph().SerializeToString(), SessionOptions(precision="fp32")).close()


def test_a_graph_that_it_cannot_run_is_a_model_error_and_stderr_stays_clean(capfd: pytest.CaptureFixture[str]) -> None:
    unknown = color_graph()
    unknown.graph.node[-1].op_type = "NoSuchOperator"
    broken = color_graph()
    broken.graph.node[-2].input[0] = "nowhere"
    for graph in (unknown, broken):
        with pytest.raises(ModelError) as caught:
            OnnxRuntime.open(graph.SerializeToString(), ONE_THREAD)
        _one_clear_line(str(caught.value))
    assert capfd.readouterr().err == ""


def test_weights_in_another_file_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the runtime itself reads the file from the current folder, although it is given bytes."""
    import onnxruntime

    (tmp_path / "weights.bin").write_bytes(np.full((3, 3, 1, 1), 7, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    content = with_external_weights(color_graph()).SerializeToString()
    naive = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert naive.run(None, {"images": PICTURE})[0].max() > 5
    with pytest.raises(ModelError, match="other files"):
        OnnxRuntime.open(content, ONE_THREAD)


def test_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    reason = OnnxRuntime.unavailable()
    assert reason is not None
    assert "jetlens[cpu]" in reason
    with pytest.raises(BackendError, match="not installed"):
        OnnxRuntime.open(color_graph().SerializeToString(), ONE_THREAD)
