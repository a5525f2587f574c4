"""Capture: a camera's newest frame, every frame of a file, and the account of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from coded_cameras import CodedCamera, CodedFile, coded
from hypothesis import given
from hypothesis import strategies as st
from simulated_line import ANSWER, Camera

from jetlens.frame import Frame
from jetlens.media.live.status import SourceStatus
from jetlens.pipeline.capture import Capture, Rate, is_live


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def frame(index: int, captured_s: float = 0.0) -> Frame:
    return Frame(coded(0, index), index, index / 30, captured_s, "given")


def camera(clock: Clock, **options: Any) -> Capture:
    return Capture(Camera("camera"), "camera", threading.Condition(), clock=clock, **options)


def test_what_is_live() -> None:
    assert is_live(CodedCamera(0, 30.0))
    assert not is_live(CodedFile(0, 1))


def test_the_newest_frame_of_a_camera_waits() -> None:
    clock = Clock()
    capture = camera(clock)
    for index in range(5):
        capture.offer(frame(index))
    assert capture.waiting == 1
    taken = capture.take()
    assert (taken.index, taken.stream) == (4, "camera")
    status = capture.status()
    assert (status.captured, dict(status.dropped), status.under_way) == (5, {"newer frame": 4}, 1)


def test_negative_control_a_queue_of_a_camera_ages() -> None:
    """A bounded queue that keeps the oldest, as `Queue(maxsize=30)` before a slow consumer does."""
    waiting: list[int] = []
    for index in range(100):
        if len(waiting) < 30:
            waiting.append(index)
        if index % 3 == 2:
            waiting.pop(0)
    assert 99 - waiting[0] > 30


@given(st.lists(st.sampled_from(["offer", "take", "deliver", "drop", "pause", "resume", "stop"]), max_size=60), st.booleans())
def test_the_account_is_exact_whatever_happens(steps: list[str], limited: bool) -> None:
    clock = Clock()
    capture = camera(clock, most_fps=10.0 if limited else None)
    taken: list[Frame] = []
    for number, step in enumerate(steps):
        clock.now_s += 0.05
        if step == "offer":
            capture.offer(frame(number, clock.now_s))
        elif step == "take" and capture.waiting:
            taken.append(capture.take())
        elif step in ("deliver", "drop") and taken:
            one = taken.pop(0)
            if step == "deliver":
                capture.answered(one, ANSWER)
                capture.deliver()
            else:
                capture.drop("stopped")
        elif step in ("pause", "resume"):
            capture.pause(step == "pause")
        elif step == "stop":
            capture.stop()
        status = capture.status()
        assert status.captured == status.delivered + status.under_way + sum(status.dropped.values())
    capture.settle("stopped")
    status = capture.status()
    assert status.under_way == 0
    assert status.captured == status.delivered + sum(status.dropped.values())


def test_a_file_waits_for_its_reader_and_loses_nothing() -> None:
    capture = Capture(CodedFile(3, 50), "file", threading.Condition(), depth=2)
    capture.start()
    seen = []
    while not (capture.ended and not capture.waiting):
        if capture.waiting:
            assert capture.waiting <= 2
            seen.append(capture.take().index)
            capture.deliver()
        time.sleep(0)
    assert seen == list(range(50))
    assert capture.status().dropped == {}
    assert capture.join(5)


def test_a_file_that_nobody_reads_can_be_stopped() -> None:
    capture = Capture(CodedFile(3, 50), "file", threading.Condition(), depth=2)
    capture.start()
    end_s = time.monotonic() + 5
    while capture.waiting < 2 and time.monotonic() < end_s:
        time.sleep(0.001)
    capture.stop()
    assert capture.join(5)
    status = capture.status()
    assert status.captured == sum(status.dropped.values())


def test_ages_are_of_the_clock_and_never_negative() -> None:
    clock = Clock()
    capture = camera(clock)
    ages = []
    for index, late_s in enumerate([0.010, 0.020, -5.0, 0.030]):
        capture.offer(frame(index, clock.now_s - late_s))
        ages.append(capture.answered(capture.take(), ANSWER))
        capture.deliver()
    assert ages == pytest.approx([10, 20, 0, 30])
    status = capture.status()
    assert status.age_p50_ms == pytest.approx(15)
    assert status.age_p99_ms == pytest.approx(np.percentile([10, 20, 0, 30], 99))


def test_what_a_source_dropped_itself_is_in_the_account() -> None:
    class Told(Camera):
        def status(self) -> SourceStatus:
            return SourceStatus("camera", "reconnecting", 0.0, reconnects=2, corrupt=3, captured=9, dropped=7, reason="reset")

    capture = Capture(Told("camera"), "camera", threading.Condition())
    capture.offer(frame(0))
    status = capture.status()
    assert (status.state, status.reason, status.reconnects, status.corrupt) == ("reconnecting", "reset", 2, 3)
    assert (status.captured, dict(status.dropped), status.under_way) == (8, {"before the pipeline": 7}, 1)


def test_rates() -> None:
    rate = Rate()
    assert (rate.per_second(0.0), rate.last_s) == (0.0, -float("inf"))
    for index in range(60):
        rate.add(index / 20)
    assert rate.interval_s == pytest.approx(0.05)
    assert rate.per_second(59 / 20) == pytest.approx(20)
    # A camera that has stopped falls to nothing.
    assert 0 < rate.per_second(4.0) < 15
    assert rate.per_second(8.0) == 0


def test_frames_are_not_held_while_the_source_waits() -> None:
    """The thread keeps no frame that was taken: memory of cameras that come slowly."""
    import weakref

    more = threading.Event()

    class Slow(CodedCamera):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(coded(0, 0), 0, 0.0, 0.0, "camera 0")
            more.wait(10)

    capture = Capture(Slow(0, 1.0), "camera 0", threading.Condition())
    capture.start()
    end_s = time.monotonic() + 5
    while not capture.waiting and time.monotonic() < end_s:
        time.sleep(0.001)
    taken = capture.take()
    image = weakref.ref(taken.image_rgb)
    del taken
    time.sleep(0.02)
    assert image() is None
    more.set()
