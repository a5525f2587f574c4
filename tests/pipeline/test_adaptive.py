"""Adaptive mode: the rate is held, nothing swings to and fro, full quality comes back, and what is between is told from what was seen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded_cameras import CodedCamera, ReadingSession, read, reading_predictor
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.backends.base import RunFacts
from jetlens.device.reading import Reading
from jetlens.errors import ModelError, UsageError
from jetlens.frame import Frame
from jetlens.pipeline.adaptive import FULL, Between, Change, Level, Load, Policy, RateHolder, ThrottlingWatch, ladder, open_lower
from jetlens.pipeline.live import LivePipeline, LiveResult
from jetlens.pipeline.status import LiveStatus, StreamStatus
from jetlens.results import Classification, Detections

TARGET = 30.0
FACTS = RunFacts("fake", "1", "CPU", "none", "fp32")


@dataclass
class Board:
    """A camera of 30 FPS on a machine whose model answers so many frames of full quality a second; judged once a second.

    Attributes:
        true_cost: of a run of the spare model, which the policy only guesses.
    """

    policy: Policy
    true_cost: float = 0.6
    now_s: float = 0.0
    changes: list[tuple[float, Change]] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)

    def run(self, seconds: float, capacity: float, noise: float = 0.0, throttling: tuple[str, ...] = (), seed: int = 0) -> Board:
        rng = np.random.default_rng(seed)
        for _ in range(round(seconds)):
            level = self.policy.level
            cost = (self.true_cost if level.spare else 1.0) / level.every
            able = max(0.1, capacity * (1 + noise * rng.standard_normal())) / cost
            fps = min(TARGET, able)
            if fps < 0.95 * TARGET:
                self.behind.append(self.now_s)
            change = self.policy.update(self.now_s, Load(fps, TARGET, min(1.0, TARGET / able), throttling))
            if change is not None:
                self.changes.append((self.now_s, change))
            self.now_s += 1
        return self

    def most_a_minute(self) -> int:
        times = [at for at, _ in self.changes]
        return max((sum(at <= other < at + 60 for other in times) for at in times), default=0)


@pytest.mark.parametrize(
    ("capacity", "level"),
    [(60, "every frame"), (31, "every frame"), (20, "every 2nd frame"), (11, "every 3rd frame"), (7, "every 3rd frame, int8")],
)
def test_the_rate_is_held_by_the_best_level_that_can(capacity: float, level: str) -> None:
    board = Board(Policy(ladder("int8"))).run(120, capacity)
    assert board.policy.level.name == level
    assert len(board.changes) == [each.name for each in board.policy.levels].index(level)
    assert all(at < 30 for at in board.behind)


def test_full_quality_comes_back_step_by_step_with_a_cause() -> None:
    board = Board(Policy(ladder("int8"))).run(60, 100).run(60, 7).run(120, 100)
    assert board.policy.level == FULL
    lines = [str(change) for _, change in board.changes]
    assert lines[0] == "quality: every frame -> every 2nd frame: 7.0 of 30.0 FPS"
    assert lines[2] == "quality: every 3rd frame -> every 3rd frame, int8: 21.0 of 30.0 FPS"
    assert lines[3].startswith("quality: every 3rd frame, int8 -> every 3rd frame: there is room: the model is busy")
    assert len(lines) == 6


def test_throttling_is_named_and_nothing_climbs_while_it_lasts() -> None:
    board = Board(Policy(ladder())).run(60, 20, throttling=("thermal",))
    assert str(board.changes[0][1]).endswith("20.0 of 30.0 FPS; throttling: thermal")
    board.run(120, 100, throttling=("thermal",))
    assert len(board.changes) == 1
    board.run(30, 100)
    assert board.policy.level == FULL


def test_one_slow_moment_changes_nothing() -> None:
    board = Board(Policy(ladder()))
    for _ in range(20):
        board.run(1, 10).run(9, 100)
    assert board.changes == []


capacities = st.lists(st.tuples(st.floats(2, 100), st.integers(5, 120)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(capacities, st.floats(0, 0.15), st.floats(0.2, 1.5), st.booleans(), st.integers(0, 99))
def test_no_swinging_and_always_back(phases: list[tuple[float, int]], noise: float, true_cost: float, spare: bool, seed: int) -> None:
    """Whatever the load does: at most 6 changes a minute, never beyond the levels, and full quality within 10 minutes of calm."""
    board = Board(Policy(ladder("int8" if spare else None)), true_cost)
    for capacity, seconds in phases:
        board.run(seconds, capacity, noise, seed=seed)
    assert board.most_a_minute() <= 6
    steps = [(board.policy.levels.index(c.before), board.policy.levels.index(c.after)) for _, c in board.changes]
    assert all(abs(before - after) == 1 for before, after in steps)
    assert all(first[1] == second[0] for first, second in pairwise(steps))
    board.run(600, 200)
    assert board.policy.level == FULL


@pytest.mark.parametrize("capacity", [8.0, 14.0, 22.0, 29.0])
def test_a_steady_load_comes_to_rest(capacity: float) -> None:
    """With noise of 5 %, and a spare model that is worth less than guessed."""
    board = Board(Policy(ladder("int8")), true_cost=0.95).run(300, capacity, 0.05)
    late = len(board.changes)
    board.run(600, capacity, 0.05)
    assert len(board.changes) - late <= 10  # one a minute


def test_negative_control_a_threshold_swings_for_ever() -> None:
    """Down when the rate is missed, up when it is held."""
    at, changes = 0, 0
    levels = ladder()
    for _ in range(60):
        fps = min(TARGET, 20 * levels[at].every)
        step = (fps < TARGET and at + 1 < len(levels)) - (fps >= TARGET and at > 0)
        at, changes = at + step, changes + abs(step)
    assert changes > 50


def status(fps: float, busy: float, uptime_s: float, **changed: Any) -> LiveStatus:
    streams = (
        StreamStatus("a", True, "running", fps=fps, captured_fps=30.0),
        StreamStatus("file", False, "running", fps=1.0, captured_fps=1.0),
    )
    whole = LiveStatus(streams, "m", "detection", FACTS, 0.0, uptime_s, "running", busy={"infer": busy})
    return replace(whole, **changed)


def test_the_holder_looks_at_running_cameras_alone_and_says_what_it_does() -> None:
    adapted: list[Level] = []

    class Pipeline:
        def adapt(self, level: Level) -> None:
            adapted.append(level)

    said: list[str] = []
    holder = RateHolder(Policy(ladder()), Pipeline(), 25.0, said.append, lambda: ("power cap",))
    for second in range(8):
        holder.update(status(30.0, 1.0, second, state="paused"))
        holder.update(status(24.0, 1.0, second + 0.1))  # 0.96 of the target
        holder.update(status(3.0, 1.0, second + 0.2, streams=(StreamStatus("a", True, "stalled", fps=3.0, captured_fps=30.0),)))
    assert said == []
    for second in range(8, 14):
        holder.update(status(10.0, 1.0, second))
    assert said == ["quality: every frame -> every 2nd frame: 10.0 of 25.0 FPS; throttling: power cap"]
    assert [level.every for level in adapted] == [2]


def frame(index: int, size_hw: tuple[int, int] = (100, 200), captured_s: float | None = None) -> Frame:
    return Frame(np.zeros((*size_hw, 3), np.uint8), index, index / 10, index / 10 if captured_s is None else captured_s, "s")


def tracked(left: float, key: int = 7) -> Detections:
    box = np.array([[left, 10, left + 20, 30]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), (100, 200), ("a",), tracker_id=np.array([key]))


def test_tracked_boxes_move_on_between() -> None:
    between = Between()
    between.keep(tracked(10), frame(0))
    first = between.answer(frame(1))
    assert isinstance(first, Detections)
    assert first.xyxy[0, 0] == 10  # nothing is known of its speed yet
    between.keep(tracked(30), frame(2))
    moved = [between.answer(frame(index)) for index in (3, 4)]
    assert [one.xyxy[0, 0] for one in moved] == pytest.approx([40, 50])  # type: ignore[union-attr]
    assert moved[0].tracker_id.tolist() == [7]  # type: ignore[union-attr]
    between.keep(tracked(80, key=8), frame(5))
    assert between.answer(frame(6)).xyxy[0, 0] == 80  # type: ignore[union-attr]
    between.keep(tracked(170, key=8), frame(6))
    edge = between.answer(frame(9))
    assert edge.xyxy[0].tolist() == [200, 10, 200, 30]  # type: ignore[union-attr]


def test_other_answers_stay_and_none_is_made_up() -> None:
    between = Between()
    assert between.answer(frame(0)) is None
    answer = Classification(np.array([1]), np.array([0.9], np.float32), (100, 200), ("a", "b"))
    between.keep(answer, frame(0))
    assert between.answer(frame(1)) is answer


def test_each_so_many_th_frame_is_looked_at_and_what_is_new() -> None:
    between = Between()
    assert [between.looks(frame(i), 3) for i in range(7)] == [True, False, False, True, False, False, True]
    assert between.looks(frame(7, (50, 50)), 3)  # another size
    assert not between.looks(frame(8, (50, 50)), 3)
    assert between.looks(frame(9, (50, 50), captured_s=5.0), 3)  # after an outage
    assert [between.looks(frame(i, (50, 50), captured_s=5.1), 1) for i in (10, 11)] == [True, True]


def test_a_pipeline_keeps_the_rate_by_looking_at_fewer_frames() -> None:
    """30 FPS and a model of 60 ms: at every third frame each frame is delivered, in order, and what was not seen says so."""
    seen: list[LiveResult] = []
    session = ReadingSession(0.060)
    pipeline = LivePipeline([CodedCamera(0, 30.0, 60)], reading_predictor(session), lambda result, drawn: seen.append(result))
    pipeline.adapt(ladder()[2])
    pipeline.run()
    status = pipeline.status()
    (stream,) = status.streams
    assert stream.captured == 60 == stream.delivered + sum(stream.dropped.values())
    assert stream.delivered >= 50  # 16 a second are what the model can
    assert [result.frame.index for result in seen] == sorted({result.frame.index for result in seen})
    looked = [result for result in seen if result.inferred]
    assert status.frames == status.batches == len(looked) == len(session.batches)
    assert len(seen) / 3 - 1 <= len(looked) <= len(seen) / 3 + 2
    assert all(read(result.prediction)[1] == result.frame.index for result in looked)
    assert all(result.batch == 0 and read(result.prediction)[1] < result.frame.index for result in seen if not result.inferred)
    assert (status.changes, status.note) == (1, "the model sees every 3rd frame")


def test_a_spare_model_answers_when_it_is_told_to() -> None:
    main, spare = ReadingSession(), ReadingSession()
    results: list[LiveResult] = []

    def deliver(result: LiveResult, drawn: Frame) -> None:
        results.append(result)
        if len(results) == 5:
            pipeline.adapt(Level("int8", 1, True))
        if len(results) == 40:
            pipeline.adapt(FULL)

    pipeline = LivePipeline([CodedCamera(0, 200.0, 80)], reading_predictor(main), deliver, spare=reading_predictor(spare))
    pipeline.run()
    assert len(spare.batches) >= 30
    assert len(main.batches) + len(spare.batches) == len(results)
    assert all(read(result.prediction)[1] == result.frame.index for result in results)
    alone = LivePipeline([CodedCamera(0, 1.0, 1)], reading_predictor(main), deliver)
    with pytest.raises(UsageError, match="there is no spare model"):
        alone.adapt(Level("int8", 1, True))


class Lower:
    """Files beside a model, and what opening them gives."""

    def __init__(self, folder: Path, runs_as: dict[str, str]) -> None:
        self.model = folder / "m.onnx"
        self.model.touch()
        for name in runs_as:
            (folder / f"m.{name}.onnx").touch()
        self.runs_as, self.opened, self.closed = runs_as, [], 0

    def __call__(self, path: Path, backend: str, precision: str) -> Any:
        self.opened.append((path.name, backend, precision))
        if self.runs_as[precision] == "refused":
            raise ModelError("no")
        predictor = reading_predictor(ReadingSession())
        predictor.facts = replace(FACTS, precision=self.runs_as[precision])

        def close() -> None:
            self.closed += 1

        predictor.close = close  # type: ignore[method-assign]
        return predictor


@pytest.mark.parametrize(
    ("runs_as", "taken", "closed"),
    [
        ({}, None, 0),
        ({"fp16": "fp16", "int8": "int8"}, "fp16", 0),
        ({"fp16": "fp32", "int8": "int8"}, "int8", 1),  # a CPU that has no half precision
        ({"fp16": "refused", "int8": "int8"}, "int8", 0),
        ({"int8": "fp32"}, None, 1),
    ],
)
def test_a_lower_precision_is_taken_where_it_is_there_and_real(
    runs_as: dict[str, str], taken: str | None, closed: int, tmp_path: Path
) -> None:
    lower = Lower(tmp_path, runs_as)
    running = reading_predictor(ReadingSession())
    running.facts = FACTS
    spare = open_lower(str(lower.model), running, lower)
    assert (spare and spare.facts.precision) == taken
    assert lower.closed == closed
    assert all(backend == "fake" for _, backend, _ in lower.opened)


def test_throttling_is_read_from_this_machines_sensors() -> None:
    class Sensor:
        name, why_no_power, closed = "fake", "", False

        def read(self) -> Reading:
            return Reading(throttling=("thermal",))

        def cost_s(self) -> float:
            return 0.0

        def close(self) -> None:
            self.closed = True

    sensor = Sensor()
    watch = ThrottlingWatch(0.01, lambda interval_s: [sensor])
    assert watch.now() is None
    with watch:
        end_s = time.monotonic() + 10
        while watch.now() is None and time.monotonic() < end_s:
            time.sleep(0.005)
    assert watch.now() == ("thermal",)
    assert sensor.closed
