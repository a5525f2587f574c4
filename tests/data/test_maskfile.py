"""Polygons and run lengths become the pixels that geometry and COCO's own library say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.data.maskfile import decode_runs, paint_regions, polygon_of, unpack_runs

SIDES = st.integers(1, 20)


@given(SIDES, SIDES, st.tuples(*[st.floats(-5, 25)] * 4))
def test_a_rectangle_has_the_pixels_whose_centres_it_holds(height: int, width: int, corners: tuple[float, float, float, float]) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    polygon = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    expected = ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))
    edge = (np.isin(rows, (top, bottom)))[:, None] | np.isin(columns, (left, right))
    mask = paint_regions([(1, [polygon])], (height, width))
    np.testing.assert_array_equal(mask[~edge], expected[~edge])


@given(st.floats(1, 12), st.floats(5, 15), st.floats(5, 15))
def test_a_circle_has_the_pixels_nearer_than_its_radius(radius: float, x: float, y: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    polygon = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
    rows, columns = np.mgrid[:20, :20] + 0.5
    distance = np.hypot(columns - x, rows - y)
    mask = paint_regions([(1, [polygon])], (20, 20))
    clear = abs(distance - radius) > 1e-3
    np.testing.assert_array_equal(mask[clear], (distance < radius)[clear])


def test_small_regions_stay_visible() -> None:
    whole, dot = np.ones((6, 6), np.bool_), np.zeros((6, 6), np.bool_)
    dot[2, 3] = True
    for regions in ([(1, whole), (2, dot)], [(2, dot), (1, whole)]):
        mask = paint_regions(regions, (6, 6))
        assert mask[2, 3] == 2
        assert (mask == 1).sum() == 35


@given(st.data())
def test_run_lengths_are_those_of_the_library(data: st.DataObject) -> None:
    oracle = pytest.importorskip("faster_coco_eval.core.mask")
    height, width = data.draw(SIDES), data.draw(SIDES)
    mask = np.random.default_rng(data.draw(st.integers(0, 999))).random((height, width)) < data.draw(st.floats(0, 1))
    coded = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = coded["counts"].decode() if isinstance(coded["counts"], bytes) else coded["counts"]
    np.testing.assert_array_equal(decode_runs(unpack_runs(text), (height, width)), mask)


@pytest.mark.parametrize("runs", [[5], [17], [8, -1, 9], [], [2**70, 1]])
def test_run_lengths_that_do_not_add_up_are_refused(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="add up"):
        decode_runs(runs, (4, 4))


@pytest.mark.parametrize("text", ["\x01", "~~~", "o" * 40, "P"])
def test_packed_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="packed"):
        unpack_runs(text)


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("inf")], ["a"] * 6, [None] * 6])
def test_polygons_that_are_none_are_refused(values: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        polygon_of(values)
