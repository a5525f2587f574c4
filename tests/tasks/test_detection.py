"""Detection: candidates to boxes in the source picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.errors import ModelError, UnknownNameError
from jetlens.labels import labels
from jetlens.results import Detections
from jetlens.spec import ModelSpec, PreprocessSpec
from jetlens.tasks.base import TaskOptions
from jetlens.tasks.detection import DetectionTask

CANVAS = PreprocessSpec((64, 96), "letterbox")


def task(options: TaskOptions = TaskOptions(), preprocess: PreprocessSpec = CANVAS, **changes: Any) -> DetectionTask:  # noqa: B008
    changes.setdefault("labels", ("ant", "bee", "cat"))
    return DetectionTask(ModelSpec("m", "detection", preprocess=preprocess, decoder="detections", **changes), options)


def run(subject: DetectionTask, rows: list[list[float]], hw: tuple[int, int] = (32, 96)) -> Detections:
    batch = subject.preprocess([np.zeros((*hw, 3), np.uint8)])
    padded = np.zeros((1, 20, 6), np.float32)
    padded[0, : len(rows)] = rows or np.empty((0, 6))
    return subject.postprocess({"detections": padded}, batch)[0]


def test_boxes_come_back_to_the_source_picture() -> None:
    # A picture of 32x96 stands 16 rows down on a canvas of 64x96.
    found = run(task(), [[10, 20, 30, 40, 0.9, 1]])
    assert found.xyxy.tolist() == [[10, 4, 30, 24]]
    assert found.class_id.tolist() == [1]
    assert list(found.names()) == ["bee"]
    assert found.size_hw == (32, 96)


def test_overlaps_of_a_class_are_suppressed_and_the_best_stands_first() -> None:
    rows = [[0, 16, 40, 40, 0.6, 0], [1, 17, 41, 41, 0.9, 0], [0, 16, 40, 40, 0.7, 2], [60, 20, 80, 40, 0.8, 0]]
    found = run(task(), rows)
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(run(task(TaskOptions(iou=1.0)), rows)) == 4


def test_thresholds_of_the_user_stand_over_the_models() -> None:
    rows = [[0, 16, 40, 40, 0.3, 0], [50, 20, 80, 40, 0.8, 0]]
    assert len(run(task(confidence=0.25), rows)) == 2
    assert len(run(task(TaskOptions(confidence=0.5), confidence=0.25), rows)) == 1
    assert len(run(task(TaskOptions(confidence=0.0)), rows)) == 2, "rows of padding are no detections"


def test_boxes_are_clipped_and_those_without_an_area_dropped() -> None:
    rows = [[-20, 0, 200, 64, 0.9, 0], [0, 0, 90, 10, 0.8, 1], [30, 30, 30, 40, 0.7, 1], [40, 40, 30, 50, 0.6, 2]]
    found = run(task(), rows)
    assert found.xyxy.tolist() == [[0, 0, 96, 32]], "one box in the padding, one a line, one inside out"


def test_gaps_in_the_ids_have_a_name() -> None:
    """A dictionary of the 80 classes raises KeyError for the ids that COCO does not use."""
    subject = task(labels=labels("coco91"))
    found = run(subject, [[0, 16, 20, 40, 0.9, 12], [40, 16, 60, 40, 0.8, 18], [70, 16, 90, 40, 0.7, 250]])
    assert list(found.names()) == ["class 12", "dog", "class 250"]
    assert [row["label"] for row in found.to_dict()["detections"]] == ["class 12", "dog", "class 250"]


def test_label_offset_drops_the_background() -> None:
    found = run(task(label_offset=1), [[0, 16, 20, 40, 0.9, 0], [40, 16, 60, 40, 0.8, 1]])
    assert list(found.names()) == ["ant"]


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_nothing_found(column: int, bad: float) -> None:
    row = [10.0, 20.0, 30.0, 40.0, 0.9, 1.0]
    row[column] = bad
    # Negative control: comparing with the threshold alone finds nothing and says nothing.
    assert not (np.array([np.nan]) >= 0.5).any()
    with pytest.raises(ModelError, match=r"NaN|infinite"):
        run(task(), [row])


def test_a_batch_answers_as_single_pictures() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(0, 40, (4, 20, 2)), rng.uniform(41, 64, (4, 20, 2)), rng.uniform(0, 1, (4, 20, 1))], axis=2)
    rows = np.concatenate([rows, rng.integers(0, 3, (4, 20, 1))], axis=2).astype(np.float32)
    subject = task(TaskOptions(confidence=0.3))
    images = [np.zeros((40 + 9 * i, 70 + 5 * i, 3), np.uint8) for i in range(4)]
    together = subject.postprocess({"detections": rows}, subject.preprocess(images))
    for i, image in enumerate(images):
        alone = subject.postprocess({"detections": rows[i : i + 1]}, subject.preprocess([image]))[0]
        assert alone.to_dict() == together[i].to_dict()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.tuples(st.floats(0.3, 0.5), st.floats(0.3, 0.5), st.floats(0.55, 0.7), st.floats(0.55, 0.7)),
)
def test_what_stands_in_the_picture_is_found_there(rule: str, hw: tuple[int, int], box: tuple[float, ...]) -> None:
    subject = task(preprocess=PreprocessSpec((64, 96), rule))  # type: ignore[arg-type]
    true = np.array([box], np.float32) * np.array([hw[1], hw[0]] * 2, np.float32)
    batch = subject.preprocess([np.zeros((*hw, 3), np.uint8)])
    on_canvas = batch.placements[0].boxes_to_canvas(true)
    output = np.concatenate([on_canvas, [[0.9, 1]]], axis=1)[None].astype(np.float32)
    found = subject.postprocess({"detections": output}, batch)[0]
    assert np.abs(found.xyxy - true).max() < 0.02


def test_unknown_decoder_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="yolov8"):
        DetectionTask(ModelSpec("m", "detection", (), CANVAS, "yolov99"))
