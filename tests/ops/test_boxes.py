"""Overlap of boxes and non-maximum suppression, against torchvision and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.ops.boxes import iou_matrix, nms


def random_boxes(count: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 150, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.permutation(count).astype(np.float32) / max(1, count), rng.integers(0, classes, count)


def naive_nms(boxes: np.ndarray, confidence: np.ndarray, class_id: np.ndarray, iou: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -confidence[i]):
        if all(class_id[i] != class_id[j] or iou_matrix(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= np.float32(iou) for j in kept):
            kept.append(i)
    return kept


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [5, 5, 5, 5]], np.float32)
    assert np.allclose(iou_matrix(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])
    assert iou_matrix(a[:0], b).shape == (0, 4)


@pytest.mark.parametrize("count", [0, 1, 7, 300, 1500])
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 1.0])
def test_nms_equals_torchvision(count: int, iou: float) -> None:
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    arrays = random_boxes(count, seed=count)
    expected = torchvision.ops.batched_nms(*(torch.from_numpy(a) for a in arrays), iou).numpy()
    kept = nms(*arrays, iou, max_detections=count + 1)
    assert kept.dtype == np.int64
    # batched_nms shifts the classes apart in float32, which moves overlaps at the threshold: allow one box.
    assert len(set(kept.tolist()) ^ set(expected.tolist())) <= (2 if count > 1000 else 0)
    if len(kept) == len(expected):
        assert np.array_equal(kept, expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 1000), st.floats(0, 1), st.integers(1, 5))
def test_nms_equals_a_plain_loop(count: int, seed: int, iou: float, classes: int) -> None:
    arrays = random_boxes(count, seed, classes)
    expected = naive_nms(*arrays, iou)
    assert nms(*arrays, iou).tolist() == expected
    assert nms(*arrays, iou, max_detections=3).tolist() == expected[:3]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 3, np.float32)
    confidence = np.array([0.5, 0.9, 0.7], np.float32)
    assert nms(boxes, confidence, np.array([0, 0, 1]), 0.5).tolist() == [1, 2]
    # Negative control: one class for all loses the second object.
    assert nms(boxes, confidence, np.zeros(3, int), 0.5).tolist() == [1]


def test_boxes_without_area_stay_apart() -> None:
    boxes = np.array([[5, 5, 5, 5]] * 2, np.float32)
    assert nms(boxes, np.array([0.5, 0.5], np.float32), np.zeros(2, int), 0.5).tolist() == [0, 1]
