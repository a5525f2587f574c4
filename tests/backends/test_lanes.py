"""Lanes: whatever the order of submitting, waiting and giving back, every answer is its own pictures', and no lane is lost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from fake_engines import fake_engine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule
from nets import assert_answers, classify, net, on_fake_gpu, pictures

from jetlens.backends.base import SessionOptions
from jetlens.backends.tensorrt import TensorRtSession, open_engine
from jetlens.errors import BackendError

LANES, LARGEST = 3, 4


def opened(monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, *, lanes: int = LANES, mapped: bool = False) -> TensorRtSession:
    on_fake_gpu(monkeypatch, cudart, net(profile=(1, 2, LARGEST)))
    return open_engine(fake_engine(), SessionOptions(lanes=lanes), mapped=mapped)


class LanesMachine(RuleBasedStateMachine):
    """Any order of calls on a session whose GPU works late."""

    runs = Bundle("runs")
    held = Bundle("held")

    @initialize(mapped=st.booleans(), captures=st.booleans())
    def open(self, mapped: bool, captures: bool) -> None:
        self.patch = pytest.MonkeyPatch()
        self.cudart = FakeCudart(slow=1)
        self.cudart.capture_fails = not captures
        self.session = opened(self.patch, self.cudart, mapped=mapped)
        self.taken = 0

    @precondition(lambda self: self.taken < LANES)
    @rule(target=runs, batch=st.integers(1, LARGEST), seed=st.integers(0, 999))
    def submit(self, batch: int, seed: int) -> tuple[Any, Any]:
        images = pictures(batch, seed)
        pending = self.session.submit({"images": images})
        images[:] = 0
        self.taken += 1
        return pending, pictures(batch, seed)

    @precondition(lambda self: self.taken < LANES)
    @rule(target=held, batch=st.integers(1, LARGEST))
    def lane(self, batch: int) -> Any:
        self.taken += 1
        return self.session.lane(batch)

    @rule(target=runs, lane=consumes(held), seed=st.integers(0, 999))
    def submit_lane(self, lane: Any, seed: int) -> tuple[Any, Any]:
        images = pictures(len(lane.inputs["images"]), seed)
        lane.inputs["images"][:] = images
        pending = self.session.submit(lane)
        with pytest.raises(BackendError, match="submitted or released before"):
            self.session.submit(lane)
        return pending, images

    @rule(lane=consumes(held))
    def release_lane(self, lane: Any) -> None:
        lane.release()
        lane.release()
        self.taken -= 1

    @rule(target=runs, run=consumes(runs), times=st.integers(0, 12))
    def ask(self, run: tuple[Any, Any], times: int) -> Any:
        for _ in range(times):
            run[0].done()
        return run

    @rule(run=consumes(runs))
    def result(self, run: tuple[Any, Any]) -> None:
        pending, images = run
        assert_answers(pending.result(), images)
        assert pending.done()
        pending.release()
        self.taken -= 1
        assert_answers(pending.result(), images)

    @rule(run=consumes(runs))
    def view(self, run: tuple[Any, Any]) -> None:
        pending, images = run
        assert_answers(dict(pending.view()), images)
        pending.release()
        pending.release()
        self.taken -= 1
        with pytest.raises(BackendError, match="released"):
            pending.view()

    @rule(run=consumes(runs))
    def forget(self, run: tuple[Any, Any]) -> None:
        run[0].release()
        self.taken -= 1
        with pytest.raises(BackendError, match="released"):
            run[0].result()

    @rule(batch=st.integers(1, LARGEST), seed=st.integers(0, 999))
    def run(self, batch: int, seed: int) -> None:
        if self.taken == LANES:
            with pytest.raises(BackendError, match="all 3 lanes are in flight or lent"):
                self.session.run({"images": pictures(batch, seed)})
        else:
            assert_answers(self.session.run({"images": pictures(batch, seed)}), pictures(batch, seed))

    @rule(target=runs, wrong=st.sampled_from(["type", "batch"]))
    def refused(self, wrong: str) -> Any:
        images = pictures(1).astype(np.float32) if wrong == "type" else pictures(LARGEST + 1)
        with pytest.raises(BackendError):
            self.session.submit({"images": images})
        return multiple()

    @invariant()
    def every_lane_is_somewhere(self) -> None:
        if hasattr(self, "session"):
            assert len(self.session._free) == LANES - self.taken
            assert len(set(map(id, self.session._free))) == len(self.session._free)

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        self.session.close()
        self.patch.undo()
        living = self.cudart.living()
        # Pages that the caller still holds may live on, nothing else.
        assert set(living) <= {"host"}


LanesMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLanes = LanesMachine.TestCase


@pytest.mark.release
def test_lanes_in_full(record_property: Any) -> None:
    machine = LanesMachine.TestCase
    before, machine.settings = machine.settings, settings(max_examples=1000, stateful_step_count=60, deadline=None)
    try:
        machine("runTest").runTest()
    finally:
        machine.settings = before
    record_property("sequences", "1000/1000")


def test_lanes_that_share_a_buffer_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a session that hands out one lane twice mixes the answers."""
    session = opened(monkeypatch, FakeCudart(slow=1))
    monkeypatch.setattr(TensorRtSession, "_take", lambda self: self._slots[0])
    first, second = session.submit({"images": pictures(1, 1)}), session.submit({"images": pictures(1, 2)})
    second.result()
    with pytest.raises(AssertionError):
        assert_answers(first.result(), pictures(1, 1))
    session.close()


def test_one_thread_submits_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart(slow=1)
    session = opened(monkeypatch, cudart)
    places = threading.Semaphore(LANES)
    wrong: list[int] = []

    def wait(pending: Any, seed: int) -> None:
        answers = pending.result()
        places.release()
        if not np.array_equal(answers["logits"], classify(pictures(1 + seed % 4, seed))["logits"]):
            wrong.append(seed)

    threads = []
    for seed in range(200):
        places.acquire()
        threads.append(threading.Thread(target=wait, args=(session.submit({"images": pictures(1 + seed % 4, seed)}), seed)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    session.close()
    assert wrong == []


def test_a_lane_of_another_session_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(monkeypatch, FakeCudart()), opened(monkeypatch, FakeCudart())
    lane = first.lane(2)
    with pytest.raises(BackendError, match="another session's"):
        second.submit(lane)
    assert_answers(first.submit(_filled(lane)).result(), pictures(2))
    with pytest.raises(BackendError, match="1 to 4"):
        first.lane(5)
    first.close()
    second.close()


def _filled(lane: Any) -> Any:
    lane.inputs["images"][:] = pictures(2)
    return lane


def test_a_run_that_is_given_up_in_the_middle_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting: the lane goes back, and the next run does not write over what the GPU still reads."""
    session = opened(monkeypatch, FakeCudart(slow=1), lanes=1)
    slot = session._slots[0]
    wait = slot.wait_for_stream

    def interrupted() -> None:
        slot.wait_for_stream = wait
        raise KeyboardInterrupt

    slot.wait_for_stream = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.run({"images": pictures(2, 1)})
    assert slot.flying
    assert_answers(session.run({"images": pictures(2, 2)}), pictures(2, 2))
    slot.wait_for_stream = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.run({"images": pictures(3, 3)})
    assert_answers(session.run({"images": pictures(3, 3)}), pictures(3, 3))
    session.close()
