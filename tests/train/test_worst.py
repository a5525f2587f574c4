"""The worst predictions of a run: which are kept, in what order, and what is drawn."""

import numpy as np
import pytest

from jetlens.results import Classification, Detections, Segmentation

pytest.importorskip("torch")

from jetlens.train.worst import SHOWN, Worst, box_f1

LABELS = ("background", "apple", "plum")
IMAGE = np.full((40, 60, 3), 90, np.uint8)


def boxes(*rows):
    xyxy = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    kinds = np.array([row[4] for row in rows], np.int64)
    return Detections(xyxy, np.array([row[5] for row in rows], np.float32), kinds, (40, 60), LABELS)


def test_a_classifiers_surest_mistakes_come_first():
    worst = Worst(LABELS)
    for number in range(SHOWN + 10):
        sure = 0.5 + number / 100
        answer = Classification(np.array([1, 2]), np.array([sure, 1 - sure], np.float32), LABELS)
        worst.add(answer, IMAGE, 2, str(number))
        worst.add(answer, IMAGE, 1, "right")
    names = [row.name for row in worst.rows]
    assert names == [str(number) for number in range(SHOWN + 9, 9, -1)]
    assert (worst.rows[0].true, worst.rows[0].predicted) == ("plum", "apple")


def test_f1_of_boxes_matches_one_to_one():
    one = (5, 5, 20, 20, 1, 0.9)
    assert box_f1(boxes(one), boxes(one)) == 1
    assert box_f1(boxes(one, one), boxes(one)) == pytest.approx(2 / 3)
    assert box_f1(boxes((5, 5, 20, 20, 2, 0.9)), boxes(one)) == 0
    assert box_f1(boxes(), boxes()) == 1
    assert box_f1(boxes(), boxes(one)) == 0


def test_pictures_with_wrong_boxes_or_pixels_are_shown_side_by_side():
    worst = Worst(LABELS)
    one, unsure = (5, 5, 20, 20, 1, 0.9), (30, 5, 50, 20, 1, 0.1)
    worst.add(boxes(one, unsure), IMAGE, boxes(one), "right: an unsure box does not count")
    worst.add(boxes(), IMAGE, boxes(one), "missed")
    worst.add(boxes(one, (30, 5, 50, 20, 1, 0.9)), IMAGE, boxes(one), "one too many")
    assert [row.name for row in worst.rows] == ["missed", "one too many"]
    assert worst.rows[0].image.shape == (40, 120, 3)
    assert (worst.rows[0].image[:, :60] != 90).any()
    assert (worst.rows[0].image[:, 60:] == 90).all()

    worst = Worst(LABELS)
    truth = np.zeros((40, 60), np.uint8)
    truth[10:20, 10:20] = 1
    known = truth.copy()
    known[:5] = 255  # not to be counted, whatever is predicted there
    worst.add(Segmentation(truth, LABELS), IMAGE, known, "right")
    worst.add(Segmentation(np.zeros_like(truth), LABELS), IMAGE, truth, "missed")
    assert [row.name for row in worst.rows] == ["missed"]
    assert 0 < worst.rows[0].figure < 1
