"""Verification passes what is right whatever the order of ties, and fails what is subtly wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.export.verify import BOX_TOLERANCE_PX, RAW_TOLERANCE, Verification, box_deviation, verification_batches
from jetlens.spec import ModelSpec, PreprocessSpec


def rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (count, 4))
    return np.column_stack([corners, np.sort(rng.uniform(0.1, 1, count))[::-1], rng.integers(0, 5, count)]).astype(np.float32)


def naive(want: np.ndarray, got: np.ndarray) -> float:
    """Row against row, as they stand."""
    return float(np.abs(want[:, :4] - got[:, :4]).max())


@given(st.integers(2, 60), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_ties_in_any_order_are_equal(count: int, seed: int) -> None:
    want = rows(count, seed)
    want[:, 4] = np.round(want[:, 4], 1)  # many equal confidences
    shuffled = want[np.random.default_rng(seed).permutation(count)]
    got = shuffled[np.argsort(-shuffled[:, 4], kind="stable")]
    assert box_deviation(want, got) == 0
    if (got != want).any():
        assert naive(want, got) > BOX_TOLERANCE_PX, "the naive comparison would raise a false alarm"


@given(st.integers(3, 60), st.integers(0, 10**6), st.data())
@settings(max_examples=50, deadline=None)
def test_one_wrong_row_is_found(count: int, seed: int, data: st.DataObject) -> None:
    want = rows(count, seed)
    got = want.copy()
    at = data.draw(st.integers(0, count - 2))
    column, by = data.draw(st.sampled_from([(0, 0.1), (2, -0.1), (4, 0.05), (5, 7.0)]))
    got[at, column] += by
    assert box_deviation(want, got) > BOX_TOLERANCE_PX


def test_of_equals_at_the_end_of_the_list_either_may_be_cut_off() -> None:
    want, got = rows(10, 1), rows(10, 1)
    want[-2:, 4] = got[-2:, 4] = 0.05
    got[-1, :4] += 50
    assert box_deviation(want, got) == 0
    got[0, :4] += 50
    assert box_deviation(want, got) == float("inf") or box_deviation(want, got) > BOX_TOLERANCE_PX


def test_nan_and_other_shapes_never_pass() -> None:
    want = rows(5, 2)
    broken = want.copy()
    broken[2, 1] = np.nan
    assert box_deviation(want, broken) == float("inf")
    assert box_deviation(want, want[:4]) == float("inf")
    assert not Verification(float("nan"), None, None, 4).passed
    assert not Verification(0.0, None, 0.9998, 4).passed
    assert not Verification(0.0, 0.011, None, 4).passed
    assert Verification(RAW_TOLERANCE, 0.01, 0.9999, 4).passed


@pytest.mark.parametrize(("batch", "sizes"), [("N", [1, 3]), (2, [2, 2])])
def test_batches_of_pictures(batch: int | str, sizes: list[int]) -> None:
    spec = ModelSpec("x", "classification", (), PreprocessSpec((48, 64), "letterbox"), "logits")
    batches = verification_batches(spec, batch)
    assert [len(pixels) for pixels in batches] == sizes
    assert all(pixels.shape[1:] == (48, 64, 3) and pixels.std() > 10 for pixels in batches)
