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
from jetlens.ops.buffers import BufferPool

LANES, LARGEST = 3, 4


def opened(monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, *, lanes: int = LANES, mapped: bool = False) -> TensorRtSession:
    monkeypatch.setattr("jetlens.backends.tensorrt.pages.LEAST_BYTES", 48)
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
        self.pool = BufferPool(2 * LANES * LARGEST)
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

    @rule(target=runs, lane=consumes(held), seed=st.integers(0, 999), fewer=st.booleans(), new=st.booleans())
    def submit_borrowed(self, lane: Any, seed: int, fewer: bool, new: bool) -> tuple[Any, Any]:
        """Pictures of a source that lends its memory again, and with them one in memory of its own; nobody but the session holds them."""
        images = pictures(len(lane.inputs["images"]), seed)[fewer:]
        if not len(images):
            images = pictures(1, seed)
        mine = [self.pool.take((4, 4, 3)) for _ in images]
        for image, content in zip(mine, images, strict=True):
            image[:] = content
        if new:
            mine[0] = mine[0].copy()
        lane.inputs["images"][:] = 7
        lane.borrow("images", mine)
        with pytest.raises(BackendError, match="pictures uint8"):
            lane.borrow("images", [image[:3] for image in mine])
        pending = self.session.submit(lane)
        with pytest.raises(BackendError, match="submitted or released before"):
            lane.borrow("images", mine)
        rest = np.full((len(lane.inputs["images"]) - len(images), 4, 4, 3), 7, np.uint8)
        return pending, np.concatenate([images, rest])

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
        assert not self.cudart.locked


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


def borrowed_run(session: TensorRtSession, pool: BufferPool, seed: int) -> Any:
    """A run on a picture that nobody else holds, in memory that was lent before."""
    lane, image = session.lane(1), pool.take((4, 4, 3))
    image[:] = pictures(1, seed)[0]
    lane.borrow("images", [image])
    return session.submit(lane)


@pytest.mark.parametrize("kept", [True, False])
def test_pictures_that_lie_in_their_own_memory_are_kept_for_as_long_as_they_are_read(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that came before is copied from where it lies, once it is locked. The control keeps no picture: the source writes the next one over it."""
    cudart, pool = FakeCudart(slow=1), BufferPool()
    session = opened(monkeypatch, cudart)
    assert_answers(borrowed_run(session, pool, 1).result(), pictures(1, 1))
    assert not cudart.locked
    pending = borrowed_run(session, pool, 2)
    assert len(cudart.locked) == 1
    if not kept:
        session._slots[-1]._borrowed = ()
    pool.take((4, 4, 3))[:] = 9
    answers = pending.result()
    assert np.array_equal(answers["logits"], classify(pictures(1, 2))["logits"]) == kept
    del pool
    assert not cudart.locked
    session.close()


def test_a_lane_that_borrows_again_runs_on_what_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    session, pool = opened(monkeypatch, FakeCudart()), BufferPool()
    borrowed_run(session, pool, 1).result()
    lane, lent, own = session.lane(1), pool.take((4, 4, 3)), pictures(1, 3)
    lent[:] = pictures(1, 2)[0]
    lane.borrow("images", [lent])
    lane.borrow("images", list(own))
    assert_answers(session.submit(lane).result(), own)
    session.close()


def test_where_times_are_measured_pictures_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetlens.backends.tensorrt.pages.LEAST_BYTES", 48)
    cudart, pool = FakeCudart(), BufferPool()
    on_fake_gpu(monkeypatch, cudart, net(profile=(1, 2, LARGEST)))
    with open_engine(fake_engine(), SessionOptions(timed=True)) as session:
        for seed in range(3):
            assert_answers(borrowed_run(session, pool, seed).result(), pictures(1, seed))
    assert "cudaHostRegister" not in cudart.calls


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
