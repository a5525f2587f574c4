"""One builder at a time: eight processes build once, and the next takes over from one that dies (goal C4)."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from fake_builder import HERE, LoggedBuilder, naive_obtain

from jetlens.engines.cache import obtain
from jetlens.engines.lock import locked, try_locked
from jetlens.engines.options import BuildOptions

PROCESSES = 8
SPAWN = multiprocessing.get_context("spawn")


def rounds(naive: bool, count: int, barrier: Barrier, log: Path, answers: Queue[tuple[int, str]]) -> None:
    """One of the processes: asks in every round for that round's engine, at the same moment as the others."""
    folder = log.parent / "naive"
    for turn in range(count):
        barrier.wait(60)
        name, model, builder = f"round{turn}", b"%d" % turn, LoggedBuilder(log, 0.02)
        if naive:
            plan = naive_obtain(model, BuildOptions(), name=name, builder=builder, folder=folder)
        else:
            plan = obtain(model, BuildOptions(), name=name, builder=builder, environment=HERE).plan
        answers.put((turn, hashlib.sha256(plan).hexdigest()))


def race(folder: Path, count: int, *, naive: bool = False) -> tuple[int, int]:
    """How many builds eight processes made in so many rounds, and how many answers agree with the others of their round."""
    log = folder.parent.parent / "builds"
    (log.parent / "naive").mkdir(exist_ok=True)
    barrier, answers = SPAWN.Barrier(PROCESSES), SPAWN.Queue()
    workers = [SPAWN.Process(target=rounds, args=(naive, count, barrier, log, answers), daemon=True) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=120) for _ in range(PROCESSES * count)]
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    first = dict(got)
    return len(log.read_text().splitlines()), sum(first[turn] == value for turn, value in got)


def test_eight_processes_build_once(folder: Path) -> None:
    assert race(folder, 3) == (3, 24)


@pytest.mark.release
def test_eight_processes_build_once_in_25_rounds(folder: Path, record_property: Any) -> None:
    builds, equal = race(folder, 25)
    record_property("builds", f"{builds}/25")
    record_property("equal hashes", f"{equal}/200")
    assert (builds, equal) == (25, 200)


def test_without_a_lock_they_build_many_times(folder: Path) -> None:
    assert race(folder, 3, naive=True)[0] > 3


def build_long(log: Path) -> None:
    obtain(b"model", BuildOptions(), name="long", builder=LoggedBuilder(log, 600), environment=HERE)


def wait_for(done: Any) -> None:
    end_s = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def take_over(folder: Path, log: Path) -> tuple[float, list[str]]:
    """Seconds from the death of a builder to the engine of the one that waited for it, and what that one said."""
    log.write_text("")
    holder = SPAWN.Process(target=build_long, args=(log,), daemon=True)
    holder.start()
    wait_for(log.read_text)
    said: list[str] = []
    ended: list[float] = []

    def next_one() -> None:
        obtain(b"model", BuildOptions(), name="long", builder=LoggedBuilder(log, 0), environment=HERE, report=said.append)
        ended.append(time.monotonic())

    thread = threading.Thread(target=next_one, daemon=True)
    thread.start()
    wait_for(lambda: said)
    assert f"process {holder.pid}, which builds long" in said[0]
    os.kill(holder.pid or 0, signal.SIGKILL)
    killed = time.monotonic()
    thread.join(60)
    holder.join()
    for path in folder.glob("long-*"):
        path.unlink()
    return ended[0] - killed, said


def test_the_next_takes_over_from_a_killed_builder(folder: Path, tmp_path: Path) -> None:
    took_s, _ = take_over(folder, tmp_path / "log")
    assert took_s < 30


@pytest.mark.release
def test_the_next_takes_over_within_two_seconds(folder: Path, tmp_path: Path, record_property: Any) -> None:
    times = [take_over(folder, tmp_path / "log")[0] for _ in range(10)]
    record_property("taken over in 2 s", f"{sum(took_s <= 2 for took_s in times)}/10")
    record_property("slowest_s", round(max(times), 2))
    assert max(times) <= 2


def test_a_lock_file_that_was_left_behind_locks_nothing(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(0o700, parents=True)
    (folder / "build.lock").write_text("process 999999, which builds something else")
    said: list[str] = []
    obtain(b"model", BuildOptions(), name="net", builder=LoggedBuilder(tmp_path / "log", 0), environment=HERE, report=said.append)
    assert said == []


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, "works", print), try_locked(path) as had:
        assert not had
        path.unlink()
        with try_locked(path) as second:
            assert second
    with try_locked(path) as third:
        assert third


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(5):
            with locked(tmp_path / "lock", "works", lambda line: None):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]


def test_the_lock_is_freed_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "works", print):
        raise ZeroDivisionError
    with try_locked(tmp_path / "lock") as had:
        assert had


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "lock", "works", print):
        pass
    assert (tmp_path / "victim").read_text() == "precious"
