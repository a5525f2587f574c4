"""Masks: ids from scores, the way back to the source picture, the palette."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.ops import masks
from jetlens.ops.images import place
from jetlens.ops.masks import class_ids, resize_mask, voc_palette
from jetlens.ops.placement import Placement
from jetlens.spec import PreprocessSpec


def naive_resize(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """Pixel by pixel: the id where the centre of each source pixel lies."""
    out = np.zeros(placement.source_hw, np.uint8)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            cx = (x + 0.5) * placement.scale_xy[0] + placement.offset_xy[0]
            cy = (y + 0.5) * placement.scale_xy[1] + placement.offset_xy[1]
            if 0 <= cx < placement.canvas_hw[1] and 0 <= cy < placement.canvas_hw[0]:
                row = min(int(cy * (mask.shape[0] / placement.canvas_hw[0])), mask.shape[0] - 1)
                column = min(int(cx * (mask.shape[1] / placement.canvas_hw[1])), mask.shape[1] - 1)
                out[y, x] = mask[row, column]
    return out


side = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(side, side),
    st.tuples(side, side),
    st.tuples(side, side),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["center", "top-left"]),
    st.booleans(),
)
def test_resize_is_the_exact_way_back(source_hw, canvas_hw, mask_hw, rule, anchor, with_cv2) -> None:  # type: ignore[no-untyped-def]
    placement = place(source_hw, PreprocessSpec(canvas_hw, rule, anchor=anchor))
    mask = np.random.default_rng(0).integers(1, 200, mask_hw).astype(np.int32)
    expected = naive_resize(mask, placement)
    with pytest.MonkeyPatch.context() as patch:
        if not with_cv2:
            patch.setattr(masks, "cv2_if_there", lambda: None)
        result = resize_mask(mask, placement)
        assert result.dtype == np.uint8
        assert np.array_equal(result, expected)
        out = np.full(source_hw, 77, np.uint8)
        assert resize_mask(mask, placement, out) is out
        assert np.array_equal(out, expected)


def test_a_letterboxed_mask_is_not_the_stretched_one() -> None:
    """What goes wrong where the padding is forgotten: an object at the edge of the picture moves."""
    placement = place((100, 400), PreprocessSpec((64, 64), "letterbox"))
    mask = np.zeros((64, 64), np.uint8)
    left, top, right, bottom = placement.content_xyxy()
    mask[top:bottom, left : left + (right - left) // 2] = 1
    result = resize_mask(mask, placement)
    assert (result[:, :200] == 1).all()
    assert (result[:, 200:] == 0).all()
    forgotten = resize_mask(mask, Placement((100, 400), (64, 64), (64 / 400, 64 / 100), (0.0, 0.0)))
    assert not np.array_equal(result, forgotten)


def test_what_a_crop_cuts_off_is_background() -> None:
    placement = place((100, 200), PreprocessSpec((50, 50), "crop"))
    result = resize_mask(np.full((50, 50), 3, np.uint8), placement)
    assert (result[:, 50:150] == 3).all()
    assert (result[:, :50] == 0).all()
    assert (result[:, 150:] == 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(0, 100), st.sampled_from([np.float32, np.float16, np.int8]))
def test_class_ids_equal_argmax(classes: int, seed: int, kind: type) -> None:
    logits = (np.random.default_rng(seed).normal(size=(classes, 5, 7)) * 3).astype(kind)
    assert np.array_equal(class_ids(logits), logits.argmax(axis=0))


def test_class_ids_take_the_first_of_equals() -> None:
    assert (class_ids(np.zeros((4, 2, 2), np.float32)) == 0).all()


def test_palette_is_vocs() -> None:
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette[:6].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert palette[15].tolist() == [192, 128, 128]
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256
