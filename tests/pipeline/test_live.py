"""LivePipeline: every answer belongs to its frame, nothing is lost without a reason, and it ends when it is told to."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from coded_cameras import CodedCamera, CodedFile, Lane, LanedSession, Pairs, PooledSession, ReadingSession, read, reading_predictor

from jetlens.backends.immediate import ImmediateLanes
from jetlens.device.proc import process_memory
from jetlens.errors import BackendError, InputError, UsageError
from jetlens.frame import Frame
from jetlens.media.base import Source
from jetlens.pipeline.inference import usual_lanes
from jetlens.pipeline.live import LiveOptions, LivePipeline, LiveResult

RATES = (5.0, 15.0, 25.0, 30.0)


def in_thread(pipeline: LivePipeline) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def check_account(pipeline: LivePipeline) -> None:
    for status in pipeline.status().streams:
        assert status.captured == status.delivered + status.under_way + sum(status.dropped.values())
        assert status.under_way == 0


def pairing(frames: int, session: ReadingSession, options: LiveOptions) -> Pairs:
    pairs = Pairs()
    sources: list[Source] = [CodedFile(camera, frames) for camera in range(4)]
    pipeline = LivePipeline(sources, reading_predictor(session), pairs, options=options)
    stats = pipeline.run()
    check_account(pipeline)
    assert stats.frames == 4 * frames
    assert all(pairs.numbers[camera] == list(range(frames)) for camera in range(4))
    assert all(source.closed for source in sources)  # type: ignore[attr-defined]
    return pairs


@pytest.mark.parametrize("largest", [1, 3, 8])
def test_every_answer_belongs_to_its_frame(largest: int) -> None:
    session = ReadingSession()
    assert pairing(400, session, LiveOptions(largest)).wrong == 0
    assert max(session.batches) == largest


def test_every_answer_belongs_to_its_frame_with_runs_in_flight() -> None:
    session = LanedSession(4)
    assert pairing(200, session, LiveOptions(4, lanes=4)).wrong == 0
    assert session.most == 4
    assert session.lent == 0


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PooledSession, "at_once", 9)


@pytest.mark.usefixtures("several_threads")
def test_every_answer_belongs_to_its_frame_with_runs_at_once() -> None:
    session = PooledSession()
    assert pairing(150, session, LiveOptions(1, lanes=3)).wrong == 0
    assert session.most == 3


def test_runs_at_once_only_where_the_session_allows_it() -> None:
    session = PooledSession()  # no kind that is known for it
    assert pairing(20, session, LiveOptions(1, lanes=3)).wrong == 0
    assert session.most == 1


@pytest.mark.usefixtures("several_threads")
def test_cameras_with_runs_at_once_stay_in_order_and_in_the_account() -> None:
    pairs = Pairs()
    sources: list[Source] = [CodedCamera(number, 200.0, 100) for number in range(3)]
    pipeline = LivePipeline(sources, reading_predictor(PooledSession()), pairs, options=LiveOptions(1, lanes=3))
    pipeline.run()
    assert pairs.wrong == 0
    assert all(numbers == sorted(set(numbers)) for numbers in pairs.numbers.values())
    assert all(0 <= share <= 1.05 for name, share in pipeline.status().busy.items() if name != "decode")
    check_account(pipeline)


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("at", [0, 7])
def test_an_error_in_one_of_several_runs_ends_everything(at: int) -> None:
    session, count = PooledSession(), [0]
    answer = session.run

    def run(inputs: Any) -> Any:
        count[0] += 1
        if count[0] > at:
            raise OSError("gone")
        return answer(inputs)

    session.run = run  # type: ignore[method-assign]
    before = set(threading.enumerate())
    pipeline = LivePipeline(
        [CodedFile(0, 500), CodedCamera(1, 100.0)], reading_predictor(session), Pairs(), options=LiveOptions(1, lanes=3)
    )
    with pytest.raises(BackendError, match="failed 5 times in 0 s and is not tried again; the last time: gone"):
        pipeline.run()
    check_account(pipeline)
    assert not set(threading.enumerate()) - before


@pytest.mark.usefixtures("several_threads")
def test_how_many_runs_at_once_are_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    class Immediate(ImmediateLanes, PooledSession):  # type: ignore[misc]
        at_once = PooledSession.at_once

    class Alone(ImmediateLanes, ReadingSession):  # type: ignore[misc]
        facts = PooledSession.facts

    monkeypatch.setattr("jetlens.pipeline.inference._cores", lambda: 8)
    predictor = reading_predictor(Immediate())
    # threads of a run, cameras, files
    table = {(1, 1, 0): 1, (1, 3, 0): 3, (1, 0, 1): 4, (1, 1, 1): 4, (4, 0, 9): 3, (None, 1, 0): 1, (None, 2, 0): 2, (8, 5, 5): 1}
    assert {row: usual_lanes(predictor, *row) for row in table} == table
    assert usual_lanes(reading_predictor(Alone()), 1, 4, 4) == 1
    monkeypatch.setattr(Alone, "at_once", 2)
    assert usual_lanes(reading_predictor(Alone()), 1, 4, 4) == 4
    assert usual_lanes(reading_predictor(LanedSession(4)), 1, 4, 4) == 4
    monkeypatch.setattr("jetlens.pipeline.inference._cores", lambda: 2)
    assert usual_lanes(reading_predictor(LanedSession(4)), 1, 4, 4) == 4


@pytest.mark.parametrize("where", ["deliver", "result"])
def test_an_error_with_runs_in_flight_leaves_no_thread_waiting_for_a_lane(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = [0]

    def fail(*_: object) -> Any:
        answered[0] += 1
        if answered[0] > 5:
            raise OSError("gone")
        return {"detections": np.zeros((8, 1, 6), np.float32)}

    if where == "result":
        monkeypatch.setattr(LanedSession, "run", lambda session, inputs: {})
        monkeypatch.setattr(Lane, "result", lambda lane: (lane.release(), fail())[1])
    pipeline = LivePipeline(
        [CodedFile(0, 500), CodedFile(1, 500)],
        reading_predictor(LanedSession(2)),
        fail if where == "deliver" else lambda result, drawn: None,
        options=LiveOptions(2, lanes=2),
    )
    thread, errors = in_thread(pipeline)
    thread.join(10)
    assert not thread.is_alive()
    assert [isinstance(error, OSError if where == "deliver" else BackendError) for error in errors] == [True]
    check_account(pipeline)


def test_ctrl_c_in_the_callers_thread_stops_and_is_raised() -> None:
    seen = []

    def deliver(result: LiveResult, drawn: Frame) -> None:
        seen.append(result.frame.index)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    pipeline = LivePipeline([CodedCamera(0, 50.0), CodedCamera(1, 0.0)], reading_predictor(ReadingSession()), deliver)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert set(threading.enumerate()) <= before
    check_account(pipeline)


def test_one_thread_gives_the_same_where_memory_is_short() -> None:
    pairs = Pairs()
    pipeline = LivePipeline(
        [CodedFile(0, 50), CodedFile(1, 30)], reading_predictor(ReadingSession()), pairs, options=LiveOptions(memory_mib=1e-6)
    )
    assert not pipeline.threaded
    assert "in one thread" in pipeline.status().note
    assert pipeline.run().frames == 80
    assert (pairs.wrong, pairs.numbers) == (0, {0: list(range(50)), 1: list(range(30))})


@pytest.mark.release
def test_a_hundred_thousand_pairs(record_property: Callable[[str, object], None]) -> None:
    """V3: 100,000 answers of 4 streams, in batches of up to 8."""
    pairs = pairing(25_000, ReadingSession(), LiveOptions(8))
    record_property("pairs right", f"{100_000 - pairs.wrong}/100000")
    assert pairs.wrong == 0


def test_negative_control_answers_by_the_newest_frame_are_caught() -> None:
    """A loop that asks the model about one frame and names the one that came meanwhile."""
    pairs = Pairs()
    predictor = reading_predictor(ReadingSession())
    frames = list(CodedFile(0, 10))
    for asked, newest in pairwise(frames):
        pairs(LiveResult(newest, predictor(asked.image_rgb), 0.0, 0, 0.0, 1), newest)
    assert pairs.wrong == 9


def test_cameras_beside_a_dead_one_and_a_file() -> None:
    """Cameras lose frames with a reason, the file none; the dead camera holds nobody up."""
    pairs = Pairs()
    sources: list[Source] = [*(CodedCamera(number, 4 * fps) for number, fps in enumerate(RATES)), CodedCamera(4, 0), CodedFile(5, 150)]
    pipeline = LivePipeline(sources, reading_predictor(ReadingSession(0.004)), pairs, options=LiveOptions(6, 0.040))
    thread, errors = in_thread(pipeline)
    until(lambda: len(pairs.numbers.get(5, ())) == 150 and all(len(pairs.numbers.get(c, ())) >= 20 for c in range(4)))
    states = [stream.state for stream in pipeline.status().streams]
    assert states == ["running"] * 4 + ["opening", "ended"]
    pipeline.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert errors == []
    assert pairs.wrong == 0
    assert pairs.numbers[5] == list(range(150))
    assert all(numbers == sorted(set(numbers)) for numbers in pairs.numbers.values())
    check_account(pipeline)
    dropped: Counter[str] = Counter()
    for status in pipeline.status().streams:
        dropped.update(status.dropped)
    assert set(dropped) <= {"newer frame", "stopped"}
    assert pipeline.status().streams[5].dropped == {}
    assert pipeline.status().state == "ended"


def test_a_stuck_consumer_leaves_memory_flat_and_wakes_to_the_newest_frame() -> None:
    """V2: the sink hangs; when it wakes, what is taken next is at most one period old."""
    stuck, taken = threading.Event(), []

    def deliver(result: LiveResult, drawn: Frame) -> None:
        if result.frame.index >= 3:
            stuck.wait()
        taken.append((result.frame.index, time.monotonic()))

    camera = CodedCamera(0, 200.0)
    pipeline = LivePipeline([camera], reading_predictor(ReadingSession()), deliver)
    thread, _ = in_thread(pipeline)
    until(lambda: pipeline.status().streams[0].captured > 200)
    status = pipeline.status().streams[0]
    assert status.under_way <= 12  # one in each of four stages and before each, the newest, and hands between
    stuck.set()
    captured = pipeline.status().streams[0].captured
    until(lambda: len(taken) > 40)
    pipeline.stop()
    thread.join(5)
    # After those that were under way, the first fresh one is not behind the camera.
    assert next(index for index, _ in taken if index > status.captured) >= captured - 2
    check_account(pipeline)


def test_pause_drops_a_cameras_frames_and_keeps_a_files() -> None:
    pairs = Pairs()
    pipeline = LivePipeline([CodedCamera(0, 200.0), CodedFile(1, 2000)], reading_predictor(ReadingSession(0.001)), pairs)
    thread, _ = in_thread(pipeline)
    until(lambda: pipeline.status().streams[0].delivered > 3)
    pipeline.pause()
    until(lambda: pipeline.status().streams[0].dropped.get("paused", 0) > 10)
    until(lambda: pipeline.status().streams[0].under_way == 0)
    before = pipeline.status()
    time.sleep(0.05)
    after = pipeline.status()
    assert (after.state, after.streams[0].state) == ("paused", "paused")
    assert after.streams[0].delivered == before.streams[0].delivered
    pipeline.resume()
    until(lambda: len(pairs.numbers[1]) == 2000)
    pipeline.stop()
    thread.join(5)
    assert (pairs.wrong, pairs.numbers[1]) == (0, list(range(2000)))
    check_account(pipeline)


def test_a_target_rate_is_kept_with_a_reason() -> None:
    pairs = Pairs()
    pipeline = LivePipeline([CodedCamera(0, 100.0, 60)], reading_predictor(ReadingSession()), pairs, options=LiveOptions(most_fps=25.0))
    pipeline.run()
    status = pipeline.status().streams[0]
    assert status.dropped["target rate"] >= 30
    assert status.delivered <= 20
    check_account(pipeline)


def test_one_source_that_fails_does_not_end_the_others() -> None:
    class Cut(CodedFile):
        def __iter__(self) -> Any:
            yield from super().__iter__()
            raise InputError("file 0: cut")

    class Broken(CodedFile):
        def __iter__(self) -> Any:
            raise ZeroDivisionError("a defect")

    pairs = Pairs()
    pipeline = LivePipeline([Cut(0, 5), CodedFile(1, 50), Broken(2, 1)], reading_predictor(ReadingSession()), pairs)
    pipeline.run()
    assert pairs.numbers == {0: list(range(5)), 1: list(range(50))}
    assert {name: str(error) for name, error in pipeline.failures.items()} == {
        "file 0": "file 0: cut",
        "file 2": "file 2: reading failed: ZeroDivisionError: a defect",
    }
    assert pipeline.status().streams[0].reason == "file 0: cut"


@pytest.mark.parametrize("where", ["model", "deliver", "refine", "render"])
def test_an_error_anywhere_ends_everything_and_is_raised_once(where: str) -> None:
    def fail(*_: object) -> Any:
        raise OSError("the disk is full")

    session = ReadingSession()
    if where == "model":
        session.run = fail  # type: ignore[method-assign]
    pipeline = LivePipeline(
        [CodedCamera(0, 100.0), CodedFile(1, 10_000)],
        reading_predictor(session),
        fail if where == "deliver" else Pairs(),
        refine=[fail, fail] if where == "refine" else None,
        render=[fail, fail] if where == "render" else None,
        draws=True,
    )
    before = set(threading.enumerate())
    # A run of the model that fails is borne a few times.
    with pytest.raises(BackendError if where == "model" else OSError, match="disk is full"):
        pipeline.run()
    check_account(pipeline)
    assert not set(threading.enumerate()) - before


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_run_that_fails_costs_only_its_own_frame(lanes: int) -> None:
    session, count = PooledSession(), [0]
    answer = session.run

    def run(inputs: Any) -> Any:
        count[0] += 1
        if count[0] in (3, 17, 40, 41):
            raise ValueError("a bad moment")
        return answer(inputs)

    session.run = run  # type: ignore[method-assign]
    pairs = Pairs()
    pipeline = LivePipeline([CodedFile(0, 60), CodedFile(1, 60)], reading_predictor(session), pairs, options=LiveOptions(1, lanes=lanes))
    pipeline.run()
    assert pairs.wrong == 0
    assert sum(map(len, pairs.numbers.values())) == 116
    assert sum(stream.dropped.get("model failed", 0) for stream in pipeline.status().streams) == 4
    check_account(pipeline)


def test_observers_get_drawn_frames_only_while_they_want_them() -> None:
    class Viewer:
        def __init__(self) -> None:
            self.shown: list[int] = []

        def wanted(self, stream: str) -> bool:
            return len(self.shown) < 5

        def show(self, frame: Frame, prediction: Any) -> None:
            assert read(prediction) == (0, frame.index)
            self.shown.append(frame.index)

    drawn: list[int] = []

    def render(result: LiveResult) -> Frame:
        assert result.fps is not None  # the stream's own rate, for the HUD
        drawn.append(result.frame.index)
        return result.frame

    viewer = Viewer()
    pipeline = LivePipeline([CodedFile(0, 100)], reading_predictor(ReadingSession()), Pairs(), render=[render], observers=[viewer])
    pipeline.run()
    assert viewer.shown == drawn
    assert 5 <= len(drawn) <= 8  # those that were drawn before it had seen enough


def test_the_same_source_twice_has_two_names() -> None:
    class Named(CodedFile):
        def __init__(self, camera: int) -> None:
            super().__init__(camera, 3)
            self.info = type(self.info)(self.info.size_hw, 30.0, 3, "same", "coded")

    seen = []
    pipeline = LivePipeline([Named(0), Named(1)], reading_predictor(ReadingSession()), lambda result, drawn: seen.append(drawn.stream))
    pipeline.run()
    assert Counter(seen) == {"same": 3, "same #2": 3}
    assert pipeline.status().to_dict()["streams"][1]["name"] == "same #2"


def test_limits() -> None:
    class Fixed(ReadingSession):
        inputs = (type(ReadingSession.inputs[0])("images", "uint8", (2, 8, 8, 3)),)

    with pytest.raises(UsageError, match="no source"):
        LivePipeline([], reading_predictor(ReadingSession()), Pairs())
    with pytest.raises(UsageError, match="--max-batch 3: coded takes at most 2"):
        LivePipeline([CodedFile(0, 1)], reading_predictor(Fixed()), Pairs(), options=LiveOptions(3))
    pairs = Pairs()
    LivePipeline([CodedFile(c, 21) for c in range(3)], reading_predictor(Fixed()), pairs).run()
    assert (pairs.wrong, pairs.numbers[2]) == (0, list(range(21)))


@pytest.mark.release
def test_ages_in_real_time(record_property: Callable[[str, object], None]) -> None:
    """V2 in real time: 30 frames a second, 100 ms of work, 60 s; memory after 10 s and at the end."""
    ages: list[tuple[float, float]] = []
    memory_mib: list[float] = []

    def deliver(result: LiveResult, drawn: Frame) -> None:
        ages.append((time.monotonic(), result.age_ms))
        if len(ages) % 100 == 0 and (memory := process_memory()) is not None:
            memory_mib.append(memory.rss_mib)

    pipeline = LivePipeline([CodedCamera(0, 30.0, 1800)], reading_predictor(ReadingSession(0.1)), deliver)
    pipeline.run()
    times, lag = np.array(ages).T
    p99, slope = float(np.percentile(lag, 99)), float(np.polyfit(times, lag, 1)[0])
    record_property("age p99 ms", round(p99, 1))
    record_property("slope ms a second", round(slope, 3))
    record_property("memory growth MiB", round(memory_mib[-1] - memory_mib[0], 1))
    check_account(pipeline)
    assert p99 <= 100 + 2 * 1000 / 30
    assert abs(slope) <= 1
    assert memory_mib[-1] - memory_mib[0] <= 10


@pytest.mark.release
def test_unequal_cameras_in_real_time(record_property: Callable[[str, object], None]) -> None:
    """V3 in real time: 5, 15, 25, 30 frames a second, without and with a dead camera beside them."""

    def measured(dead: bool) -> tuple[list[float], list[float]]:
        ages: dict[int, list[float]] = {}
        sources: list[Source] = [CodedCamera(number, fps, int(20 * fps)) for number, fps in enumerate(RATES)]
        sources += [CodedCamera(4, 0.0)] if dead else []
        deliver = lambda result, drawn: ages.setdefault(result.stream, []).append(result.age_ms)  # noqa: E731
        pipeline = LivePipeline(sources, reading_predictor(ReadingSession(0.005)), deliver, options=LiveOptions(5, 0.040))
        thread, errors = in_thread(pipeline)
        until(lambda: all(stream.state == "ended" for stream in pipeline.status().streams[:4]), 60)
        pipeline.stop()
        thread.join(5)
        assert errors == []
        check_account(pipeline)
        return [float(np.percentile(ages[c], 99)) for c in range(4)], [len(ages[c]) / (20 * RATES[c]) for c in range(4)]

    alone, _ = measured(False)
    beside, shares = measured(True)
    record_property("p99 ms without and with a dead camera", [(round(a), round(b)) for a, b in zip(alone, beside, strict=True)])
    record_property("least share of frames", round(min(shares), 3))
    assert all(b <= a + 40 for a, b in zip(alone, beside, strict=True))
    assert min(shares) >= 0.95
