"""How frames come to answers on a session with several runs in flight: in which threads, and without preparing between frames."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coded_cameras import CodedFile, Lane, LanedSession, Pairs, PooledSession, ReadingSession, reading_predictor

from jetlens.errors import InputError, UsageError
from jetlens.pipeline.inference import InFlight, LanedInference, gpu_lanes, open_alike
from jetlens.pipeline.live import LiveOptions, LivePipeline


class AskedSession(LanedSession):
    """Keeps which batches it was asked for."""

    def __init__(self, lanes: int, largest: int) -> None:
        super().__init__(lanes)
        self.asked: list[int] = []
        self._arrays = [np.zeros((largest, *self.inputs[0].shape[1:]), np.uint8) for _ in range(lanes)]  # type: ignore[arg-type]

    def lane(self, batch: int = 1) -> Any:
        self.asked.append(batch)
        return super().lane(batch)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (5, (1, 2, 3, 4, 5)), (16, (2, 4, 6, 8, 10, 12, 14, 16)), (20, (3, 6, 9, 12, 15, 18, 20))]
)
def test_few_sizes_are_made_ready_in_every_lane_and_no_other_is_asked_for(largest: int, sizes: tuple[int, ...]) -> None:
    session = AskedSession(4, largest)
    inference = LanedInference(reading_predictor(session), 4)
    inference.warm(largest)
    assert session.asked == [size for size in sizes for _ in range(4)]
    assert session.lent == 0
    session.asked.clear()
    [part] = inference.parts()
    assert part.holds == 4
    source = list(CodedFile(1, largest))
    for count in range(1, largest + 1):
        flight = InFlight([frame.image_rgb for frame in source[:count]])
        for _, step in part.steps:
            step(flight)
        assert len(inference.answers(flight)) == count
    assert set(session.asked) <= set(sizes)
    assert session.lent == 0


def test_cameras_wait_for_no_batch_to_be_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[int] = []
    monkeypatch.setattr(LanedInference, "warm", lambda inference, largest: warmed.append(largest))

    class Camera(CodedFile):
        def status(self) -> None:
            """Makes it a camera."""

    for source in (CodedFile(0, 1), Camera(0, 1)):
        LivePipeline([source], reading_predictor(LanedSession(2)), Pairs(), options=LiveOptions(4, lanes=2))
    assert warmed == [4]


@pytest.mark.parametrize(
    ("lanes", "slow", "quick", "in_graph"),
    [(2, (2, 0), (2, 0), (1, 1)), (3, (3, 0), (2, 0), (1, 2)), (4, (4, 0), (2, 1), (1, 3)), (8, (8, 0), (2, 1), (1, 3))],
)
def test_threads_and_runs_ahead_by_how_long_preparing_takes(
    lanes: int, slow: tuple[int, int], quick: tuple[int, int], in_graph: tuple[int, int]
) -> None:
    for preprocess, task, live, expected in (
        ({"filter": "antialias"}, "detection", False, slow),
        ({"filter": "linear"}, "detection", False, quick),
        ({"frame_hw": (8, 8)}, "detection", False, in_graph),
        ({"frame_hw": (8, 8)}, "detection", True, quick),
        ({"frame_hw": (8, 8)}, "segmentation", False, quick),
    ):
        predictor = reading_predictor(LanedSession(lanes))
        predictor.spec = replace(predictor.spec, task=task, preprocess=replace(predictor.spec.preprocess, **preprocess))
        [part] = LanedInference(predictor, lanes, live=live).parts()
        assert (part.workers, part.ahead) == expected


def test_frames_are_prepared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = reading_predictor(LanedSession(2))
    preprocess, meeting = predictor.task.preprocess, threading.Barrier(2, timeout=10)

    def together(images: Any, out: Any = None) -> Any:
        meeting.wait()
        return preprocess(images, out)

    monkeypatch.setattr(predictor.task, "preprocess", together)
    pairs = Pairs()
    LivePipeline([CodedFile(0, 30)], predictor, pairs, options=LiveOptions(1, lanes=2)).run()
    assert (pairs.wrong, pairs.numbers) == (0, {0: list(range(30))})


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_that_the_graph_resizes_are_borrowed(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them goes through preprocessing, and each is checked to be of the one size that the graph takes."""
    predictor = reading_predictor(LanedSession(4))
    predictor.spec = replace(predictor.spec, preprocess=replace(predictor.spec.preprocess, frame_hw=(8, 8)))
    monkeypatch.setattr(predictor.task, "preprocess", None)
    pairs = Pairs()
    LivePipeline([CodedFile(0, 30)], predictor, pairs, options=LiveOptions(batch, lanes=4)).run()
    assert (pairs.wrong, pairs.numbers) == (0, {0: list(range(30))})
    [part] = LanedInference(predictor, 4).parts()
    with pytest.raises(InputError, match="export it for this camera"):
        part.steps[0][1](InFlight([np.zeros((8, 9, 3), np.uint8)]))


def test_a_run_whose_answer_cannot_be_read_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong answer is the model's fault and no passing failure of one run."""
    monkeypatch.setattr(Lane, "result", lambda lane: (lane.release(), {"detections": np.zeros((0, 1, 6), np.float32)})[1])
    session = LanedSession(2)
    pipeline = LivePipeline([CodedFile(0, 50)], reading_predictor(session), Pairs(), options=LiveOptions(1, lanes=2))
    with pytest.raises(Exception, match="answers for 0 pictures"):
        pipeline.run()
    assert session.lent == 0


@pytest.mark.parametrize(("cores", "lanes"), [(1, 4), (6, 4), (10, 5), (16, 8), (128, 8)])
def test_lanes_by_the_cores(cores: int, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetlens.pipeline.inference._cores", lambda: cores)
    assert gpu_lanes() == lanes


def test_a_session_that_answers_at_once_prepares_in_one_thread() -> None:
    parts = LivePipeline([CodedFile(0, 1)], reading_predictor(ReadingSession()), Pairs())._inferences[0].parts()
    assert [(part.workers, part.ahead) for part in parts] == [(1, 0), (1, 0)]


def test_models_that_share_threads_have_the_same_parts() -> None:
    """One that several threads may call prepares in them; beside one that only one may call it cannot."""

    class Together(PooledSession):
        at_once = 2

    def parts(*sessions: Any) -> list[tuple[int, list[str]]]:
        found, alike = open_alike([reading_predictor(session) for session in sessions], 2)
        assert all(
            [[name for name, _ in part.steps] for part in one.parts()] == [[name for name, _ in p.steps] for p in alike] for one in found
        )
        return [(part.workers, [name for name, _ in part.steps]) for part in alike]

    assert parts(Together(), Together()) == [(2, ["prepare", "infer"])]
    assert parts(Together(), PooledSession()) == parts(PooledSession(), Together()) == [(1, ["prepare"]), (1, ["infer"])]
    assert parts(LanedSession(2), LanedSession(2)) == [(2, ["prepare", "submit", "infer"])]
    with pytest.raises(UsageError, match="load all of them on one backend"):
        parts(LanedSession(2), PooledSession())
