"""run_stages: order kept, nothing dropped, bounded, errors raised once, no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.errors import InputError
from jetlens.pipeline import Stage, run_stages


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # Another test's may end meanwhile.
    assert not set(threading.enumerate()) - before


def collect(source: Any, *functions: Any, **options: Any) -> tuple[list[Any], Any]:
    out: list[Any] = []
    stages = [Stage(f"step{index}", function) for index, function in enumerate(functions)]
    return out, run_stages(source, [*stages, Stage("last", out.append)], **options)


@given(count=st.integers(0, 40), steps=st.integers(0, 3), depth=st.integers(1, 4), threaded=st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_item_once_in_order(count: int, steps: int, depth: int, threaded: bool) -> None:
    out, stats = collect(range(count), *[lambda x: x + 1] * steps, depth=depth, threaded=threaded)
    assert out == [item + steps for item in range(count)]
    assert stats.frames == count
    assert list(stats.stages) == ["decode", *(f"step{index}" for index in range(steps)), "last"]


@given(count=st.integers(0, 40), workers=st.lists(st.integers(1, 4), min_size=1, max_size=3), depth=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_several_workers_keep_the_order(count: int, workers: list[int], depth: int) -> None:
    def uneven(item: int) -> int:
        time.sleep(0.001 * (item % 3 == 0))
        return item + 1

    out: list[int] = []
    stages = [Stage(f"step{index}", uneven, each) for index, each in enumerate(workers)]
    stats = run_stages(range(count), [*stages, Stage("last", out.append)], depth=depth)
    assert out == [item + len(workers) for item in range(count)]
    assert stats.frames == count


def test_negative_control_workers_on_a_plain_queue_mix_the_order() -> None:
    from concurrent.futures import ThreadPoolExecutor, as_completed

    def uneven(item: int) -> int:
        time.sleep(0.01 * (item == 0))
        return item

    with ThreadPoolExecutor(2) as pool:
        assert [done.result() for done in as_completed([pool.submit(uneven, item) for item in range(8)])] != list(range(8))


def test_workers_work_at_once_and_hold_one_each_and_one_more_but_one() -> None:
    lock, meeting = threading.Lock(), threading.Barrier(3, timeout=10)
    alive, most = 0, 0

    def source() -> Iterator[int]:
        nonlocal alive, most
        for item in range(30):
            with lock:
                alive += 1
                most = max(most, alive)
            yield item

    def meet(item: int) -> int:
        meeting.wait()  # ends only if three are here at once
        return item

    def last(item: int) -> None:
        nonlocal alive
        with lock:
            alive -= 1

    assert run_stages(source(), [Stage("meet", meet, 3), Stage("last", last)], depth=1).frames == 30
    assert most <= 1 * 2 + (3 - 1) + 4 + 1


def test_a_worker_whose_item_is_early_goes_on() -> None:
    """The first item takes until the third is begun, which a worker that waited with the second would never do."""
    third = threading.Event()

    def run(item: int) -> int:
        if item == 2:
            third.set()
        assert item or third.wait(10)
        return item

    out: list[int] = []
    run_stages(range(6), [Stage("run", run, 2), Stage("last", out.append)], depth=1)
    assert out == list(range(6))


@given(broken=st.integers(0, 12), workers=st.integers(1, 3), ahead=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_what_was_begun_is_left_where_the_run_stops(broken: int, workers: int, ahead: int) -> None:
    """What a stage holds for an item is given back, whichever fails: here one whose ``run`` or, further on, the next stage does."""
    lock, held = threading.Lock(), set[int]()

    def begin(item: int) -> None:
        with lock:
            held.add(item)

    def leave(item: int) -> None:
        with lock:
            held.remove(item)

    def run(item: int) -> int:
        leave(item)
        if item == broken:
            raise ValueError("broken")
        return item

    def last(item: int) -> None:
        if item == 2 * broken:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run_stages(range(30), [Stage("ahead", run, workers, begin, ahead, leave), Stage("last", last)])
    assert not held


@given(count=st.integers(0, 30), workers=st.integers(1, 3), ahead=st.integers(0, 3), threaded=st.booleans(), direct=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_begun_ahead_ends_in_order(count: int, workers: int, ahead: int, threaded: bool, direct: bool) -> None:
    lock, held, most = threading.Lock(), set[int](), 0

    def begin(item: int) -> None:
        nonlocal most
        with lock:
            held.add(item)
            most = max(most, len(held))

    def run(item: int) -> int:
        with lock:
            held.remove(item)
        return item

    items, out = iter(range(count)), list[int]()
    stage = Stage("ahead", run, workers, begin, ahead)
    stats = run_stages(items, [stage, Stage("last", out.append)], threaded=threaded, poll=(lambda: next(items, None)) if direct else None)
    assert (out, stats.frames, held) == (list(range(count)), count, set())
    assert most <= (stage.holds if threaded else 1)


def test_a_worker_begins_what_is_there_and_waits_for_no_more() -> None:
    """Two of three items are there: both are begun before the first is run, and neither waits for the third."""
    seen: list[str] = []
    third = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert third.wait(10)
        yield 2

    def run(item: int) -> int:
        seen.append(f"run {item}")
        if item == 1:
            third.set()
        return item

    polled = iter([1])
    stages = [Stage("ahead", run, 1, lambda item: seen.append(f"begin {item}"), 2), Stage("last", id)]
    run_stages(source(), stages, poll=lambda: next(polled, None))
    assert seen == ["begin 0", "begin 1", "run 0", "run 1", "begin 2", "run 2"]


def test_workers_take_from_a_source_that_waits_one_at_a_time() -> None:
    """No thread is between the source and the first stage, and what the source raises is raised."""
    names: set[str] = set()

    def source() -> Iterator[int]:
        for item in range(20):
            names.add(threading.current_thread().name)
            yield item
        raise BoomError

    with pytest.raises(BoomError):
        run_stages(source(), [Stage("first", lambda item: item, 3), Stage("last", id)], name="collect", poll=lambda: None)
    assert names == {"jetlens-first"}


def test_an_error_wakes_workers_that_wait_for_their_turn() -> None:
    def work(item: int) -> int:
        if item == 0:
            time.sleep(0.1)
            raise BoomError
        return item

    with pytest.raises(BoomError):
        run_stages(range(100), [Stage("work", work, 4), Stage("last", lambda item: None)], depth=1)


def test_negative_control_a_queue_that_drops_loses_items() -> None:
    import queue

    waiting: queue.Queue[int] = queue.Queue(2)
    for item in range(10):
        if waiting.full():
            waiting.get()
        waiting.put(item)
    assert waiting.qsize() < 10


def test_uneven_stages_keep_the_order() -> None:
    def uneven(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item

    out, _ = collect(range(30), uneven, lambda item: item, uneven)
    assert out == list(range(30))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_items_than_stated_exist(depth: int) -> None:
    lock = threading.Lock()
    alive, most = 0, 0

    def source() -> Iterator[int]:
        nonlocal alive, most
        for item in range(60):
            with lock:
                alive += 1
                most = max(most, alive)
            yield item

    def last(item: int) -> None:
        nonlocal alive
        time.sleep(0.001)
        with lock:
            alive -= 1

    run_stages(source(), [Stage("a", lambda x: x), Stage("b", lambda x: x), Stage("c", last)], depth=depth)
    assert most <= (depth + 1) * 3 + 1


class BoomError(Exception):
    """An error of a stage."""


@pytest.mark.parametrize("where", ["decode", "step0", "step1", "last"])
@pytest.mark.parametrize("threaded", [True, False])
def test_an_error_anywhere_stops_all_and_is_raised_once(where: str, threaded: bool) -> None:
    def failing(name: str) -> Any:
        def run(item: int) -> int:
            if name == where and item == 5:
                raise BoomError(name)
            return item

        return run

    def source() -> Iterator[int]:
        for item in range(1_000_000):
            yield failing("decode")(item)

    stages = [Stage(name, failing(name)) for name in ("step0", "step1", "last")]
    start = time.perf_counter()
    with pytest.raises(BoomError, match=where) as caught:
        run_stages(source(), stages, threaded=threaded)
    assert time.perf_counter() - start < 5
    assert any("failing" in str(entry.frame.code) or entry.name == "run" for entry in caught.traceback)


def test_errors_in_every_stage_at_once_raise_one() -> None:
    def fail(item: int) -> int:
        raise BoomError

    with pytest.raises(BoomError):
        run_stages(range(100), [Stage(name, fail) for name in "abc"])


def test_a_stage_that_waits_is_woken_when_another_fails() -> None:
    """The source is blocked on a full queue, the last stage on an empty one, while the middle fails."""

    def middle(item: int) -> int:
        time.sleep(0.05)
        raise BoomError

    start = time.perf_counter()
    with pytest.raises(BoomError):
        run_stages(range(100), [Stage("middle", middle), Stage("last", lambda item: None)], depth=1)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("threaded", [True, False])
def test_a_damaged_source_ends_the_stream_after_what_it_delivered(threaded: bool) -> None:
    def source() -> Iterator[int]:
        yield from range(7)
        raise InputError("cut")

    out, stats = collect(source(), lambda item: item, threaded=threaded)
    assert out == list(range(7))
    assert str(stats.ended_by) == "cut"


@pytest.mark.parametrize("threaded", [True, False])
def test_an_input_error_of_a_stage_is_raised(threaded: bool) -> None:
    def refuse(item: int) -> int:
        raise InputError("no pixels")

    with pytest.raises(InputError, match="no pixels"):
        collect(range(3), refuse, threaded=threaded)


def test_ctrl_c_stops_every_thread() -> None:
    def last(item: int) -> None:
        if item == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(iter(int, 1), [Stage("a", lambda x: x), Stage("b", _count()), Stage("last", last)])


def _count() -> Any:
    seen = iter(range(10**9))
    return lambda item: next(seen)


def test_wrong_calls_are_refused() -> None:
    for stages, options in (([], {}), ([Stage("a", id)], {"depth": 0}), ([Stage("decode", id)], {})):
        with pytest.raises(ValueError, match="depth"):
            run_stages([], stages, **options)
    for stages in ([Stage("a", id, 2)], [Stage("a", id, 0), Stage("b", id)]):
        with pytest.raises(ValueError, match="workers"):
            run_stages([], stages)


def test_the_rate_is_frames_over_wall_time() -> None:
    _, stats = collect(range(10), lambda item: time.sleep(0.01) or item)
    assert stats.fps == pytest.approx(10 / stats.wall_s)
    assert stats.wall_s >= 0.1
    # Mean of 1 / interval would claim more than the frames that came out: what source 004's counter does.
    assert stats.stages["step0"].busy_s <= stats.wall_s
