"""The guard's arithmetic: scores that equal those of `evaluate`, and verdicts that follow from paired ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.metrics import ConfusionMatrix, mean_average_precision
from jetlens.precision.guard import Budget, Verdict, judge
from jetlens.precision.tallies import ClassificationTally, DetectionTally, SegmentationTally
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec

LABELS = ("a", "b", "c")
SPEC = ModelSpec("m", "classification", LABELS, PreprocessSpec((8, 8)), "logits", confidence=0.5)


def classified(answers: np.ndarray, truth: np.ndarray | None) -> ClassificationTally:
    tally = ClassificationTally(SPEC)
    for k, answer in enumerate(answers):
        tally.add(Classification(np.array([answer]), np.ones(1, np.float32), (8, 8), LABELS), None if truth is None else int(truth[k]))
    return tally


def verdict(truth: np.ndarray, before: np.ndarray, after: np.ndarray, budget: Budget | None = None) -> Verdict:
    return judge(classified(before, truth), classified(after, truth), len(truth), budget or Budget(), LABELS)


def worsened(truth: np.ndarray, lost: int, *, only: int | None = None) -> np.ndarray:
    """The truth, but that so many pictures (of one class) get a wrong answer."""
    answers = truth.copy()
    places = np.flatnonzero(truth == only) if only is not None else np.arange(len(truth))
    answers[places[:lost]] = (answers[places[:lost]] + 1) % 3
    return answers


@pytest.mark.parametrize(
    ("images", "lost", "status"),
    [
        (2000, 0, "accepted"),
        (2000, 10, "accepted"),
        (2000, 11, "refused"),
        (900, 0, "undecided"),
        (900, 9, "undecided"),
        (900, 10, "refused"),
    ],
)
def test_half_a_point_with_enough_pictures_and_agreement_with_few(images: int, lost: int, status: str) -> None:
    truth = np.arange(images) % 3
    found = verdict(truth, truth, worsened(truth, lost))
    assert (found.status, found.passed) == (status, status != "refused")
    assert found.drop == pytest.approx(lost / images)
    assert found.agreement == pytest.approx(1 - lost / images)
    low, high = found.interval
    assert low <= found.drop <= high


def test_as_many_gained_as_lost_is_no_drop_and_yet_no_agreement() -> None:
    truth = np.arange(1200) % 3
    before, after = worsened(truth, 60), worsened(truth[::-1], 60)[::-1]
    assert verdict(truth, before, after).status == "accepted"
    assert verdict(truth[:900], before[:900], np.roll(before, 30)[:900]).status == "refused"


def test_a_weak_model_may_not_lose_a_hundredth_of_itself() -> None:
    truth = np.zeros(2000, int)
    before, after = worsened(truth, 1600), worsened(truth, 1609)
    found = verdict(truth, before, after, Budget(drop=0.005))
    assert found.drop < 0.005
    assert "97.75% of the fp32 top1 remain" in found.reasons[0]


def test_one_class_is_refused_where_it_is_certain() -> None:
    truth = np.repeat([0, 1, 2], [4000, 4000, 120])
    after = worsened(truth, 20, only=2)
    found = verdict(truth, truth, after)
    assert found.drop < 0.005
    assert found.status == "refused"
    assert found.classes[0].label == "c"
    assert found.classes[0].drop == pytest.approx(20 / 120, abs=1e-5)
    assert 0.05 < found.classes[0].at_least < found.classes[0].drop
    # Ten of 120 may be chance: 8.3 points, and 4.1 at least.
    assert verdict(truth, truth, worsened(truth, 10, only=2)).status == "accepted"


def test_a_class_of_few_pictures_does_not_count() -> None:
    truth = np.repeat([0, 1, 2], [4000, 4000, 39])
    found = verdict(truth, truth, worsened(truth, 39, only=2))
    assert found.status == "accepted"
    assert [row.label for row in found.classes] == ["a", "b"]


def test_without_truth_agreement_decides() -> None:
    answers = np.arange(300) % 3
    for lost, status in ((3, "accepted"), (4, "refused")):
        found = judge(classified(answers, None), classified(worsened(answers, lost), None), 300, Budget(), None)
        assert (found.status, found.metric) == (status, "")
    assert "98.67% of the answers are those of fp32" in found.reasons[0]


def test_a_verdict_is_plain_json() -> None:
    import json

    truth = np.arange(1200) % 3
    row = json.loads(json.dumps(verdict(truth, truth, worsened(truth, 100)).to_dict()))
    assert row["status"] == "refused"
    assert row["interval"][0] < row["drop"] < row["interval"][1]


def boxes(random: np.random.Generator, count: int, *, sure: bool) -> Detections:
    corner = random.uniform(0, 60, (count, 2))
    xyxy = np.concatenate([corner, corner + random.uniform(8, 30, (count, 2))], axis=1).astype(np.float32)
    confidence = np.ones(count, np.float32) if sure else random.uniform(0.01, 1, count).astype(np.float32)
    return Detections(xyxy, confidence, random.integers(0, 3, count), (96, 96), LABELS)


def detected(seed: int, pictures: int = 12) -> tuple[DetectionTally, list[Detections], list[Detections]]:
    random = np.random.default_rng(seed)
    tally, found, true = DetectionTally(SPEC), [], []
    for _ in range(pictures):
        truth = boxes(random, int(random.integers(1, 6)), sure=True)
        near = truth[random.random(len(truth)) < 0.8]
        shaken = (near.xyxy + random.uniform(-3.5, 3.5, near.xyxy.shape)).astype(np.float32)
        more = boxes(random, int(random.integers(0, 5)), sure=False)
        scores = random.uniform(0.1, 1, len(near)).astype(np.float32)
        rows = ((shaken, more.xyxy), (scores, more.confidence), (near.class_id, more.class_id))
        prediction = Detections(*(np.concatenate(pair) for pair in rows), (96, 96), LABELS)  # type: ignore[arg-type]
        tally.add(prediction, truth)
        found.append(prediction)
        true.append(truth)
    return tally, found, true


@given(st.integers(0, 2**32 - 1))
def test_map50_is_that_of_coco(seed: int) -> None:
    pytest.importorskip("faster_coco_eval")
    tally, found, true = detected(seed)
    (score,), (classes,) = tally.score(np.ones((1, len(true))))
    accuracy = mean_average_precision(found, true)
    assert score == pytest.approx(accuracy.map50, abs=1e-9)
    assert {k: classes[k] for k in accuracy.ap50} == pytest.approx(dict(accuracy.ap50), abs=1e-9)


def test_a_picture_drawn_twice_counts_twice() -> None:
    tally, found, true = detected(4, pictures=6)
    weights = np.array([[2.0, 1, 0, 1, 1, 1]])
    twice = DetectionTally(SPEC)
    for k, times in enumerate(weights[0]):
        for _ in range(int(times)):
            twice.add(found[k], true[k])
    assert tally.score(weights)[0] == pytest.approx(twice.score(np.ones((1, 6)))[0], abs=0.02)


def test_boxes_agree_with_themselves_and_not_with_others() -> None:
    first, second = detected(1)[0], detected(2)[0]
    assert first.agreement(first) == 1
    assert first.agreement(second) == second.agreement(first) < 0.3


def test_a_box_just_below_the_threshold_still_agrees() -> None:
    def tally(confidence: float) -> DetectionTally:
        made = DetectionTally(SPEC)
        made.add(
            Detections(np.array([[1, 1, 20, 20]], np.float32), np.array([confidence], np.float32), np.zeros(1, np.int64), (96, 96)), None
        )
        return made

    assert tally(0.52).agreement(tally(0.45)) == 1
    assert tally(0.52).agreement(tally(0.35)) == 0
    assert tally(0.2).agreement(tally(0.1)) == 1


@given(st.integers(0, 2**32 - 1))
def test_miou_is_that_of_the_confusion_matrix(seed: int) -> None:
    random = np.random.default_rng(seed)
    tally, matrix = SegmentationTally(SPEC), ConfusionMatrix(3, ignore=255)
    weights = random.integers(0, 3, 5)
    weights[0] = 1
    for weight in weights:
        truth = random.choice(np.array([0, 1, 2, 255], np.uint8), (9, 7))
        mask = np.where(random.random((9, 7)) < 0.7, truth % 3, 0).astype(np.uint8)
        tally.add(Segmentation(mask, LABELS), truth)
        for _ in range(weight):
            matrix.add(truth, mask)
    (score,), (classes,) = tally.score(weights[None].astype(float))
    assert score == pytest.approx(matrix.mean_iou)
    np.testing.assert_allclose(classes, matrix.iou * (matrix.support > 0))
