"""The reader that comes back, on a clock of the test's own: stalls, patience, accounts and what ends it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.errors import MissingDependencyError, VideoError
from jetlens.media.live import LiveSource, Timing
from jetlens.media.live.source import Damaged, Limits, Picture
from jetlens.media.live.timeline import MAX_DRIFT_S, Timeline

IMAGE = np.zeros((2, 2, 3), np.uint8)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Script:
    """A camera that follows a list of steps: seconds that pass in silence, "frame", "damage", "lost", an error, or "end"."""

    decoder, fps = "script", 25.0

    def __init__(self, clock: Clock, steps: Iterable[object]) -> None:
        self.clock = clock
        self.steps = iter(steps)
        self.limits: list[Limits] = []
        self.waits: list[float] = []
        self.closed = 0
        self.frames = 0

    def connect(self, limits: Limits) -> Script:
        self.limits.append(limits)
        return self

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now_s += seconds

    def read(self) -> Picture | Damaged | None:
        step = next(self.steps, "end")
        if isinstance(step, (int, float)):
            self.clock.now_s += step
            return None
        if step == "frame":
            self.frames += 1
            return Picture(IMAGE, self.clock.now_s)
        if step == "damage":
            return Damaged("cam: spoilt")
        if step == "lost":
            raise VideoError("cam: gone")
        if isinstance(step, BaseException):
            raise step
        raise EOFError

    def close(self) -> None:
        self.closed += 1


def run(steps: Iterable[object], timing: Timing | None = None) -> tuple[LiveSource, Script]:
    """The source after its camera's whole script; nobody took a frame meanwhile."""
    clock = Clock()
    script = Script(clock, steps)
    source = LiveSource("cam", script.connect, timing=timing, clock=clock, pause=script.pause)
    source.ready(5)
    reader = source._reader
    assert reader is not None
    reader.join(5)
    assert not reader.is_alive()
    return source, script


def stream(frames: int, gap_s: float) -> Iterator[object]:
    for _ in range(frames):
        yield "frame"
        yield gap_s


def test_a_silent_camera_is_left_after_a_second() -> None:
    source, script = run([*stream(10, 0.04), *[0.1] * 10, "frame"])
    assert len(script.limits) == 2
    assert script.closed == 2
    assert source.status().reconnects == 1


def test_a_slow_camera_is_not_left() -> None:
    """After a few tries the gaps of a camera of one picture in two seconds are known, and four of them are borne."""
    source, script = run([*stream(30, 2.0)])
    assert len(script.limits) <= 3
    assert source.status().reconnects <= 2


def test_status_tells_a_stall_before_the_reader_does() -> None:
    clock, gate = Clock(), threading.Event()

    class Stuck(Script):
        def read(self) -> Picture | Damaged | None:
            if self.frames == 3:
                gate.wait(5)
                raise EOFError
            return super().read()

    script = Stuck(clock, ["frame"] * 3)
    source = LiveSource("cam", script.connect, clock=clock, pause=script.pause)
    assert source.status().state == "opening"
    source.ready(5)
    assert source.status().state == "running"
    clock.now_s += 0.9
    assert source.status().state == "running"
    clock.now_s += 0.2
    assert source.status().state == "stalled"
    assert source.status().since_s == pytest.approx(1001.0)
    gate.set()
    source.close()
    assert source.status().state == "ended"


def test_the_frame_that_waited_when_the_connection_broke_is_not_delivered() -> None:
    clock, seen = Clock(), threading.Event()

    class Breaking(Script):
        def pause(self, seconds: float) -> None:
            seen.set()
            threading.Event().wait(0.05)
            super().pause(seconds)

    script = Breaking(clock, ["frame", "frame", "lost", *[0.01] * 5, "frame", "end"])
    source = LiveSource("cam", script.connect, clock=clock, pause=script.pause)
    source.ready(5)
    seen.wait(5)
    frames = list(source)
    assert [frame.index for frame in frames] == [2]
    status = source.status()
    assert (status.captured, status.dropped, status.reconnects) == (3, 2, 1)


@given(st.lists(st.sampled_from(["frame", "damage", "lost", 0.04, 0.4, 1.5]), max_size=60))
def test_every_picture_is_accounted_for(steps: list[object]) -> None:
    source, script = run(["frame", *steps])
    delivered = list(source)
    status = source.status()
    assert status.captured == script.frames == len(delivered) + status.dropped
    assert status.corrupt <= steps.count("damage")
    assert script.closed == len(script.limits)
    assert status.state == "ended"


def test_waits_double_to_a_cap_with_jitter_and_grow_only_after_ten_minutes() -> None:
    timing = Timing()
    _, script = run(["frame", *["lost"] * 4000, "end"], timing)
    first = [timing.retry_s, 2 * timing.retry_s]
    for wait_s, wanted_s in zip(script.waits, first, strict=False):
        assert 0.7 * wanted_s <= wait_s <= wanted_s
    within = list(script.waits[2:2000])
    assert max(within) <= 1.0
    assert len({round(wait_s, 6) for wait_s in within}) > 100
    assert max(script.waits) > 1.0
    assert max(script.waits) <= timing.patient_cap_s


def test_a_known_camera_is_given_less_time_than_an_unknown_one_at_first() -> None:
    _, script = run([0.2, "frame", "lost", *["lost"] * 12, "end"])
    assert script.limits[0].first_s == Timing().first_s
    assert script.limits[1].first_s == pytest.approx(Timing().first_known_s)
    assert script.limits[-1].first_s == Timing().first_patient_s


def test_a_refused_password_from_the_start_is_not_tried_often() -> None:
    clock = Clock()
    script = Script(clock, [*[VideoError("cam: no (401)")] * 8, "end"])
    source = LiveSource("cam", script.connect, clock=clock, pause=script.pause)
    assert list(source) == []
    assert sum(script.waits) > 10


def test_ready_says_why_there_is_no_picture() -> None:
    script = Script(Clock(), ["lost"] * 10**6)
    script.pause = lambda seconds: time.sleep(0.01)  # type: ignore[method-assign]
    with LiveSource("cam", script.connect, pause=script.pause) as source, pytest.raises(VideoError, match="cam: gone"):
        source.ready(0.1)


@pytest.mark.parametrize("error", [MissingDependencyError("no package"), ZeroDivisionError()])
def test_what_no_patience_mends_is_raised_where_frames_are_taken(error: Exception) -> None:
    def connect(limits: Limits) -> Script:
        raise error

    with LiveSource("cam", connect) as source, pytest.raises(type(error)):
        list(source)


def test_size_and_decoder_are_told_by_the_first_frame() -> None:
    source, _ = run(["frame"])
    assert source.info.size_hw == (2, 2)
    assert (source.info.decoder, source.info.fps, source.info.frames) == ("script", 25.0, None)
    assert "cam" in repr(source)


class WallClockReader:
    """The control: the watchdog that everybody writes, on the clock of the day."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.last_s, self.reconnects = clock, clock(), 0

    def frame(self) -> float:
        age_s = self.clock() - self.last_s
        self.reconnects += age_s > 20
        self.last_s = self.clock()
        return age_s


def test_fifty_steps_of_the_wall_clock_harm_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """V5: the day's clock jumps an hour to and fro; only the monotonic one is asked."""
    rng, jumps = random.Random(3), 0
    day_s = [1.7e9]
    monkeypatch.setattr(time, "time", lambda: day_s[0])
    naive = WallClockReader(time.time)
    clock = Clock()

    class Jumping(Script):
        def read(self) -> Picture | Damaged | None:
            nonlocal jumps
            if self.frames % 10 == 5 and jumps < 50:
                day_s[0] += rng.choice((-3600, 3600))
                jumps += 1
            naive.frame()
            return super().read()

    script = Jumping(clock, stream(600, 0.04))
    source = LiveSource("cam", script.connect, clock=clock, pause=script.pause)
    ages = [clock.now_s - frame.captured_s for frame in source]
    assert jumps == 50
    assert naive.reconnects > 0
    assert source.status().reconnects == 0
    assert ages
    assert all(0 <= age_s <= 1 for age_s in ages)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.5), st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([2**32 / 90_000, 2**33 / 90_000]))),
        min_size=2,
        max_size=80,
    )
)
def test_times_increase_and_stay_with_the_arrivals(steps: list[tuple[float, float | None]]) -> None:
    line, now_s, shown = Timeline(), 50.0, []
    for gap_s, camera_s in steps:
        now_s += gap_s
        shown.append((line.shown_s(camera_s, now_s), now_s))
    start_s = shown[0][1]
    assert all(before[0] < after[0] for before, after in itertools.pairwise(shown))
    assert all(abs(shown_s - (arrived_s - start_s)) <= MAX_DRIFT_S + 0.01 for shown_s, arrived_s in shown)


@pytest.mark.parametrize("bits", [32, 33])
def test_a_clock_that_wraps_goes_on(bits: int) -> None:
    line, wrap = Timeline(), 2**bits
    shown = [line.shown_s((wrap - 90_000 + 3000 * index) % wrap / 90_000, 7 + index / 30) for index in range(90)]
    assert shown == pytest.approx([index / 30 for index in range(90)], abs=0.05)


def test_the_cameras_own_times_smooth_arrivals_that_jitter() -> None:
    line, rng = Timeline(), random.Random(0)
    shown = [line.shown_s(5 + index / 30, 100 + index / 30 + rng.uniform(0, 0.03)) for index in range(60)]
    gaps = np.diff(shown)
    assert np.abs(gaps - 1 / 30).max() < 1e-6


def test_the_rate_is_measured_where_the_camera_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Script, "fps", 0.0)
    assert run(["frame", *["frame"] * 20])[0].info.fps == 0.0
    assert run(stream(20, 0.04))[0].info.fps == 25.0
