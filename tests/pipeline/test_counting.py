"""Counting over lines, in zones and over the frames of one object: exact on the orange line's truth."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.data.orange_line import GRADES, LineTruth, OrangeLine
from jetlens.errors import UsageError
from jetlens.pipeline.cascade import defect_ratios, whole_pixels
from jetlens.pipeline.counting import PATIENCE, Crossing, DefectTotals, Fruit, LineCounter, ZoneCounter, anchors
from jetlens.results import Detections
from jetlens.tracking import Tracker

SIZE_HW = (120, 214)


def at(points: Sequence[tuple[float, float]], ids: Sequence[int], class_id: int = 0) -> Detections:
    """Boxes of 4x4 pixels around the points."""
    xy = np.array(points, np.float32).reshape(-1, 2)
    count = len(xy)
    return Detections(
        np.concatenate([xy - 2, xy + 2], axis=1),
        np.ones(count, np.float32),
        np.full(count, class_id),
        (100, 100),
        ("a", "b"),
        tracker_id=np.array(ids, np.int64),
    )


@pytest.fixture(scope="module")
def truths() -> list[LineTruth]:
    return [truth for _, truth in OrangeLine(4, SIZE_HW, 120, 30.0)]


def as_detections(truth: LineTruth) -> Detections:
    return Detections(truth.xyxy, np.ones(len(truth), np.float32), truth.grade, SIZE_HW, GRADES, tracker_id=truth.tracker_id)


# ---- lines


def test_directions_are_those_of_one_who_walks_along_the_line() -> None:
    # Walking down the picture, the right hand is on the picture's left.
    line = LineCounter((50, 0), (50, 100))
    assert line.update(at([(60, 50)], [1])) == []
    assert line.update(at([(40, 50)], [1])) == [Crossing(1, 0, True)]
    assert line.update(at([(60, 50)], [1], class_id=1)) == [Crossing(1, 1, False)]
    assert (line.forward, line.backward) == (Counter({0: 1}), Counter({1: 1}))
    turned = LineCounter((50, 100), (50, 0))
    turned.update(at([(60, 50)], [1]))
    assert turned.update(at([(40, 50)], [1])) == [Crossing(1, 0, False)]


def test_a_line_has_ends_and_what_stands_on_it_has_not_crossed() -> None:
    line = LineCounter((50, 20), (50, 40))
    line.update(at([(40, 60), (40, 30)], [1, 2]))
    assert line.update(at([(60, 60), (50, 30)], [1, 2])) == []
    assert line.update(at([(70, 60), (51, 30)], [1, 2])) == [Crossing(2, 0, False)]
    line.update(at([(50, 30)], [2]))
    assert line.update(at([(52, 30)], [2])) == []


def test_an_object_that_trembles_on_the_line_counts_once_with_a_margin() -> None:
    way = [30, 49, 51, 49, 51, 49, 51, 70]
    plain, calm = LineCounter((50, 0), (50, 100)), LineCounter((50, 0), (50, 100), margin_px=5)
    for x in way:
        plain.update(at([(x, 50)], [1]))
        calm.update(at([(x, 50)], [1]))
    assert sum(plain.backward.values()) == 3
    assert (sum(calm.backward.values()), sum(calm.forward.values())) == (1, 0)


def test_a_crossing_while_unseen_counts_and_who_is_long_gone_is_forgotten() -> None:
    line = LineCounter((50, 0), (50, 100))
    line.update(at([(40, 50), (40, 60)], [1, 2]))
    for _ in range(5):
        line.update(at([], []))
    assert [one.tracker_id for one in line.update(at([(60, 50)], [1]))] == [1]
    for _ in range(PATIENCE + 1):
        line.update(at([], []))
    assert line.update(at([(60, 60)], [2])) == []


def test_counts_on_the_truth_are_exact_with_true_and_with_tracked_ids(truths: list[LineTruth]) -> None:
    x = 107.3
    by_object: dict[int, list[tuple[float, int]]] = {}
    for truth in truths:
        for box, number, grade in zip(truth.xyxy, truth.tracker_id, truth.grade, strict=True):
            by_object.setdefault(int(number), []).append(((box[0] + box[2]) / 2, int(grade)))
    expected: Counter[tuple[int, bool]] = Counter()
    for way in by_object.values():
        for (before, _), (now, grade) in itertools.pairwise(way):
            if (before < x) != (now < x):
                expected[grade, now < x] += 1
    assert sum(expected.values()) >= 5
    for tracker in (None, Tracker()):
        line = LineCounter((x, 0), (x, SIZE_HW[0]))
        for index, truth in enumerate(truths):
            frame = as_detections(truth)
            line.update(frame if tracker is None else tracker.update(replace(frame, tracker_id=None), index / 30))
        found = {(grade, True): count for grade, count in line.forward.items()} | {(g, False): n for g, n in line.backward.items()}
        assert found == dict(expected)


# ---- zones


def test_a_zone_says_who_came_who_left_and_who_is_inside() -> None:
    zone = ZoneCounter([(20, 20), (80, 20), (80, 80), (20, 80)])
    assert [(one.tracker_id, one.entered) for one in zone.update(at([(50, 50), (10, 10)], [1, 2]))] == [(1, True)]
    assert zone.update(at([(55, 50), (10, 10)], [1, 2])) == []
    assert zone.inside == Counter({0: 1})
    changes = zone.update(at([(90, 50), (30, 30)], [1, 2], class_id=1))
    assert [(one.tracker_id, one.class_id, one.entered, one.frames) for one in changes] == [(1, 0, False, 2), (2, 1, True, 0)]
    assert (zone.inside, zone.entered) == (Counter({1: 1}), Counter({0: 1, 1: 1}))
    gone = [change for _ in range(PATIENCE + 1) for change in zone.update(at([], []))]
    assert [(one.tracker_id, one.entered, one.frames) for one in gone] == [(2, False, 1)]
    assert not zone.inside


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=7), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_inside_a_polygon_equals_the_winding_of_its_edges(corners: list[tuple[int, int]], seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 40, (20, 2))
    inside = ZoneCounter(corners).contains(points)
    # Even and odd windings, from the angles under which the edges are seen: another way to the same answer.
    ends = np.array(corners, np.float64)
    seen = ends[None] - points[:, None]
    turns = np.angle(np.exp(1j * np.diff(np.angle(seen[..., 0] + 1j * seen[..., 1])[:, [*range(len(ends)), 0]], axis=1))).sum(axis=1)
    assert np.array_equal(inside, np.round(turns / (2 * np.pi)).astype(int) % 2 == 1)


def test_zone_counts_on_the_truth_are_exact(truths: list[LineTruth]) -> None:
    left, right = 60.2, 150.7
    zone = ZoneCounter([(left, -1), (right, -1), (right, SIZE_HW[0] + 1), (left, SIZE_HW[0] + 1)])
    for truth in truths:
        zone.update(as_detections(truth))
        middle = (truth.xyxy[:, 0] + truth.xyxy[:, 2]) / 2
        within = (middle > left) & (middle < right)
        assert zone.inside == Counter(truth.grade[within].tolist())


def test_the_lower_edge_stands_for_what_stands_on_the_ground() -> None:
    assert anchors(at([(50, 50)], [1]), "bottom").tolist() == [[50, 52]]


# ---- defects


def test_defects_of_a_fruit_add_up_over_its_frames(truths: list[LineTruth]) -> None:
    totals = DefectTotals()
    fruits = [fruit for truth in truths for fruit in totals.update(as_detections(truth), truth.defect_ratio)] + totals.close()
    assert totals.following == 0
    assert len(fruits) == len({fruit.tracker_id for fruit in fruits}) == len({int(n) for truth in truths for n in truth.tracker_id})
    for fruit in fruits:
        rows = [
            (float((box[2] - box[0]) * (box[3] - box[1])), float(ratio), int(grade))
            for truth in truths
            for box, number, ratio, grade in zip(truth.xyxy, truth.tracker_id, truth.defect_ratio, truth.grade, strict=True)
            if number == fruit.tracker_id
        ]
        area = sum(row[0] for row in rows)
        assert fruit.frames == len(rows)
        assert fruit.defect_ratio == pytest.approx(sum(a * r for a, r, _ in rows) / area)
        assert fruit.worst_ratio == pytest.approx(max(row[1] for row in rows))
        counts = Counter(row[2] for row in rows)
        assert counts[fruit.class_id] == max(counts.values())


def test_defects_from_the_mask_agree_with_the_truth(truths: list[LineTruth]) -> None:
    by_mask, by_truth, tracker = DefectTotals(), DefectTotals(), Tracker()
    own_id: dict[int, int] = {}
    fruits: list[Fruit] = []
    true_fruits: list[Fruit] = []
    for index, truth in enumerate(truths):
        frame = as_detections(truth)
        tracked = tracker.update(replace(frame, tracker_id=None), index / 30)
        assert tracked.tracker_id is not None
        own_id.update(zip(tracked.tracker_id.tolist(), truth.tracker_id.tolist(), strict=True))
        fruits += by_mask.update(tracked, defect_ratios(truth.mask, whole_pixels(tracked)))
        true_fruits += by_truth.update(frame, truth.defect_ratio)
    mask = {own_id[fruit.tracker_id]: fruit.defect_ratio for fruit in fruits + by_mask.close()}
    true = {fruit.tracker_id: fruit.defect_ratio for fruit in true_fruits + by_truth.close()}
    assert set(mask) == set(true)
    # The ellipse in the box stands for the fruit, and neighbours reach into a box.
    apart = [abs(mask[number] - true[number]) for number in true]
    assert np.median(apart) < 0.01
    assert max(true.values()) > 0.02


def test_gone_fruit_is_given_once_and_forgotten() -> None:
    totals = DefectTotals()
    totals.update(at([(10, 10)], [1]), np.array([0.2], np.float32))
    gone = [fruit for _ in range(PATIENCE + 5) for fruit in totals.update(at([], []), np.empty(0, np.float32))]
    assert [(fruit.tracker_id, fruit.frames) for fruit in gone] == [(1, 1)]
    assert (totals.following, totals.close()) == (0, [])


# ---- misuse


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="two different points"):
        LineCounter((5, 5), (5, 5))
    with pytest.raises(UsageError, match="at least 3"):
        ZoneCounter([(0, 0), (1, 1)])
    with pytest.raises(UsageError, match="finite"):
        ZoneCounter([(0, 0), (1, 1), (float("nan"), 0)])
    with pytest.raises(UsageError, match="center, bottom"):
        anchors(at([], []), "top")
    with pytest.raises(UsageError, match=r"Tracker\.update"):
        LineCounter((0, 0), (1, 1)).update(replace(at([], []), tracker_id=None))
