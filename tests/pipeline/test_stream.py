"""predict_stream: threads change nothing but the time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetlens import overlay
from jetlens.backends.base import RunFacts
from jetlens.errors import VideoError
from jetlens.frame import Frame
from jetlens.media import StreamInfo, open_sink, open_source
from jetlens.ops.buffers import BufferPool
from jetlens.pipeline import Renderer, Result, StreamStats, predict_stream
from jetlens.pipeline.render import summary
from jetlens.predictor import Predictor
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions


class FakeSession:
    """A detector whose one box depends on every pixel it is given."""

    inputs = (TensorSpec("images", "uint8", ("N", 32, 48, 3)),)
    outputs = (TensorSpec("detections", "float32", ("N", 4, 6)),)
    facts = RunFacts("fake", "1", "CPU", "none", "fp32")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        mean = pixels.reshape(len(pixels), -1).mean(axis=1)
        out = np.zeros((len(pixels), 4, 6), np.float32)
        out[:, 0] = np.stack([mean / 8, mean / 16, mean / 8 + 12, mean / 16 + 9, np.full_like(mean, 0.9), mean % 2 // 1], axis=1)
        return {"detections": out}

    def close(self) -> None: ...

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def predictor() -> Predictor:
    spec = ModelSpec("fake", "detection", ("plum", "pear"), PreprocessSpec((32, 48), filter="linear"), "detections")
    return Predictor(TASKS.load("detection")(spec, TaskOptions()), FakeSession())


def frames(count: int, size_hw: tuple[int, int] = (60, 90), seen: set[int] | None = None) -> Any:
    """Noise; ``seen`` receives the address of each frame's memory."""
    pool = BufferPool(32)
    for index in range(count):
        image = pool.take((*size_hw, 3))
        image[...] = np.random.default_rng(index).integers(0, 255, (*size_hw, 3), np.uint8)
        if seen is not None:
            seen.add(image.__array_interface__["data"][0])
        yield Frame(image, index, index / 30, 0.0, "test")


def run(predictor: Predictor, count: int, **options: Any) -> tuple[list[tuple[int, bytes, bytes]], StreamStats]:
    out: list[tuple[int, bytes, bytes]] = []

    def deliver(result: Result, drawn: Frame) -> None:
        assert isinstance(result.prediction, Detections)
        out.append((drawn.index, result.prediction.xyxy.tobytes(), drawn.image_rgb.tobytes()))

    stats = predict_stream(frames(count), predictor, Renderer(predictor.facts, hud=False), deliver, **options)
    return out, stats


def test_threads_give_the_same_as_one_frame_by_frame(predictor: Predictor) -> None:
    plain, _ = run(predictor, 40, threaded=False)
    assert len({boxes for _, boxes, _ in plain}) > 30  # each frame has its own answer
    assert [index for index, _, _ in plain] == list(range(40))
    for depth in (1, 2, 4):
        threaded, stats = run(predictor, 40, depth=depth)
        assert threaded == plain
        assert stats.frames == 40
        assert list(stats.stages) == ["decode", "prepare", "infer", "draw", "encode"]


def test_negative_control_one_shared_frame_buffer_mixes_frames(predictor: Predictor) -> None:
    """Reusing one array for all frames, as a naive `read(into)` loop does, is caught by the comparison above."""
    plain, _ = run(predictor, 40, threaded=False)
    shared = np.empty((60, 90, 3), np.uint8)

    def naive() -> Any:
        for frame in frames(40):
            shared[...] = frame.image_rgb
            yield Frame(shared, frame.index, frame.pts_s, 0.0, "test")

    out: list[bytes] = []
    waiting = threading.Event()

    def deliver(result: Result, drawn: Frame) -> None:
        waiting.wait(0.002)
        out.append(drawn.image_rgb.tobytes())

    predict_stream(naive(), predictor, Renderer(predictor.facts, hud=False), deliver)
    assert out != [image for _, _, image in plain]


def test_memory_does_not_grow_with_the_length(predictor: Predictor) -> None:
    def places(count: int, kept: list[Frame] | None = None) -> int:
        seen: set[int] = set()
        deliver = (lambda result, drawn: None) if kept is None else (lambda result, drawn: kept.append(drawn))
        predict_stream(frames(count, seen=seen), predictor, Renderer(predictor.facts), deliver)
        return len(seen)

    # Thirteen frames may be under way, and the source makes one and still holds another.
    assert places(200) <= 15
    # Negative control: a program that collects its frames is seen.
    assert places(60, []) == 60


def test_a_video_through_a_model_and_back(predictor: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("av")
    source_path, out_path = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with open_sink(source_path, StreamInfo((60, 90), 30.0, None, "", "")) as sink:
        for frame in frames(25):
            sink.write(frame)
    with open_source(source_path) as source, open_sink(out_path, source.info) as sink:
        stats = predict_stream(source, predictor, Renderer(predictor.facts), lambda result, drawn: sink.write(drawn))
    assert stats.frames == 25
    with open_source(out_path) as source:
        assert (source.info.size_hw, source.info.fps) == ((60, 90), 30.0)
        assert len(list(source)) == 25


def test_a_cut_video_gives_what_decodes_and_says_so(predictor: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "in.mkv"
    with open_sink(path, StreamInfo((60, 90), 30.0, None, "", "")) as sink:
        for frame in frames(60):
            sink.write(frame)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    delivered: list[int] = []
    with open_source(path) as source:
        stats = predict_stream(source, predictor, Renderer(predictor.facts), lambda result, drawn: delivered.append(drawn.index))
    assert 0 < stats.frames < 60
    assert delivered == list(range(stats.frames))
    assert isinstance(stats.ended_by, VideoError)


def test_the_hud_takes_the_streams_own_rate_where_there_is_one(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live view draws few of the frames that are delivered: their rate is not the stream's."""
    written: list[list[str]] = []
    monkeypatch.setattr(overlay, "draw_hud", lambda image, lines: written.append(list(lines)))
    renderer = Renderer(predictor.facts)
    frame = next(frames(1))
    prediction = predictor(frame.image_rgb)
    renderer(Result(frame, prediction, 7.0, fps=29.97))
    renderer(Result(frame, prediction, 7.0, fps=29.97, inferred=False))
    assert [lines[0] for lines in written] == ["30.0 FPS   7.0 ms", "30.0 FPS   carried over"]


def test_the_hud_says_rate_latency_classes_and_backend(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[str]] = []
    monkeypatch.setattr(overlay, "draw_hud", lambda image, lines: written.append(list(lines)))
    ticks = iter([0.0, 0.5, 1.0])
    renderer = Renderer(predictor.facts, clock=lambda: next(ticks))
    for frame in frames(2):
        renderer(Result(frame, predictor(frame.image_rgb), 12.34))
    assert [lines[0] for lines in written] == ["2.0 FPS   12.3 ms", "2.0 FPS   12.3 ms"]
    assert written[0][1] in ("1 plum", "1 pear")
    assert "fake" in written[0][2]


def test_the_hud_hides_no_label(predictor: Predictor) -> None:
    """Negative control: without a HUD the label stands above the box, where the HUD would be."""
    found = Detections(np.array([[10, 30, 60, 160]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), (240, 320), ("plum",))
    rows = []
    for hud in (False, True):
        frame = Frame(np.full((240, 320, 3), 90, np.uint8), 0, 0.0, 0.0, "test")
        drawn = Renderer(predictor.facts, hud=hud)(Result(frame, found, 7.0)).image_rgb
        rows.append(np.flatnonzero((drawn == overlay.BOX_COLOURS[0]).all(axis=2)[:100].sum(axis=1) > 10))
    without, with_hud = rows
    assert without[0] < 20
    assert len(with_hud) >= 12, "covered"
    assert with_hud[0] > 40


def test_summaries() -> None:
    boxes = Detections(
        np.zeros((6, 4), np.float32), np.ones(6, np.float32), np.array([0, 1, 1, 2, 3, 4]), (9, 9), ("a", "b", "c", "d", "e")
    )
    assert summary(boxes) == "2 b, 1 a, 1 c, 1 d, +1 more"
    assert summary(boxes[:0]) == "nothing"
    assert summary(Classification(np.array([1]), np.array([0.5], np.float32), (9, 9), ("a", "b"))) == "b 0.50"
    mask = np.zeros((10, 10), np.uint8)
    mask[:2] = 2
    assert summary(Segmentation(mask, ("background", "x", "y"))) == "y 20.0%"
