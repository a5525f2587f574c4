"""V9: the model's process dies, hangs or fails under a running pipeline, which goes on; too often, and it ends with the reason."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from coded_cameras import CodedCamera, CodedFile, ReadingSession, read, reading_predictor

from jetlens.backends.base import SessionOptions
from jetlens.backends.breaker import Breaker, BreakerOpenError
from jetlens.backends.isolated import IsolatedSession
from jetlens.frame import Frame
from jetlens.media.base import Source
from jetlens.pipeline.live import LivePipeline, LiveResult

BACK_S = 3.0
OPENER = "worker_readers:open_reader"
REASONS = {"SIGKILL": "worker died", "SIGSTOP": "worker hung", "exception": "model failed"}


class CountedCamera(CodedCamera):
    """Knows how often it was opened."""

    opened = 0

    def __iter__(self) -> Iterator[Frame]:
        self.opened += 1
        return super().__iter__()


@dataclass
class Answers:
    """Every result with its time."""

    seen: list[tuple[float, int, int]] = field(default_factory=list)
    wrong: int = 0

    def __call__(self, result: LiveResult, drawn: Frame) -> None:
        self.wrong += read(result.prediction) != (result.stream, result.frame.index)
        self.seen.append((time.monotonic(), result.stream, result.frame.index))

    def check(self, streams: int) -> None:
        """Each answer is its own frame's, and none came twice."""
        assert self.wrong == 0
        for stream in range(streams):
            numbers = [index for _, number, index in self.seen if number == stream]
            assert all(before < after for before, after in pairwise(numbers))


def started(pipeline: LivePipeline) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pipeline.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, errors


def wait(condition: Callable[[], object], seconds: float) -> bool:
    end_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.005)
    return bool(condition())


def exact(pipeline: LivePipeline) -> None:
    for stream in pipeline.status().streams:
        assert stream.captured == stream.delivered + stream.under_way + sum(stream.dropped.values())


def killed(fault: str, rounds: int) -> list[float]:
    """Seconds from each fault to the first answer to a frame that was captured after it."""
    model = b"37" if fault == "exception" else b""
    session = IsolatedSession(model, "reader", SessionOptions(), breaker=Breaker(most=1000), opener=OPENER)
    cameras = [CountedCamera(number, 30.0) for number in range(2)]
    answers, back_s = Answers(), []
    rng = random.Random(rounds)
    with session:
        pipeline = LivePipeline(cameras, reading_predictor(session), answers)
        thread, errors = started(pipeline)
        for number in range(rounds):
            assert wait(lambda: len(answers.seen) > 5, 10)
            time.sleep(rng.uniform(0.05, 0.3))
            process = session.process
            starts = session.starts
            assert process is not None
            if fault == "exception":
                assert wait(lambda starts=starts: session.starts > starts, 20)
                fault_s = answers.seen[-1][0]
            else:
                os.kill(process, getattr(signal, fault))
                fault_s = time.monotonic()
            newest = max((index for *_, index in answers.seen), default=0) + 2
            assert wait(lambda newest=newest: any(index > newest for *_, index in answers.seen[-20:]), 10), (
                f"not back after fault {number + 1}"
            )
            back_s.append(time.monotonic() - fault_s)
            exact(pipeline)
        pipeline.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert session.starts > rounds
    assert errors == []
    answers.check(2)
    exact(pipeline)
    assert [camera.opened for camera in cameras] == [1, 1]
    dropped: Counter[str] = Counter()
    for stream in pipeline.status().streams:
        assert stream.under_way == 0
        dropped.update(stream.dropped)
    assert dropped[REASONS[fault]] >= rounds / 2  # one that dies between two frames costs none
    return back_s


@pytest.mark.parametrize(("fault", "rounds"), [("SIGKILL", 3), ("SIGSTOP", 1), ("exception", 2)])
def test_the_pipeline_goes_on_whatever_becomes_of_the_model_s_process(fault: str, rounds: int) -> None:
    assert max(killed(fault, rounds)) <= BACK_S


@pytest.mark.release
@pytest.mark.parametrize(("fault", "rounds"), [("SIGKILL", 20), ("SIGSTOP", 10), ("exception", 20)])
def test_v9_in_full(fault: str, rounds: int, record_property: Callable[[str, object], None]) -> None:
    back_s = killed(fault, rounds)
    record_property("back", f"{sum(seconds <= BACK_S for seconds in back_s)}/{rounds}")
    record_property("back_max_s", round(max(back_s), 3))
    assert max(back_s) <= BACK_S


def test_the_fifth_death_within_a_minute_ends_the_run_with_the_reason() -> None:
    session = IsolatedSession(b"", "reader", SessionOptions(), opener=OPENER)
    camera, answers = CountedCamera(0, 60.0), Answers()
    with session:
        pipeline = LivePipeline([camera], reading_predictor(session), answers)
        thread, errors = started(pipeline)
        for number in range(5):
            assert wait(lambda number=number: session.starts == number + 1 and session.process, 10)
            os.kill(session.process or 0, signal.SIGKILL)
        thread.join(5)
        assert not thread.is_alive()
        busy_s = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - busy_s < 0.1
        assert session.starts == 5
    assert [type(error) for error in errors] == [BreakerOpenError]
    assert str(errors[0]).count("failed 5 times in") == 1
    assert "SIGKILL" in str(errors[0])
    exact(pipeline)
    assert camera.opened == 1


def test_a_file_loses_only_what_was_in_the_model() -> None:
    count = 300
    session = IsolatedSession(b"100", "reader", SessionOptions(), opener=OPENER)
    answers = Answers()
    sources: list[Source] = [CodedFile(0, count)]
    with session:
        pipeline = LivePipeline(sources, reading_predictor(session), answers)
        stats = pipeline.run()
    answers.check(1)
    assert stats.frames == count - 3
    assert sorted({index for *_, index in answers.seen} ^ set(range(count))) == [99, 199, 299]
    (stream,) = pipeline.status().streams
    assert stream.dropped == {"model failed": 3}


class NaiveSession(ReadingSession):
    """What one writes first: pictures are pickled through a pipe, and the answer is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._pipe, other = multiprocessing.Pipe()
        self.worker = multiprocessing.get_context("fork").Process(target=_naive, args=(other,), daemon=True)
        self.worker.start()
        other.close()

    def run(self, inputs: Any) -> Any:
        self._pipe.send(inputs)
        return self._pipe.recv()

    def close(self) -> None:
        self.worker.kill()
        self.worker.join()


def _naive(pipe: Any) -> None:
    session = ReadingSession()
    while True:
        pipe.send(session.run(pipe.recv()))


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
def test_a_plain_worker_never_comes_back(fault: str) -> None:
    """The control: the same faults end the run, or hold it for ever."""
    session, answers = NaiveSession(), Answers()
    camera = CountedCamera(0, 30.0)
    pipeline = LivePipeline([camera], reading_predictor(session), answers)
    thread, errors = started(pipeline)
    try:
        assert wait(lambda: len(answers.seen) > 5, 10)
        os.kill(session.worker.pid or 0, getattr(signal, fault))
        time.sleep(0.3)
        seen = len(answers.seen)
        assert not wait(lambda: len(answers.seen) > seen, BACK_S + 0.5 if fault == "SIGSTOP" else 0.5)
    finally:
        session.close()
        pipeline.stop()
        thread.join(5)
    assert errors or fault == "SIGSTOP"
