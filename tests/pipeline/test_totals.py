"""Classes over a whole stream: the sum over frames, and ratios that sum to 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetlens.pipeline.totals import ClassTotals
from jetlens.results import Detections, Segmentation

LABELS = ("background", "sunburn", "ulcer", "wind scarring")
MASK = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5))


@given(masks=st.lists(MASK, min_size=1, max_size=6))
def test_totals_are_the_counts_of_all_frames_in_one(masks: list[np.ndarray]) -> None:
    totals = ClassTotals()
    for mask in masks:
        totals.add(Segmentation(mask, LABELS))
    values, counts = np.unique(np.concatenate([mask.ravel() for mask in masks]), return_counts=True)
    rows = totals.rows()
    assert {row["class_id"]: row["pixels"] for row in rows} == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert sum(row["ratio"] for row in rows) == pytest.approx(1)
    for row in rows:
        assert row["frames"] == sum(row["class_id"] in mask for mask in masks)
        assert row["label"] == (LABELS[row["class_id"]] if row["class_id"] < 4 else str(row["class_id"]))


def test_what_has_no_pixels_is_left_out() -> None:
    totals = ClassTotals()
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (4, 4), (), tracker_id=None)
    totals.add(nothing)
    assert (totals.frames, totals.rows()) == (0, [])
