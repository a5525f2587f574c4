import numpy as np
import pytest

from jetlens.deviation import deviation
from jetlens.errors import ModelError

BOXES = np.array([[[10, 10, 50, 60, 0.9, 0], [100, 20, 160, 90, 0.8, 1], [0, 0, 5, 5, 0.1, 0]]], np.float32)


def test_classification_names_the_largest_difference() -> None:
    figures = deviation("classification", {"logits": np.array([[1.0, 3.0], [2.0, 0.0]])}, {"logits": np.array([[1.0, 3.5], [2.0, 2.25]])})
    assert figures["max_abs"] == 2.25
    assert figures["mean_abs"] == pytest.approx((0.5 + 2.25) / 4)
    assert figures["rmse"] == pytest.approx(((0.25 + 2.25**2) / 4) ** 0.5)
    assert figures["top1_agreement"] == 0.5
    assert figures["cosine"] == pytest.approx(15.5 / (14 * (1 + 3.5**2 + 4 + 2.25**2)) ** 0.5)


def test_boxes_match_in_any_order() -> None:
    moved = BOXES[:, [1, 0, 2]] + np.float32([0.25, 0, 0, 0, 0, 0])
    figures = deviation("detection", {"detections": BOXES}, {"detections": moved})
    assert figures["matched_boxes"] == 1
    assert figures["max_box_pixels"] == pytest.approx(0.25, abs=1e-5)


def test_swapped_classes_do_not_match() -> None:
    swapped = BOXES.copy()
    swapped[0, :, 5] = 1 - swapped[0, :, 5]
    assert deviation("detection", {"d": BOXES}, {"d": swapped})["matched_boxes"] == 0


def test_masks() -> None:
    mask = np.zeros((1, 10, 10), np.int32)
    other = mask.copy()
    other[0, 0, :5] = 1
    assert deviation("segmentation", {"mask": mask}, {"mask": other}) == {"mask_agreement": 0.95}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "expected shape"),
        ({"logits": np.zeros((1, 3))}, "expected shape"),
        ({"logits": np.array([[np.inf, 0.0]])}, "1 values that are NaN or infinite"),
    ],
)
def test_what_cannot_be_compared_is_named(outputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        deviation("classification", {"logits": np.zeros((1, 2))}, outputs)
