"""V10: four cameras on real sockets that fail again and again, for minutes: nothing grows, nothing ages, and all come back.

Five minutes with a fault every 15 s in ``make test-release``; the goal's thirty minutes with a fault a minute are
``JETLENS_SOAK_MINUTES=30 python -m pytest -m release tests/pipeline/test_soak.py``.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1] / "media" / "live"))

from fake_mjpeg import BITS, FAULTS, FakeCamera, number_of
from fake_rtsp import FakeRtspCamera

from jetlens import load
from jetlens.device.proc import process_memory
from jetlens.frame import Frame
from jetlens.media import open_source
from jetlens.pipeline import Renderer
from jetlens.pipeline.live import LivePipeline, LiveResult
from jetlens.pipeline.outputs import Outputs
from jetlens.results import Prediction

CAMERAS = 4
FPS = 15.0
OUTAGE_S = 2.0
MINUTES = float(os.environ.get("JETLENS_SOAK_MINUTES", "5"))
GROWTH_MIB = 5.0
"""What memory may grow by after the first minute, or the fifth of thirty, in which pools, encoders and the runtime reach their size."""
SLACK_MS = 20.0
"""For other work on the machine: a third of the time between two frames."""


def serve_cameras(pipe: Any) -> None:
    """Cameras in a process of their own, so that only the pipeline's memory is looked at; told ``(camera, fault)``, or '' to heal."""
    cameras = [(FakeCamera if number % 2 == 0 else FakeRtspCamera)(fps=FPS) for number in range(CAMERAS)]
    pipe.send([camera.uri for camera in cameras])
    while (told := pipe.recv()) is not None:
        number, fault = told
        if fault:
            cameras[number].fail(fault)
        else:
            cameras[number].heal()
        pipe.send(cameras[number].number)
    for camera in cameras:
        camera.close()


@contextmanager
def fake_cameras() -> Iterator[tuple[list[str], Callable[[int, str], int]]]:
    """Addresses, and how to let one fail or heal, which answers the number of its picture at that moment."""
    mine, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve_cameras, args=(other,))
    process.start()
    try:
        uris = mine.recv()

        def tell(number: int, fault: str) -> int:
            mine.send((number, fault))
            told: int = mine.recv()
            return told

        yield uris, tell
        mine.send(None)
    finally:
        process.join(10)
        process.kill()


@dataclass(slots=True)
class Moment:
    """What the process held at one time."""

    at_s: float
    rss_mib: float
    files: int
    threads: int


class Rows:
    """Rows of numbers in memory that is taken at the start: what is noted here must not look like what grows there."""

    def __init__(self, most: float, columns: int) -> None:
        self._rows = np.ones((int(most), columns))
        self.count = 0

    def add(self, *values: float) -> None:
        self._rows[self.count] = values
        self.count += 1

    def all(self) -> NDArray[np.float64]:
        return self._rows[: self.count]


@dataclass
class Soak:
    """What was seen.

    Attributes:
        moments: as ``Moment``.
        ages: of answers: when, and how many milliseconds.
        back_s: from the camera's return to its next answer, a value a fault.
        stale: answers after a return to pictures from before it, and pictures that came again or are damaged.
    """

    moments: Rows
    ages: Rows
    back_s: list[float] = field(default_factory=list)
    lost: int = 0
    stale: int = 0
    newest: list[int] = field(default_factory=lambda: [-1] * CAMERAS)
    started_s: float = field(default_factory=time.monotonic)

    def look(self, seconds: float) -> None:
        """Waits, and notes what the process holds meanwhile."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            memory = process_memory(os.getpid())
            assert memory is not None
            held = memory.rss_mib, len(os.listdir("/proc/self/fd")), threading.active_count()
            self.moments.add(time.monotonic() - self.started_s, *held)
            time.sleep(0.2)

    def reader(self, stream: int) -> Callable[[Prediction, Frame], Prediction]:
        """Reads the number of every picture that is answered, before anything is drawn into it."""

        def read(prediction: Prediction, frame: Frame) -> Prediction:
            number = number_of(frame.image_rgb)
            self.stale += not self.newest[stream] < number < 2**BITS
            self.newest[stream] = number
            return prediction

        return read

    def between(self, start_s: float, end_s: float) -> list[Moment]:
        rows = self.moments.all()
        return [
            Moment(at_s, rss_mib, int(files), int(threads))
            for at_s, rss_mib, files, threads in rows[(rows[:, 0] >= start_s) & (rows[:, 0] < end_s)].tolist()
        ]

    def growth_mib(self, first_s: tuple[float, float], last_s: tuple[float, float]) -> float:
        first, last = (median(moment.rss_mib for moment in self.between(*window)) for window in (first_s, last_s))
        return last - first

    def p99_ms(self, start_s: float, end_s: float) -> float:
        at_s, ages_ms = self.ages.all().T
        return float(np.percentile(ages_ms[(at_s >= start_s) & (at_s < end_s)], 99))


def run_soak(folder: Path, seconds: float, every_s: float, deliver: Callable[[LiveResult, Frame], None] | None = None) -> Soak:
    """Runs four cameras through a model into videos and JSON lines, with a fault every so often."""
    rng = np.random.default_rng(0)
    # A look takes 0.2 s at least; cameras are opened before the time begins.
    soak = Soak(Rows(6 * seconds + 100, 4), Rows(1.2 * FPS * CAMERAS * (seconds + 20), 2))
    with fake_cameras() as (uris, tell), load("orange-grade", "onnxruntime", threads=1) as predictor:
        sources = [open_source(uri) for uri in uris]
        facts, spec = predictor.facts, predictor.spec
        outputs = Outputs([str(folder), str(folder / "a.jsonl")], [source.info for source in sources], facts, spec.task, segment_s=5.0)

        def take(result: LiveResult, drawn: Frame) -> None:
            outputs.write(result, drawn)
            soak.ages.add(time.monotonic() - soak.started_s, result.age_ms)
            if deliver is not None:
                deliver(result, drawn)

        refine = [soak.reader(number) for number in range(CAMERAS)]
        render = [Renderer(facts) for _ in sources]
        pipeline = LivePipeline(sources, predictor, take, render=render, draws=True, refine=refine)
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        try:
            wait(lambda: all(stream.delivered for stream in pipeline.status().streams), 20)
            soak.started_s = time.monotonic()
            faults, next_s = 0, every_s / 3
            while (now_s := time.monotonic() - soak.started_s) < seconds:
                if now_s >= next_s and seconds - now_s > OUTAGE_S + 3:
                    one_fault(soak, tell, faults % CAMERAS, FAULTS[faults % len(FAULTS)])
                    faults, next_s = faults + 1, next_s + every_s * float(rng.uniform(0.9, 1.1))
                soak.look(0.2)
        finally:
            pipeline.stop()
            thread.join(10)
            outputs.close()
    assert not thread.is_alive()
    for stream in pipeline.status().streams:
        assert stream.captured == stream.delivered + sum(stream.dropped.values())
        assert stream.delivered > 0.8 * FPS * seconds * (1 - (OUTAGE_S + 1) / every_s / CAMERAS)
    assert faults >= 0.8 * (seconds - OUTAGE_S - 3) / every_s - 1
    return soak


def one_fault(soak: Soak, tell: Callable[[int, str], int], number: int, fault: str) -> None:
    tell(number, fault)
    soak.look(OUTAGE_S)
    before = tell(number, "")
    healed_s = time.monotonic()
    back = wait(lambda: soak.newest[number] >= before, 10)
    soak.lost += not back
    soak.back_s.append(time.monotonic() - healed_s)


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    end_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.005)
    return condition()


def resources() -> tuple[int, int]:
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _needs() -> None:
    pytest.importorskip("av")
    pytest.importorskip("onnxruntime")
    # Both keep files open from their first use on.
    load("orange-grade", "onnxruntime").close()
    resource_tracker.ensure_running()


def flat(counts: list[int]) -> bool:
    """Whether a count stays that goes up and down by reconnections and new files: what leaks raises its usual lowest and highest value."""
    half = len(counts) // 2
    before, after = np.percentile(counts[:half], (10, 90)), np.percentile(counts[half:], (10, 90))
    return bool((after <= before + 1).all())


def test_a_count_that_creeps_is_seen() -> None:
    """The control: one file left open every ten looks."""
    assert flat([23, 25, 24, 23] * 50)
    assert not flat([23 + look % 3 + look // 10 for look in range(100)])


def test_ten_seconds_with_faults_and_a_leak_that_is_seen(tmp_path: Path) -> None:
    """The control: a consumer that keeps its frames is what the limit on memory must not let pass."""
    kept: list[Any] = []
    before = resources()
    soak = run_soak(tmp_path, 10, 3.0, lambda result, drawn: kept.append(np.ones((200, 100, 3), np.uint8)))
    assert soak.lost == 0
    assert soak.stale == 0
    assert len(soak.back_s) >= 2
    assert max(soak.back_s) <= 2.0
    assert wait(lambda: resources() <= before, 5)
    assert soak.growth_mib((1, 5), (7, 11)) > GROWTH_MIB


@pytest.mark.release
def test_minutes_of_faults(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    before = resources()
    seconds = 60 * MINUTES
    every_s = 60.0 if MINUTES >= 30 else 15.0
    soak = run_soak(tmp_path, seconds, every_s)
    long = MINUTES >= 30
    part_s = seconds / 6 if long else 60.0
    first, last = (60.0, 60.0 + part_s), (seconds - part_s, seconds)
    # The goal says from minute 5 to 30 for memory: by then most kinds of fault have come for the first time.
    growth_mib = soak.growth_mib((300.0, 360.0), (seconds - 60, seconds)) if long else soak.growth_mib(first, last)
    p99_ms = soak.p99_ms(*first), soak.p99_ms(*last)
    record_property("minutes", MINUTES)
    record_property("recovered", f"{len(soak.back_s) - soak.lost}/{len(soak.back_s)}")
    record_property("recovery_max_s", round(max(soak.back_s), 3))
    record_property("growth_mib", round(growth_mib, 2))
    minutes = range(int(seconds) // 60)
    record_property("rss_mib", [round(median(moment.rss_mib for moment in soak.between(60 * at, 60 * at + 60)), 1) for at in minutes])
    record_property("age_p99_ms", [round(value, 1) for value in p99_ms])
    held = soak.between(first[0], last[1])
    record_property("threads", dict(Counter(moment.threads for moment in held).most_common(3)))
    record_property("files", dict(Counter(moment.files for moment in held).most_common(3)))
    record_property("answers", soak.ages.count)
    assert soak.lost == 0
    assert soak.stale == 0
    assert max(soak.back_s) <= 2.0
    assert growth_mib <= GROWTH_MIB
    assert p99_ms[1] <= 1.1 * p99_ms[0] + SLACK_MS
    assert flat([moment.threads for moment in held])
    assert flat([moment.files for moment in held])
    assert wait(lambda: resources() <= before, 5)
