"""The tracker: exact assignment, ids that stay, IDF1 as it is defined, and no growth."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.data.orange_line import OrangeLine
from jetlens.errors import DataError, UsageError
from jetlens.ops.boxes import iou_matrix
from jetlens.predictor import load
from jetlens.results import Detections
from jetlens.tasks.base import TaskOptions
from jetlens.tracking import Tracker, TrackerOptions, identity_score
from jetlens.tracking.assignment import best_pairs
from jetlens.tracking.motion import corners, started

SIZE_HW = (120, 214)
FPS = 30.0


def boxes(xyxy: Sequence[Sequence[float]], ids: Sequence[int] | None = None, confidence: Sequence[float] | float = 0.9) -> Detections:
    array = np.array(xyxy, np.float32).reshape(-1, 4)
    scores = np.broadcast_to(np.asarray(confidence, np.float32), len(array)).copy()
    numbers = None if ids is None else np.array(ids, np.int64)
    return Detections(array, scores, np.zeros(len(array), np.int64), (100, 200), ("thing",), tracker_id=numbers)


@pytest.fixture(scope="module")
def line() -> list[Detections]:
    """The truth of four seconds of the line, with ids."""
    frames = []
    for _, truth in OrangeLine(4, SIZE_HW, 120, FPS):
        count = len(truth)
        frames.append(
            Detections(truth.xyxy, np.ones(count, np.float32), np.zeros(count, np.int64), SIZE_HW, ("orange",), tracker_id=truth.tracker_id)
        )
    return frames


def run(frames: Sequence[Detections], tracker: Tracker | None = None, fps: float = FPS) -> list[Detections]:
    tracker = Tracker() if tracker is None else tracker
    return [tracker.update(replace(frame, tracker_id=None), index / fps) for index, frame in enumerate(frames)]


class NaiveTracker:
    """The box before with the largest overlap gives its id: no motion, no memory, one after another."""

    def __init__(self) -> None:
        self.before = boxes([], [])
        self.given = 0

    def update(self, detections: Detections, pts_s: float) -> Detections:
        ids = []
        free = list(range(len(self.before)))
        overlap = iou_matrix(detections.xyxy, self.before.xyxy)
        for row in range(len(detections)):
            column = max(free, key=lambda one: overlap[row, one], default=-1)
            if column >= 0 and overlap[row, column] > 0.2:
                free.remove(column)
                ids.append(int(self.before.tracker_id[column]))
            else:
                self.given += 1
                ids.append(self.given)
        self.before = replace(detections, tracker_id=np.array(ids, np.int64))
        return self.before


# ---- assignment


def brute_force(weights: np.ndarray) -> float:
    weights = np.maximum(weights, 0)
    weights = weights if weights.shape[0] <= weights.shape[1] else weights.T
    rows, columns = weights.shape
    return max(sum(weights[row, column] for row, column in enumerate(chosen)) for chosen in itertools.permutations(range(columns), rows))


def greedy(weights: np.ndarray) -> float:
    """What an assignment that is not exact gets."""
    weights, total = np.maximum(weights, 0).copy(), 0.0
    while weights.size and weights.max() > 0:
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        total += weights[row, column]
        weights[row], weights[:, column] = 0, 0
    return total


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([0, 3]))
@settings(max_examples=200)
def test_the_pairs_weigh_as_much_as_the_best_of_all_permutations(rows: int, columns: int, seed: int, steps: int) -> None:
    weights = np.random.default_rng(seed).uniform(-0.5, 1, (rows, columns))
    if steps:
        weights = np.round(weights * steps) / steps
    pairs = best_pairs(weights)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert all(weights[row, column] > 0 for row, column in pairs)
    assert sum(weights[row, column] for row, column in pairs) == pytest.approx(brute_force(weights))


def test_greedy_assignment_fails_where_the_exact_one_does_not() -> None:
    weights = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert greedy(weights) == pytest.approx(1.0)
    assert best_pairs(weights).tolist() == [[0, 1], [1, 0]]


def test_large_assignments_equal_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    for shape in ((40, 40), (25, 60), (60, 25)):
        weights = np.where(rng.uniform(size=shape) < 0.3, rng.uniform(size=shape), -1)
        rows, columns = optimize.linear_sum_assignment(np.maximum(weights, 0), maximize=True)
        found = sum(weights[row, column] for row, column in best_pairs(weights))
        assert found == pytest.approx(np.maximum(weights, 0)[rows, columns].sum())


def test_nothing_to_assign() -> None:
    for shape in ((0, 0), (0, 3), (3, 0), (2, 2)):
        assert best_pairs(np.zeros(shape)).shape == (0, 2)


# ---- IDF1


def test_idf1_of_cases_worked_out_by_hand() -> None:
    here, there = [0, 0, 10, 10], [50, 50, 60, 60]
    truth = [boxes([here], [1])] * 4
    perfect = identity_score([boxes([here], [7])] * 4, truth)
    assert (perfect.idf1, perfect.matched, perfect.changes) == (1.0, 4, 0)
    # The id changes after 3 of 4 frames: IDTP 3, IDFP 1, IDFN 1 -> 6 / 8.
    switched = identity_score([boxes([here], [7])] * 3 + [boxes([here], [8])], truth)
    assert (switched.idf1, switched.changes) == (0.75, 1)
    # Half of the frames are missed: IDTP 2, IDFN 2 -> 4 / 6; a false box in every frame besides: 4 / 10.
    missed = [boxes([here], [7])] * 2 + [boxes([], [])] * 2
    assert identity_score(missed, truth).idf1 == pytest.approx(2 / 3)
    assert (identity_score(missed, truth).idp, identity_score(missed, truth).idr) == (1.0, 0.5)
    false = [boxes([here, there], [7, 9])] * 2 + [boxes([there], [9])] * 2
    assert identity_score(false, truth).idf1 == pytest.approx(0.4)
    # Two objects exchange their ids half-way: each id is right in 2 of 4 frames.
    two = [boxes([here, there], [1, 2])] * 4
    exchanged = [boxes([here, there], [1, 2])] * 2 + [boxes([here, there], [2, 1])] * 2
    assert (identity_score(exchanged, two).idf1, identity_score(exchanged, two).changes) == (0.5, 2)
    # IoU below one half is no match at all.
    assert identity_score([boxes([[6, 0, 16, 10]], [7])] * 4, truth).idf1 == 0
    assert identity_score([boxes([], [])], [boxes([], [])]).idf1 == 1


def test_idf1_takes_the_best_match_of_ids_and_not_the_first() -> None:
    # Id 1 shares 2 frames with a and 3 with b; id 2 shares 3 with a: a-2, b-1 is best (6), a-1 gives 2.
    a, b = [0, 0, 10, 10], [50, 50, 60, 60]
    truth = [boxes([a], [1])] * 5 + [boxes([b], [2])] * 3
    seen = [boxes([a], [1])] * 2 + [boxes([a], [2])] * 3 + [boxes([b], [1])] * 3
    assert identity_score(seen, truth).matched == 6


def test_idf1_refuses_what_it_cannot_score() -> None:
    with pytest.raises(DataError, match="give one for each"):
        identity_score([], [boxes([], [])])
    with pytest.raises(DataError, match="tracker_id"):
        identity_score([boxes([])], [boxes([], [])])


# ---- ids on the orange line


def test_truth_boxes_keep_one_id_each(line: list[Detections]) -> None:
    score = identity_score(run(line), line)
    assert (score.idf1, score.changes, score.tracked_ids) == (1.0, 0, score.true_ids)
    assert score.true_ids >= 5


def disturbed(line: list[Detections], seed: int, drop: float) -> list[Detections]:
    """Boxes that tremble by 3 % of their size, some gone for whole stretches, some unsure, some false."""
    rng = np.random.default_rng(seed)
    gone: dict[int, int] = {}
    frames = []
    for index, frame in enumerate(line):
        sides = np.tile(frame.xyxy[:, 2:] - frame.xyxy[:, :2], 2)
        xyxy = frame.xyxy + (rng.normal(0, 0.03, frame.xyxy.shape) * sides).astype(np.float32)
        for number in frame.tracker_id:
            if rng.uniform() < drop:
                gone[int(number)] = index + int(rng.integers(1, 9))
        kept = np.array([gone.get(int(number), -1) < index for number in frame.tracker_id], bool)
        confidence = np.where(rng.uniform(size=len(frame)) < 0.1, 0.3, 0.9).astype(np.float32)
        left, top = rng.uniform(0, 150), rng.uniform(0, 80)
        false = np.array([[left, top, left + 20, top + 20]] if rng.uniform() < 0.05 else [], np.float32).reshape(-1, 4)
        count = len(false)
        frames.append(
            Detections(
                np.concatenate([xyxy[kept], false]),
                np.concatenate([confidence[kept], np.full(count, 0.6, np.float32)]),
                np.zeros(kept.sum() + count, np.int64),
                SIZE_HW,
            )
        )
    return frames


def test_ids_survive_noise_and_gaps_that_a_naive_tracker_does_not(line: list[Detections]) -> None:
    frames = disturbed(line, 0, 0.03)
    ours = identity_score(run(frames, Tracker(TrackerOptions(confirm=2))), line)
    naive = identity_score(run(frames, NaiveTracker()), line)
    assert ours.idf1 > 0.85
    assert ours.changes <= 2
    assert naive.idf1 < ours.idf1 - 0.2
    assert naive.changes > 5


def test_a_third_of_the_frames_is_enough(line: list[Detections]) -> None:
    frames = line[::3]
    assert identity_score(run(frames, fps=FPS / 3), frames).idf1 == 1.0


def test_what_is_half_hidden_keeps_its_id_by_its_low_confidence() -> None:
    frames = [boxes([[10 + k, 10, 50 + k, 50]], confidence=0.9 if k < 5 or k > 50 else 0.2) for k in range(60)]
    assert {int(number) for frame in run(frames) for number in frame.tracker_id} == {1}
    # Without the second round it would be lost for longer than lost_s.
    ids = {int(number) for frame in run(frames, Tracker(TrackerOptions(low=0.5))) for number in frame.tracker_id}
    assert ids == {1, 2}


def test_two_objects_that_pass_each_other_keep_their_ids() -> None:
    frames = [boxes([[3 * k, 10, 3 * k + 20, 30], [150 - 3 * k, 18, 170 - 3 * k, 38]], [1, 2]) for k in range(50)]
    assert identity_score(run(frames), frames).idf1 == 1.0


def test_unsure_boxes_begin_no_track_and_confirmation_hides_what_flashes() -> None:
    assert [len(frame) for frame in run([boxes([[0, 0, 9, 9]], confidence=0.3)] * 3)] == [0, 0, 0]
    flash = [boxes([]), boxes([[0, 0, 9, 9]]), boxes([]), boxes([])]
    assert [len(frame) for frame in run(flash, Tracker(TrackerOptions(confirm=2)))] == [0, 0, 0, 0]
    stays = [boxes([[0, 0, 9, 9]])] * 3
    assert [frame.tracker_id.tolist() for frame in run(stays, Tracker(TrackerOptions(confirm=2)))] == [[], [1], [1]]


def test_classes_are_kept_apart_where_that_is_asked() -> None:
    one = boxes([[0, 0, 9, 9]])
    other = replace(one, class_id=np.array([1]))
    assert [frame.tracker_id.tolist() for frame in run([one, other])] == [[1], [1]]
    assert [frame.tracker_id.tolist() for frame in run([one, other], Tracker(TrackerOptions(same_class=True)))] == [[1], [2]]


def test_one_object_with_two_names_has_one_id() -> None:
    """What a detector gives that suppresses class by class: a car that is a truck as well, and another car half behind it."""
    frame = replace(boxes([[0, 0, 100, 60], [3, 1, 104, 62], [40, 0, 140, 60]]), class_id=np.array([0, 1, 0]))
    frame = replace(frame, confidence=np.float32([0.6, 0.9, 0.8]))
    (tracked,) = run([frame])
    assert tracked.xyxy[:, 0].tolist() == [3, 40]
    # The control: as two objects they would be counted twice.
    for options in (TrackerOptions(same_object=1.0), TrackerOptions(same_class=True)):
        assert len(run([frame], Tracker(options))[0]) == 3


def test_the_shipped_detector_keeps_the_ids_of_the_truth() -> None:
    pytest.importorskip("onnxruntime")
    truths, found = [], []
    with load("orange-detect", "onnxruntime", threads=1, options=TaskOptions(confidence=0.1)) as detector:
        for frame, truth in OrangeLine(3_000_000, (288, 512), 24, FPS):
            count = len(truth)
            ids = truth.tracker_id
            truths.append(Detections(truth.xyxy, np.ones(count, np.float32), np.zeros(count, np.int64), (288, 512), tracker_id=ids))
            answer = detector(frame.image_rgb)
            assert isinstance(answer, Detections)
            found.append(answer)
    score = identity_score(run(found), truths)
    assert score.changes == 0
    assert score.idf1 > 0.97


# ---- motion


@given(st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([0.5, 1.0, 3.0]))
def test_a_box_of_constant_velocity_is_predicted_where_it_will_be(x: float, y: float, frames: float) -> None:
    def box(step: int) -> np.ndarray:
        left, top = 100 + x * frames * step, 100 + y * frames * step
        return np.array([[left, top, left + 40, top + 60]], np.float32)

    motion = started(box(0))
    for step in range(1, 40):
        motion = motion.predicted(frames)
        if step > 25:
            assert np.abs(corners(motion) - box(step)).max() < 1
        motion = motion.corrected(np.array([0]), box(step))
        assert (motion.variance > 0).all()
        assert (motion.variance * motion.velocity_variance > motion.shared**2).all()


# ---- properties

box_rows = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 60), st.integers(1, 60), st.integers(1, 9)), max_size=12
)


def detections(rows: list[tuple[int, ...]]) -> Detections:
    return boxes([[x, y, x + width, y + height] for x, y, width, height, _ in rows], None, [row[4] / 10 for row in rows])


@given(st.lists(box_rows, min_size=1, max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_ids_are_never_shared_and_do_not_depend_on_the_order(frames: list[list[tuple[int, ...]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    straight, shuffled = Tracker(), Tracker()
    for index, rows in enumerate(frames):
        frame = detections(rows)
        order = rng.permutation(len(frame))
        first, second = straight.update(frame, index / FPS), shuffled.update(frame[order], index / FPS)
        assert len(set(first.tracker_id.tolist())) == len(first)
        assert ids_by_box(first) == ids_by_box(second)
        assert all(any(np.array_equal(box, given) for given in frame.xyxy) for box in first.xyxy)


def ids_by_box(frame: Detections) -> set[tuple[tuple[float, ...], int]]:
    return {(tuple(box.tolist()), int(number)) for box, number in zip(frame.xyxy, frame.tracker_id, strict=True)}


def test_a_naive_tracker_depends_on_the_order() -> None:
    frame = boxes([[0, 0, 10, 10], [50, 50, 60, 60]])
    first, second = NaiveTracker().update(frame, 0), NaiveTracker().update(frame[np.array([1, 0])], 0)
    assert ids_by_box(first) != ids_by_box(second)


def test_empty_frames_and_clocks_that_stand_still_or_go_back() -> None:
    tracker = Tracker()
    here = boxes([[0, 0, 20, 20]])
    assert len(tracker.update(boxes([]), 0.0)) == 0
    assert tracker.update(here, 1 / FPS).tracker_id.tolist() == [1]
    for pts_s in (1 / FPS, 1 / FPS, 0.0, -3600.0, -3600.0 + 1 / FPS):
        assert tracker.update(here, pts_s).tracker_id.tolist() == [1]
    # A second without it, and the id is gone for good.
    for index in range(40):
        tracker.update(boxes([]), -3599.0 + index / FPS)
    assert tracker.following == 0
    assert tracker.update(here, -3590.0).tracker_id.tolist() == [2]


def test_boxes_that_are_not_finite_are_left_out() -> None:
    bad = boxes([[0, 0, np.nan, 10], [0, 0, 10, 10], [0, 0, np.inf, 10]])
    assert run([bad, bad])[1].xyxy.tolist() == [[0, 0, 10, 10]]


@pytest.mark.parametrize("frames", [1500, pytest.param(10_000, marks=pytest.mark.release)])
def test_memory_does_not_grow(frames: int, record_property: pytest.RecordProperty) -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker(TrackerOptions(lost_s=0.2))
    most, sizes = 0, []
    tracemalloc.start()
    for index in range(frames):
        corner = rng.uniform(0, 180, (3, 2)).astype(np.float32)
        tracker.update(boxes(np.concatenate([corner, corner + 15], axis=1)), index / FPS)
        most = max(most, tracker.following)
        if index % 500 == 499:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    record_property("frames", frames)
    assert most <= 3 * 8
    assert sizes[-1] - sizes[0] < 64 * 1024


@pytest.mark.parametrize("wrong", [{"high": 1.5}, {"low": 0.6}, {"start": 0.05}, {"confirm": 0}, {"lost_s": -1}, {"fps": 0}])
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="tracking:"):
        TrackerOptions(**wrong)
