"""The search for the most cameras that are held, and what it says of the limit."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from coded_cameras import CodedFile, ReadingSession, reading_predictor
from hypothesis import given
from hypothesis import strategies as st

from jetlens.pipeline.live import LiveOptions
from jetlens.pipeline.streams import LoopCamera, Trial, limited_by, measure, search, trials_at_most


def trial(cameras: int, held: bool, busy: float = 0.5, cpu: float = 0.4) -> Trial:
    return Trial(cameras, 0, 0 if held else 9, 30.0, 20.0, {"prepare": 0.1, "infer": busy}, cpu, held)


@given(st.integers(0, 70), st.integers(1, 64))
def test_the_search_finds_the_edge_in_the_stated_number_of_trials(capacity: int, limit: int) -> None:
    found = search(lambda cameras: trial(cameras, cameras <= capacity), limit)
    assert found.cameras == min(capacity, limit)
    assert len(found.trials) <= trials_at_most(limit)
    assert all(1 <= one.cameras <= limit for one in found.trials)
    assert found.limit.startswith("no more than") == (capacity >= limit)
    json.dumps(found.to_dict())


def test_one_bad_moment_is_forgiven() -> None:
    seen: list[int] = []

    def flaky(cameras: int) -> Trial:
        seen.append(cameras)
        return trial(cameras, cameras <= 5 and not (cameras == 4 and seen.count(4) == 1))

    assert search(flaky, 16).cameras == 5


def test_what_limits() -> None:
    assert limited_by(trial(3, False, cpu=0.95)).startswith("the processor: 95%")
    assert limited_by(trial(3, False, busy=0.97)).startswith("stage infer: busy 97%")
    assert limited_by(trial(3, False)).startswith("single late frames")


def test_cameras_that_a_model_cannot_follow_are_seen_as_such() -> None:
    """20 ms a frame is enough for one camera of 10 frames a second, and not for 12."""
    predictor = reading_predictor(ReadingSession(0.02))
    few = measure(predictor, 1, 10.0, (32, 32), 0.5, LiveOptions(1))
    many = measure(predictor, 12, 10.0, (32, 32), 0.5, LiveOptions(1))
    assert few.dropped == 0
    assert not many.held
    assert many.dropped > 10
    assert many.busy["infer"] > 0.7


def test_a_loop_camera_tells_the_age_of_frames_that_it_is_late_with() -> None:
    pictures = [frame.image_rgb for frame in CodedFile(0, 3)]
    camera = LoopCamera(pictures, 100.0, 1)
    frames = []
    for frame in camera:
        frames.append(frame)
        if len(frames) == 2:
            time.sleep(0.1)
        if len(frames) == 12:
            camera.close()
    assert [frame.index for frame in frames] == list(range(12))
    spaces = [after.captured_s - before.captured_s for before, after in pairwise(frames)]
    assert spaces == pytest.approx([0.01] * 11)
