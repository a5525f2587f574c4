"""Calibration: what is seen of a tensor, and the step that follows by each method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from residual_graph import batches, residual_graph  # noqa: E402

from jetlens.errors import DataError  # noqa: E402
from jetlens.precision.activations import METHODS, Activations, largest_values, observe, scales  # noqa: E402
from jetlens.precision.fp16 import to_half  # noqa: E402
from jetlens.precision.graph import Graph  # noqa: E402

CONTENT = residual_graph().SerializeToString()


def seen_of(values: np.ndarray) -> Activations:
    """As observe() would see one tensor."""
    largest = float(np.abs(values).max())
    places = (np.abs(values) * (2047 / (largest or 1))).astype(int)
    return Activations({"x": largest}, {"x": np.bincount(places.ravel(), minlength=2048)})


def step(values: np.ndarray, method: str) -> float:
    return scales(seen_of(values), method)["x"]  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.sampled_from(["normal", "laplace", "exponential"]))
def test_no_method_goes_beyond_what_was_seen(seed: int, spread: float, shape: str) -> None:
    values = getattr(np.random.default_rng(seed), shape)(size=20_000) * spread
    whole = step(values, "minmax")
    assert whole == pytest.approx(np.abs(values).max() / 127)
    for method in ("entropy", "percentile"):
        assert 0 < step(values, method) <= whole * (1 + 1e-9)


def test_percentile_and_entropy_leave_out_a_lonely_outlier() -> None:
    values = np.append(np.random.default_rng(0).normal(0, 1, 200_000), 100.0)
    assert step(values, "minmax") == pytest.approx(100 / 127)
    for method in ("entropy", "percentile"):
        assert 2 / 127 < step(values, method) < 10 / 127


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    assert step(np.random.default_rng(0).uniform(-3, 3, 500_000), "entropy") > 0.9 * 3 / 127


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_step_above_zero(method: str) -> None:
    assert step(np.zeros(1000), method) > 0


def test_the_largest_value_is_that_of_all_batches() -> None:
    graph, pixels = Graph(CONTENT), batches()
    onto = ["stem.relu", "two.add"]
    each = [largest_values(graph, [batch], onto) for batch in pixels]
    assert largest_values(graph, pixels, onto) == {name: max(row[name] for row in each) for name in onto}


def test_the_largest_value_of_halves_is_read_too() -> None:
    exact = largest_values(Graph(CONTENT), batches(), ["one.add"])["one.add"]
    assert largest_values(Graph(to_half(CONTENT)), batches(), ["one.add"])["one.add"] == pytest.approx(exact, rel=5e-3)


def test_histograms_count_a_sample_of_every_batch() -> None:
    seen = observe(Graph(CONTENT), batches(), ["stem.relu", "flat"], "percentile")
    assert seen.histogram["stem.relu"].sum() == 4 * 3 * 8 * 16 * 16
    assert seen.histogram["flat"].sum() == 4 * 3 * 16


def test_a_broken_network_is_named() -> None:
    model = residual_graph()
    bias = next(row for row in model.graph.initializer if row.name == "one.first.b")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(8, np.nan, np.float32), bias.name))
    with pytest.raises(DataError, match=r"'one.relu' is NaN or infinite in fp32"):
        observe(Graph(model.SerializeToString()), batches(), ["stem.relu", "one.relu"], "minmax")
