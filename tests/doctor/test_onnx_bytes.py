"""The hand-written ONNX model is one that the onnx package and a runtime accept."""

from __future__ import annotations

import numpy as np
import pytest

from jetlens.doctor import probes
from jetlens.doctor.onnx_bytes import doubling_model


@pytest.mark.parametrize("size", [1, 4, 200, 100_000])
def test_the_model_is_sound_and_doubles(size: int) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    content = doubling_model(size)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == content
    once = np.arange(size, dtype=np.float32)[np.newaxis]
    (twice,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"once": once})
    assert np.array_equal(twice, 2 * once)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_absent_or_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a provider that is merely listed proves nothing."""
    ort = pytest.importorskip("onnxruntime")
    assert probes._runs(ort, "CPUExecutionProvider") == ""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        assert probes._runs(ort, "CUDAExecutionProvider") != ""
    monkeypatch.setattr(probes, "doubling_model", lambda: doubling_model().replace(b"Add", b"Sub"))
    assert "computes wrongly" in probes._runs(ort, "CPUExecutionProvider")
