from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jetlens.backends.base import DeviceTimings
from jetlens.bench.scenarios import Calls, overhead_ms, time_block, yardstick_ms


class Answer:
    def __init__(self, device: DeviceTimings | None) -> None:
        self.timings = device
        self.released = False

    def view(self) -> dict[str, Any]:
        return {"logits": np.zeros((1, 2))}

    def release(self) -> None:
        self.released = True


class FakeSession:
    """Counts what is in flight."""

    def __init__(self, device: DeviceTimings | None = None) -> None:
        self.inputs = (SimpleNamespace(name="images"),)
        self.device = device
        self.answers: list[Answer] = []
        self.most = 0

    def submit(self, lane: Any) -> Answer:
        self.answers.append(Answer(self.device))
        self.most = max(self.most, sum(not answer.released for answer in self.answers))
        return self.answers[-1]


class FakeTask:
    def preprocess(self, images: Any, out: Any = None) -> Any:
        return list(images)

    def postprocess(self, outputs: Any, batch: Any) -> Any:
        return batch


def made(session: FakeSession, **changed: Any) -> Calls:
    lane = SimpleNamespace(inputs={"images": None})
    fields: dict[str, Any] = {
        "task": FakeTask(),
        "session": session,
        "decode": lambda number: number,
        "lane": lambda: lane,
        "draw": lambda image, prediction: None,
        "images": range(100),
    }
    return Calls(**{**fields, **changed})


def test_every_call_has_every_stage_and_they_sum_to_its_wall_time() -> None:
    block = time_block("single", made(FakeSession()), range(20))
    assert block.items == len(block.calls_ms) == 20
    assert set(block.stages_ms) == {"decode", "preprocess", "compute", "postprocess", "draw"}
    assert np.allclose(np.sum(list(block.stages_ms.values()), axis=0), block.calls_ms, atol=5e-4)


def test_copies_that_the_device_measured_are_stages_of_their_own_and_are_not_counted_twice() -> None:
    device = DeviceTimings(copy_in_ms=1e-4, compute_ms=0.5, copy_out_ms=1e-4)
    block = time_block("single", made(FakeSession(device)), range(5))
    assert block.device_ms["compute"] == (0.5,) * 5
    assert np.allclose(np.sum(list(block.stages_ms.values()), axis=0), block.calls_ms, atol=1e-3)


def test_a_batch_is_one_call_of_several_pictures() -> None:
    block = time_block("offline", made(FakeSession(), batch=4), range(12))
    assert (block.items, len(block.calls_ms)) == (12, 3)


@pytest.mark.parametrize("lanes", [1, 3])
def test_as_many_calls_are_in_flight_as_there_are_lanes(lanes: int) -> None:
    session = FakeSession()
    block = time_block("multi", made(session, lanes=lanes), range(10))
    assert session.most == lanes
    assert block.items == 10
    assert all(answer.released for answer in session.answers)


def test_of_a_camera_every_frame_is_answered_or_dropped() -> None:
    class Slow(FakeTask):
        def postprocess(self, outputs: Any, batch: Any) -> Any:
            import time

            time.sleep(0.004)
            return batch

    calls = made(FakeSession(), task=Slow(), fps=1000.0)
    block = time_block("camera", calls, range(60))
    assert block.items + block.dropped == 60
    assert block.dropped > 0
    # The wait for its turn belongs to a frame's latency.
    assert min(block.calls_ms) >= 4.0


def test_a_camera_that_is_slower_than_the_work_drops_nothing() -> None:
    block = time_block("camera", made(FakeSession(), fps=200.0), range(6))
    assert (block.items, block.dropped) == (6, 0)
    assert block.wall_s >= 5 / 200


def test_the_benchs_own_share_of_a_call_can_be_told() -> None:
    assert 0 < overhead_ms() < 1
    assert all(value > 0 for value in yardstick_ms())
