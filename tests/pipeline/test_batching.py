"""Batcher and Pacer: results stay young, unequal cameras share, and a dead one costs the others nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_line import Camera, Line

from jetlens.pipeline.batching import LONGEST_WAIT_S, Batcher, Pacer
from jetlens.pipeline.capture import Capture

PERIOD_S = 1 / 30


@pytest.mark.parametrize(
    "stages_s",
    [(0.100,), (0.005, 0.080, 0.015), (0.015, 0.005, 0.080), (0.080, 0.015, 0.005), (0.050, 0.050), (0.025, 0.025, 0.025, 0.025)],
    ids=str,
)
def test_results_of_a_slow_consumer_stay_young(stages_s: tuple[float, ...]) -> None:
    """V2: 30 frames a second, 100 ms of work: p99 of age <= work + 2 periods, and it does not grow."""
    line = Line([30.0], [lambda _, s=s: s for s in stages_s], jitter_s=0.001)
    line.run(60)
    assert line.p99_s(0) <= 0.100 + 2 * PERIOD_S
    assert abs(line.slope(0)) <= 0.001
    status = line.captures[0].status()
    assert status.captured == status.delivered + status.under_way + sum(status.dropped.values())
    assert status.captured in (1799, 1800, 1801)
    # Overlap is kept: as many results as the slowest stage allows, or as the camera gives.
    assert status.delivered >= 0.9 * 60 * min(30, 1 / max(stages_s))


def test_runs_at_once_answer_more_cameras_and_no_later() -> None:
    """Two cameras and a model of 60 ms: with two runs at once each is answered as often as alone, and as young."""

    def line(cameras: int, workers: int) -> Line:
        work_s = [lambda _: 0.003, lambda _: 0.060, lambda _: 0.004]
        moved = Line([30.0] * cameras, work_s, workers=(1, workers, 1), jitter_s=0.001)
        moved.run(20)
        return moved

    alone, in_turn, at_once = line(1, 1), line(2, 1), line(2, 2)
    rates = [[capture.status().delivered / 20 for capture in moved.captures] for moved in (alone, in_turn, at_once)]
    assert sum(rates[2]) >= 1.9 * sum(rates[0])
    assert sum(rates[1]) <= 1.1 * sum(rates[0])
    assert max(at_once.p99_s(camera) for camera in range(2)) <= 0.067 + 2 * PERIOD_S


def test_the_pacer_knows_that_a_stage_takes_several() -> None:
    pacer = Pacer(["prepare", "infer"], (1, 2))
    for _ in range(2):
        pacer.admit()
        pacer.end(pacer.begin(0, 0.0), 0.01)
        pacer.end(pacer.begin(1, 0.01), 0.11)
    pacer.admit()
    pacer.end(pacer.begin(0, 1.0), 1.01)
    pacer.begin(1, 1.01)
    assert pacer.best_s(1.02) <= 1.02  # the other worker is free
    pacer.admit()
    pacer.end(pacer.begin(0, 1.02), 1.03)
    pacer.begin(1, 1.03)
    assert 1.09 < pacer.best_s(1.04) <= 1.10
    assert pacer.busy_s[1] == pytest.approx(0.1)  # of each worker


def test_negative_control_a_loop_that_reads_every_frame_falls_behind() -> None:
    """`while True: frame = camera.read(); work(frame)` over a driver's queue."""
    done_s, ages = 0.0, []
    for captured_s in np.arange(0, 60, PERIOD_S):
        done_s = max(done_s, captured_s) + 0.100
        ages.append((done_s, done_s - captured_s))
    times, lag = np.array(ages).T
    assert np.percentile(lag, 99) > 100
    assert np.polyfit(times, lag, 1)[0] > 0.5


def test_negative_control_full_queues_between_stages_age_the_frames() -> None:
    """The newest frame taken at once, and left to wait before a busy stage."""
    line = Line([30.0], [lambda _, s=s: s for s in (0.005, 0.015, 0.080)], paced=False)
    line.run(20)
    assert line.p99_s(0) > 0.100 + 2 * PERIOD_S


def fair_shares(fps: list[float], capacity: float) -> list[float]:
    """Equal shares of the capacity, where none gets more than it gives."""
    shares, left = [0.0] * len(fps), capacity
    for number, camera in enumerate(order := sorted(range(len(fps)), key=lambda i: fps[i])):
        shares[camera] = min(fps[camera], left / (len(order) - number))
        left -= shares[camera]
    return shares


@pytest.mark.parametrize(("largest", "wait_s"), [(1, 0.0), (4, 0.010), (5, 0.040)])
@pytest.mark.parametrize("capacity_of_one", [25.0, 50.0, 200.0])
def test_unequal_cameras_get_their_share_and_a_dead_one_costs_nothing(largest: int, wait_s: float, capacity_of_one: float) -> None:
    """V3: 5, 15, 25, 30 frames a second and a dead camera."""
    fps = [5.0, 15.0, 25.0, 30.0]

    def work_s(count: int) -> float:
        return count / capacity_of_one

    alive = Line(fps, [lambda n: 0.001 * n, work_s, lambda n: 0.001 * n], largest=largest, wait_s=wait_s)
    with_dead = Line([*fps, 0.0], [lambda n: 0.001 * n, work_s, lambda n: 0.001 * n], largest=largest, wait_s=wait_s)
    alive.run(20)
    with_dead.run(20)
    rates = [capture.status().delivered / 20 for capture in with_dead.captures]
    assert sum(rates) >= 0.94 * min(capacity_of_one, sum(fps))
    for camera, share in enumerate(fair_shares(fps, sum(rates))):
        assert rates[camera] >= 0.95 * share
        assert with_dead.p99_s(camera) <= alive.p99_s(camera) + LONGEST_WAIT_S


def test_negative_control_a_full_batch_only_stops_with_the_dead_camera() -> None:
    """Waiting for a frame of every camera, as a synchronised mux does."""
    line = Line([5.0, 15.0, 25.0, 30.0, 0.0], [lambda n: 0.01], largest=5)
    answered = 0
    for _ in range(5000):
        full = all(capture.waiting for capture in line.captures)
        answered += full
        line.step() if full else setattr(line, "now_s", line.now_s + 0.001)
    assert answered == 0


def test_cameras_in_step_fill_batches() -> None:
    line = Line([30.0] * 4, [lambda n: 0.010], largest=4, wait_s=0.020)
    line.run(10)
    assert np.mean(line.sizes) > 3.5
    # The others are waited for no longer than said.
    assert max(line.p99_s(camera) for camera in range(4)) <= 0.010 + 0.020 + 0.003


def test_a_batch_that_hangs_lets_few_frames_pile_up() -> None:
    line = Line([30.0], [lambda n: 0.001, lambda n: 0.001, lambda n: 1e9])
    line.run(20)
    # One in each stage, one before each, and the newest.
    assert line.most_under_way <= 7
    assert line.now_s - line.captures[0].take().captured_s <= PERIOD_S + 0.001


@settings(max_examples=30)
@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=5),
    st.lists(st.floats(0.001, 0.08), min_size=1, max_size=4),
    st.integers(1, 6),
    st.floats(0, LONGEST_WAIT_S),
)
def test_every_frame_is_accounted_for_and_order_is_kept(fps: list[float], stages_s: list[float], largest: int, wait_s: float) -> None:
    line = Line([rate if rate > 1 else 0.0 for rate in fps], [lambda _, s=s: s for s in stages_s], largest=largest, wait_s=wait_s)
    for _ in range(2000):
        line.step()
        if line.now_s % 0.1 < 0.001:
            for status in (capture.status() for capture in line.captures):
                assert status.captured == status.delivered + status.under_way + sum(status.dropped.values())
    for answers in line.ages_s:
        captured = [round(when - age, 6) for when, age in answers]
        assert captured == sorted(set(captured))
    assert max(line.sizes, default=1) <= largest


def test_the_pacer_says_when_a_stage_will_be_free() -> None:
    pacer = Pacer(["prepare", "infer"])
    assert pacer.best_s(5.0) <= 5.0  # nothing is known: at once
    pacer.admit()
    for stage, (start, end) in enumerate([(0.0, 0.01), (0.01, 0.11)]):
        pacer.end(pacer.begin(stage, start), end)
    assert pacer.under_way == 0
    pacer.admit()
    pacer.end(pacer.begin(0, 1.0), 1.01)
    pacer.begin(1, 1.01)
    # The model is free at 1.11, and preparing takes 0.01 before.
    assert 1.09 < pacer.best_s(1.02) <= 1.10


def test_limits_are_checked() -> None:
    changed = threading.Condition()
    captures = [Capture(Camera("a"), "a", changed)]
    for options in ({"largest": 0}, {"wait_s": 0.041}, {"wait_s": -1.0}):
        with pytest.raises(ValueError, match="give at least 1 picture and 0 to 0"):
            Batcher(captures, changed, **options)  # type: ignore[arg-type]
