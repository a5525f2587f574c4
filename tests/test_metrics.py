"""Accuracy, against hand-counted cases and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.errors import DataError
from jetlens.metrics import ConfusionMatrix, accuracy_top_k, mean_average_precision, wilson_interval
from jetlens.results import Detections


def detections(boxes: list[list[float]], classes: list[int], scores: list[float] | None = None) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores if scores is not None else [1.0] * len(boxes), np.float32),
        np.array(classes, np.int64),
        (100, 100),
    )


def test_top_k() -> None:
    predicted = np.array([[3, 1, 2], [0, 1, 2], [2, 3, 0], [1, 0, 2]])
    truth = np.array([3, 1, 0, 3])
    assert [accuracy_top_k(predicted, truth, k) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    with pytest.raises(DataError):
        accuracy_top_k(predicted[:0], truth[:0])
    with pytest.raises(DataError):
        accuracy_top_k(predicted, truth[:2])


def test_wilson_interval_is_the_published_one() -> None:
    low, high = wilson_interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    low, high = wilson_interval(990, 1000)
    assert high - low < 0.02


def test_rates_of_a_known_matrix() -> None:
    matrix = ConfusionMatrix(4)
    matrix.add(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0]))
    assert matrix.accuracy == pytest.approx(4 / 6)
    assert matrix.precision == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert matrix.recall == pytest.approx([2 / 3, 1, 0, 0])
    assert matrix.f1 == pytest.approx([2 / 3, 4 / 5, 0, 0])
    assert matrix.iou == pytest.approx([1 / 2, 2 / 3, 0, 0])
    # Class 3 is nowhere in the truth and does not pull the means down.
    assert matrix.mean_iou == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert matrix.macro_f1 == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    rows = list(matrix.rows(("a", "b")))
    assert [row["label"] for row in rows] == ["a", "b", "class 2", "class 3"]
    assert [row["support"] for row in rows] == [3, 2, 1, 0]


def test_nothing_counted_is_zero_and_no_warning() -> None:
    with np.errstate(all="raise"):
        matrix = ConfusionMatrix(3)
        assert matrix.accuracy == matrix.mean_iou == matrix.macro_f1 == 0
        assert not matrix.f1.any()


def test_ids_that_the_truth_does_not_know() -> None:
    matrix = ConfusionMatrix(2, ignore=255)
    matrix.add(np.array([[0, 255], [1, 1]], np.uint8), np.array([[0, 1], [200, 1]], np.uint8))
    assert matrix.total == 3
    assert matrix.accuracy == pytest.approx(2 / 3)
    assert matrix.recall == pytest.approx([1, 0.5])
    with pytest.raises(DataError, match="class id 2"):
        matrix.add(np.array([2]), np.array([0]))
    with pytest.raises(DataError, match="shape"):
        matrix.add(np.zeros((2, 3), int), np.zeros((3, 2), int))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40), st.integers(0, 40))
def test_matrix_equals_counting(classes: int, pairs: list[tuple[int, int]], cut: int) -> None:
    pairs = [(t % classes, p % classes) for t, p in pairs]
    truth, predicted = (np.array([pair[i] for pair in pairs], np.uint8) for i in (0, 1))
    matrix = ConfusionMatrix(classes)
    matrix.add(truth[:cut], predicted[:cut])
    matrix.add(truth[cut:], predicted[cut:])
    for c in range(classes):
        hits = sum(t == p == c for t, p in pairs)
        union = sum(c in pair for pair in pairs)
        assert matrix.iou[c] == pytest.approx(hits / union if union else 0)
        assert matrix.support[c] == sum(t == c for t, _ in pairs)


def test_map_of_known_boxes(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faster_coco_eval")
    truth = [detections([[0, 0, 10, 10], [50, 50, 70, 70]], [0, 2]), detections([[20, 20, 40, 40]], [0]), detections([], [])]
    perfect = mean_average_precision(truth, truth)
    assert perfect.map50 == perfect.map50_95 == 1
    assert perfect.boxes == {0: 2, 2: 1}
    nothing = mean_average_precision([one[:0] for one in truth], truth)
    assert nothing.map50 == nothing.map50_95 == 0
    # IoU 0.6 (a shift of a quarter of the side): counted at 0.50, 0.55 and 0.60 of the ten thresholds.
    shifted = [detections([[2.5, 0, 12.5, 10], [50, 50, 70, 70]], [0, 2]), detections([[25, 20, 45, 40]], [0]), detections([], [])]
    result = mean_average_precision(shifted, truth)
    assert result.map50 == pytest.approx(1)
    assert result.ap50_95[0] == pytest.approx(0.3)
    assert result.map50_95 == pytest.approx((0.3 + 1) / 2)
    assert capfd.readouterr() == ("", "")


def test_map_counts_false_alarms_and_unknown_classes() -> None:
    pytest.importorskip("faster_coco_eval")
    truth = [detections([[0, 0, 10, 10]], [1])]
    false_first = [detections([[50, 50, 60, 60], [0, 0, 10, 10]], [1, 1], [0.9, 0.8])]
    assert mean_average_precision(false_first, truth).map50 == pytest.approx(0.5)
    false_last = [detections([[50, 50, 60, 60], [0, 0, 10, 10]], [1, 1], [0.7, 0.8])]
    assert mean_average_precision(false_last, truth).map50 == pytest.approx(1)
    other_class = [detections([[0, 0, 10, 10], [0, 0, 10, 10]], [7, 1], [0.9, 0.8])]
    assert mean_average_precision(other_class, truth).map50 == pytest.approx(1)
    wrong_class = [detections([[0, 0, 10, 10]], [7])]
    assert mean_average_precision(wrong_class, truth).map50 == 0


def test_map_without_truth_is_refused() -> None:
    with pytest.raises(DataError, match="no true box"):
        mean_average_precision([detections([], [])], [detections([], [])])
    with pytest.raises(DataError, match="no true box"):
        mean_average_precision([], [])
    with pytest.raises(DataError, match="1 predictions came for 0"):
        mean_average_precision([detections([], [])], [])
