"""Segmentation: masks and scores to class ids of the source picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jetlens.errors import ModelError, UnknownNameError
from jetlens.results import Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec
from jetlens.tasks.segmentation import SegmentationTask

LABELS = ("background", "sunburn", "ulcer", "wind scarring")


def task(decoder: str = "mask", preprocess: PreprocessSpec = PreprocessSpec((8, 8)), **changes: Any) -> SegmentationTask:  # noqa: B008
    return SegmentationTask(ModelSpec("m", "segmentation", LABELS, preprocess, decoder, **changes))


def run(subject: SegmentationTask, output: np.ndarray, hw: tuple[int, int] = (16, 24)) -> Segmentation:
    batch = subject.preprocess([np.zeros((*hw, 3), np.uint8)] * len(output))
    return subject.postprocess({"mask": output}, batch)[0]


QUARTERS = np.repeat(np.repeat(np.array([[0, 1], [2, 3]]), 4, axis=0), 4, axis=1)
EXPECTED = np.repeat(np.repeat(np.array([[0, 1], [2, 3]]), 8, axis=0), 12, axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.uint16])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 8, 8), (1, 8, 8, 1)])
def test_mask_of_any_type(dtype: type, shape: tuple[int, ...]) -> None:
    result = run(task(), QUARTERS.astype(dtype).reshape(shape))
    assert result.mask.dtype == np.uint8
    assert np.array_equal(result.mask, EXPECTED)
    assert result.labels == LABELS


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_logits_equal_the_mask(dtype: type, layout: str) -> None:
    logits = np.random.default_rng(0).uniform(0, 1, (4, 8, 8))
    np.put_along_axis(logits, QUARTERS[None], 5, axis=0)
    subject = task("logits", decoder_options={"layout": layout})
    output = logits[None].astype(dtype)
    assert np.array_equal(run(subject, output if layout == "nchw" else output.transpose(0, 2, 3, 1)).mask, EXPECTED)


def test_one_class_is_a_threshold() -> None:
    scores = (QUARTERS == 3).astype(np.float32)[None, None]
    assert np.array_equal(run(task("logits", decoder_options={"threshold": 0.5}), scores).mask, EXPECTED == 3)


def test_a_mask_of_another_size_than_the_input() -> None:
    assert np.array_equal(run(task(), np.array([[[0, 1], [2, 3]]], np.int32)).mask, EXPECTED)


def test_letterbox_is_taken_off() -> None:
    subject = task(preprocess=PreprocessSpec((8, 8), "letterbox"))
    mask = np.zeros((1, 8, 8), np.int32)
    mask[:, :2], mask[:, 6:] = 3, 3
    mask[:, 2:6] = 1
    result = run(subject, mask, (16, 32))
    assert (result.mask == 1).all(), "the padding shows in the picture"


def test_masks_of_past_frames_stay() -> None:
    """Memory is used again, but never while a result lives."""
    subject = task()
    kept = [run(subject, np.full((1, 8, 8), i % 4, np.int32)) for i in range(40)]
    assert all((one.mask == i % 4).all() for i, one in enumerate(kept))


def test_the_offset_moves_the_labels_and_not_the_ids() -> None:
    subject = SegmentationTask(ModelSpec("m", "segmentation", LABELS[1:], PreprocessSpec((8, 8)), "mask", label_offset=1))
    result = run(subject, QUARTERS.astype(np.int32)[None])
    assert np.array_equal(result.mask, EXPECTED)
    assert result.labels == LABELS


def test_ratios_sum_to_one() -> None:
    rows = run(task(), QUARTERS.astype(np.int32)[None]).to_dict()["classes"]
    assert [row["label"] for row in rows] == list(LABELS)
    assert sum(row["pixels"] for row in rows) == 16 * 24
    assert sum(row["ratio"] for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("bad", [-1, 256, 70000])
def test_ids_that_no_class_has_are_refused(bad: int) -> None:
    """Negative control: a cast alone wraps them into some class."""
    mask = QUARTERS.astype(np.int32)[None].copy()
    mask[0, 0, 0] = bad
    assert mask.astype(np.uint8).max() <= 255
    with pytest.raises(ModelError, match=f"{bad}"):
        run(task(), mask)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    logits = np.zeros((1, 4, 8, 8), np.float32)
    logits[0, 2, 3, 3] = bad
    with pytest.raises(ModelError, match="output 'mask' has 1 of 256"):
        run(task("logits"), logits)


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(ModelError, match="decoder 'logits'"):
        run(task(), np.zeros((1, 4, 8, 8), np.int32))
    with pytest.raises(ModelError, match="classes, h, w"):
        run(task("logits"), np.zeros((1, 8, 8), np.float32))
    with pytest.raises(UnknownNameError, match="logits, mask"):
        task("argmax")
