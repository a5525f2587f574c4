"""Intervals: the bootstrap's average precision is COCO's, and every score has one that holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.data.samples import Sample
from jetlens.evaluate import evaluate
from jetlens.evaluate.bootstrap import draws, match_boxes
from jetlens.metrics import mean_average_precision
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec

SIZE_HW = (64, 64)
LABELS = ("a", "b", "c")
IMAGE = np.zeros((*SIZE_HW, 3), np.uint8)


class Fixed:
    twin = None

    def __init__(self, task: str, answers: list[Any]) -> None:
        self.spec = ModelSpec("fixed", task, LABELS, PreprocessSpec((8, 8)), "x")  # type: ignore[arg-type]
        self._answers = iter(answers)

    def __call__(self, image: Any) -> Any:
        return next(self._answers)


def boxes(rng: np.random.Generator, most: int) -> Detections:
    count = int(rng.integers(0, most + 1))
    corner = rng.uniform(0, 40, (count, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(4, 24, (count, 2))], axis=1).astype(np.float32)
    # Few levels of confidence, so that many are equal.
    return Detections(xyxy, (rng.integers(1, 9, count) / 8).astype(np.float32), rng.integers(0, 2, count), SIZE_HW)


def near(rng: np.random.Generator, truth: Detections) -> Detections:
    """The truth, moved a little, with some missed and some invented."""
    kept = rng.random(len(truth.xyxy)) < 0.8
    more = boxes(rng, 3)
    moved = truth.xyxy[kept] + rng.normal(0, 1.5, (int(kept.sum()), 4))
    # A thin box may turn inside out, and the library does not count a box of less than no area.
    moved = np.sort(moved.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    xyxy = np.concatenate([moved, more.xyxy]).astype(np.float32)
    confidence = np.concatenate([rng.permutation(len(kept))[kept] / max(1, len(kept)), more.confidence]).astype(np.float32)
    return Detections(xyxy, confidence, np.concatenate([truth.class_id[kept], more.class_id]), SIZE_HW)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_the_bootstraps_average_precision_is_the_librarys(seed: int) -> None:
    pytest.importorskip("faster_coco_eval")
    rng = np.random.default_rng(seed)
    truths = [boxes(rng, 5) for _ in range(6)]
    if not sum(len(truth.xyxy) for truth in truths):
        return
    predictions = [near(rng, truth) for truth in truths]
    expected = mean_average_precision(predictions, truths)
    for class_id, matches in match_boxes(predictions, truths).items():
        found = matches.average_precisions(np.ones(len(truths)))
        assert found[0] == pytest.approx(expected.ap50[class_id], abs=1e-6)
        assert found.mean() == pytest.approx(expected.ap50_95[class_id], abs=1e-6)


def test_a_picture_that_is_drawn_twice_counts_as_two() -> None:
    rng = np.random.default_rng(3)
    truths = [boxes(rng, 5) for _ in range(4)]
    predictions = [near(rng, truth) for truth in truths]
    twice = match_boxes([*predictions, predictions[0]], [*truths, truths[0]])
    for class_id, matches in match_boxes(predictions, truths).items():
        weighted = matches.average_precisions(np.array([2.0, 1, 1, 1]))
        assert np.allclose(weighted, twice[class_id].average_precisions(np.ones(5)))


def test_draws_are_the_same_for_the_same_numbers() -> None:
    assert (draws(7, 3) == draws(7, 3)).all()
    assert (draws(7, 3).sum(axis=1) == 7).all()


def answers(task: str, rng: np.random.Generator, count: int) -> tuple[list[Any], list[Sample]]:
    found: list[Any] = []
    samples = []
    for number in range(count):
        if task == "classification":
            truth: Any = int(rng.integers(0, 3))
            first = truth if rng.random() < 0.7 else (truth + 1) % 3
            order = np.array([first, *(i for i in range(3) if i != first)])
            found.append(Classification(order, np.float32([0.8, 0.1, 0.1]), SIZE_HW))
        elif task == "detection":
            truth = boxes(rng, 5)
            found.append(near(rng, truth))
        else:
            truth = rng.integers(0, 3, SIZE_HW).astype(np.uint8)
            wrong = rng.random(SIZE_HW) < rng.uniform(0, 0.4)
            found.append(Segmentation(np.where(wrong, (truth + 1) % 3, truth).astype(np.uint8), LABELS))
        samples.append(Sample(IMAGE, truth, str(number)))
    return found, samples


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_every_score_has_an_interval_that_holds_it_and_narrows_with_more_pictures(task: str) -> None:
    widths = []
    for count in (30, 270):
        found, samples = answers(task, np.random.default_rng(11), count)
        result = evaluate(Fixed(task, found), samples)  # type: ignore[arg-type]
        assert set(result.intervals) == set(result.metrics)
        for name, (low, high) in result.intervals.items():
            assert low - 0.03 <= result.metrics[name] <= high + 0.03
            assert high - low > 0
        for row in result.classes:
            assert row["intervals"]
            for name, (low, high) in row["intervals"].items():
                assert low - 0.05 <= row[name] <= high + 0.05
        assert result.interval is not None
        widths.append(result.interval[1] - result.interval[0])
        assert result.to_dict()["intervals"].keys() == result.metrics.keys()
    assert widths[1] < 0.6 * widths[0]
