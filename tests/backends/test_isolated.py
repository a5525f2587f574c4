"""IsolatedSession: the same answers from a process of its own, and a clear end whatever becomes of that process."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_openers import EXIT, FAIL, HANG, Sums

from jetlens.backends.base import SessionOptions
from jetlens.backends.breaker import Breaker, BreakerOpenError, RunFailedError
from jetlens.backends.choice import open_session
from jetlens.backends.isolated import IsolatedSession, Limits, open_isolated
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError, ModelError
from jetlens.predictor import model_path

OPENER = "worker_openers:open_sums"


def sums(model: bytes = b"", **options: Any) -> IsolatedSession:
    return IsolatedSession(model, "sums", SessionOptions(threads=2, build=BuildOptions(workspace_mib=7)), opener=OPENER, **options)


def rows(count: int = 1, first: int = 1) -> dict[str, Any]:
    made = np.random.default_rng(count).integers(0, 200, (count, 4), dtype=np.uint8)
    made[0, 0] = first
    return {"rows": made}


def check(session: IsolatedSession, count: int = 1, first: int = 1) -> None:
    inputs = rows(count, first)
    answer = session.run(inputs)
    assert (answer["sum"] == inputs["rows"].sum(axis=1)).all()
    assert answer["many"].shape == (first, 3)
    assert (answer["many"] == first).all()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def test_answers_and_facts_are_the_session_s_own(capfd: pytest.CaptureFixture[str]) -> None:
    with sums() as session:
        assert session.facts == Sums.facts
        assert (session.inputs, session.outputs) == (Sums.inputs, Sums.outputs)
        assert session.chosen == "sums with 2 threads and a workspace of 7 MiB, in a process of its own"
        kept = session.run(rows(3))["sum"]
        before = kept.copy()
        for count, first in ((1, 0), (1, 1), (1000, 200), (2, 3), (5000, 240), (1, 1)):  # both regions grow on the way
            check(session, count, first)
        assert (kept == before).all()  # the caller owns it
        lane = session.lane(2)
        lane.inputs["rows"][:] = 1
        assert session.submit(lane).result()["sum"].tolist() == [4, 4]
        assert session.starts == 1
    assert "not a result" not in capfd.readouterr().out


def test_a_shipped_model_answers_bit_for_bit() -> None:
    pytest.importorskip("onnxruntime")
    model = model_path("orange-grade").read_bytes()
    session, chosen = open_isolated(model, "onnxruntime", SessionOptions(threads=1))
    plain, _ = open_session(model, "onnxruntime", SessionOptions(threads=1))
    assert chosen == "onnxruntime, in a process of its own"
    with session, plain:
        assert session.facts == plain.facts
        spec = plain.inputs[0]
        picture = np.random.default_rng(0).integers(0, 256, (4, *spec.shape[1:]), dtype=np.uint8)  # type: ignore[arg-type]
        answer, expected = session.run({spec.name: picture}), plain.run({spec.name: picture})
        assert answer.keys() == expected.keys()
        assert all((answer[name] == expected[name]).all() for name in expected)


def test_what_cannot_be_opened_is_refused_as_without_a_process() -> None:
    with pytest.raises(ModelError, match="broken is no model"):
        sums(b"refuse:broken")
    with pytest.raises(BackendError, match="ended by SIGABRT while it opened the model"):
        sums(b"crash:")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError):
        open_isolated(b"\x08\x07 this is no graph", "onnxruntime", SessionOptions())


def test_wrong_inputs_cost_no_process() -> None:
    with sums() as session:
        for wrong in ({}, {"rows": np.zeros((1, 5), np.uint8)}, {"rows": np.zeros((1, 4), np.float32)}):
            with pytest.raises(BackendError, match="sums: "):
                session.run(wrong)
        check(session)
        assert session.starts == 1


@pytest.mark.parametrize(
    ("first", "reason", "said"),
    [
        (FAIL, "model failed", "the device fell off the bus"),
        (EXIT, "worker died", "ended by itself, with status 3"),
        (HANG, "worker hung", "longer than 0.5 s"),
    ],
)
def test_a_run_that_fails_is_lost_and_the_next_succeeds(first: int, reason: str, said: str) -> None:
    with sums(limits=Limits(run_s=0.5)) as session:
        with pytest.raises(RunFailedError, match=said) as raised:
            session.run(rows(first=first))
        assert raised.value.reason == reason
        check(session)
        assert session.starts == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_an_idle_worker_that_goes_is_replaced_before_it_is_needed(number: int) -> None:
    with sums() as session:
        process = session.process
        assert process is not None
        os.kill(process, number)
        until(lambda: session.process not in (None, process))
        check(session)
        assert not Path(f"/proc/{process}").exists()


def test_the_fifth_failure_within_a_minute_opens_the_breaker_and_nothing_spins() -> None:
    with sums() as session:
        for _ in range(4):
            with pytest.raises(RunFailedError):
                session.run(rows(first=FAIL))
        check(session)
        with pytest.raises(
            BackendError, match=r"failed 5 times in .* is not tried again; the last time: the device fell off the bus"
        ) as raised:
            session.run(rows(first=FAIL))
        assert not isinstance(raised.value, RunFailedError)
        busy_s = time.process_time()
        time.sleep(0.5)
        for _ in range(20):
            with pytest.raises(BackendError, match="is not tried again"):
                session.run(rows())
        assert session.starts == 5
        assert session.process is None
        assert time.process_time() - busy_s < 0.1


def test_a_model_that_opens_no_more_opens_the_breaker(tmp_path: Path) -> None:
    with sums(f"once:{tmp_path / 'mark'}".encode()) as session:
        check(session)
        with pytest.raises(RunFailedError):
            session.run(rows(first=EXIT))
        with pytest.raises(BackendError, match=r"failed 5 times .* the last time: the device is gone"):
            session.run(rows())
        assert session.starts == 5


def test_failures_that_lie_apart_do_not_open_it() -> None:
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0])
    for _ in range(50):
        now[0] += 15.1
        assert isinstance(breaker.failed("x"), RunFailedError)
    now[0] += 100
    for _ in range(4):
        breaker.failed(ValueError("y"), "model failed")
        now[0] += 15
    with pytest.raises(BackendError, match="failed 5 times in 60 s and is not tried again; the last time: z"):
        breaker.failed("z")
    now[0] += 1000
    with pytest.raises(BreakerOpenError, match="not tried again"):
        breaker.failed("one more")
    assert breaker.failures == 56


def test_closing_ends_a_run_and_leaves_nothing() -> None:
    gc.collect()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    session = sums()
    for _ in range(3):
        with pytest.raises(RunFailedError):
            session.run(rows(first=EXIT))
    check(session)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            session.run(rows(first=HANG))
        except BackendError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)
    start_s = time.monotonic()
    session.close()
    session.close()
    thread.join(5)
    assert time.monotonic() - start_s < 2
    assert len(errors) == 1
    with pytest.raises(BackendError, match="closed"):
        session.run(rows())
    errors.clear()  # a traceback holds what its frames held
    session = None  # type: ignore[assignment]
    gc.collect()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_the_worker_goes_with_the_process_that_started_it() -> None:
    script = (
        "import sys, time\n"
        "from jetlens.backends.base import SessionOptions\n"
        "from jetlens.backends.isolated import IsolatedSession\n"
        f"session = IsolatedSession(b'', 'sums', SessionOptions(), opener={OPENER!r})\n"
        "print(session.process, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, signal.SIGSTOP)  # even one that cannot see that the socket is closed
        parent.kill()
    until(lambda: not Path(f"/proc/{worker}").exists() or ") Z " in Path(f"/proc/{worker}/stat").read_text(), 5)
