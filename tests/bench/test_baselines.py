"""Baselines: plain PyTorch answers as the network does, what is absent says what it takes, and no torch is needed to ask."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jetlens.bench.baselines import BASELINES, open_baseline, unavailable
from jetlens.errors import BackendError, UnknownNameError

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)


def pictures(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)


def test_eager_on_the_cpu_answers_as_the_network() -> None:
    torch = pytest.importorskip("torch")
    from jetlens.models import build

    network = build("basic_cnn", num_classes=4).eval()
    batch = pictures()
    with open_baseline("torch-eager-fp32", network, MEAN, STD, batch, "cpu") as baseline:
        got = baseline.run(batch).copy()
        other = baseline.run(batch[::-1]).copy()
        times = baseline.compute_ms(3)
    normalised = ((batch.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(torch.from_numpy(np.ascontiguousarray(normalised))).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(other, expected[::-1], atol=1e-5)
    assert len(times) == 3
    assert min(times) > 0
    with pytest.raises(BackendError, match="closed"):
        baseline.run(batch)


def test_a_network_with_several_outputs_gives_its_first() -> None:
    torch = pytest.importorskip("torch")

    class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: object) -> object:
            return x[:, 0], x[:, 1]  # type: ignore[index]

    with open_baseline("torch-eager-fp32", Two(), (0.0,) * 3, (1.0,) * 3, pictures(), "cpu") as baseline:
        np.testing.assert_array_equal(baseline.run(pictures()), pictures()[..., 0])


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "torch-eager-fp32"])
def test_what_needs_a_gpu_says_so(name: str) -> None:
    pytest.importorskip("torch")
    assert "torch-eager-fp32" in str(unavailable(name, "cpu"))


def test_torch2trt_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch2trt", None)
    said = str(unavailable("torch2trt-fp16"))
    assert "torch2trt is not installed" in said
    assert "baseline only" in said
    with pytest.raises(BackendError, match="torch2trt"):
        open_baseline("torch2trt-fp16", torch.nn.Identity(), (0.0,) * 3, (1.0,) * 3, pictures())


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="torch-graph-fp16"):
        unavailable("torch-fast")


def test_importing_and_asking_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from jetlens.bench.baselines import BASELINES, unavailable\n"
        "assert all('needs torch' in unavailable(name) for name in BASELINES)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
