"""Classification: scores to the best classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jetlens.errors import ModelError, UnknownNameError, UsageError
from jetlens.spec import ModelSpec, PreprocessSpec
from jetlens.tasks.base import TaskOptions
from jetlens.tasks.classification import ClassificationTask

IMAGES = [np.zeros((30, 40, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]


def task(decoder: str = "logits", options: TaskOptions = TaskOptions(), **changes: Any) -> ClassificationTask:  # noqa: B008
    labels = changes.pop("labels", ("ant", "bee", "cat", "dog"))
    return ClassificationTask(ModelSpec("m", "classification", labels, PreprocessSpec((16, 16)), decoder, **changes), options)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1, 1), (2, 1, 1, 4)])
def test_logits_of_any_shape(shape: tuple[int, ...]) -> None:
    logits = np.array([[0, 1, 5, 2], [9, 9, 0, -1000]], np.float32)
    subject = task(options=TaskOptions(top=3))
    first, second = subject.postprocess({"logits": logits.reshape(shape)}, subject.preprocess(IMAGES))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert first.class_id.tolist() == [2, 3, 1]
    assert np.allclose(first.confidence, expected[0][[2, 3, 1]], atol=1e-6)
    assert first.label == "cat"
    assert first.size_hw == (30, 40)
    assert second.class_id.tolist() == [0, 1, 2], "of equals, the first stands first"
    assert second.confidence.dtype == np.float32


def test_large_logits_do_not_overflow() -> None:
    """A softmax without its shift answers NaN here."""
    logits = np.array([[1000.0, 900.0, 0.0, -1000.0]], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan((np.exp(logits) / np.exp(logits).sum()).max())
    subject = task()
    assert subject.postprocess({"y": logits}, subject.preprocess(IMAGES[:1]))[0].confidence[0] == 1


def test_probabilities_stay_as_they_are() -> None:
    subject = task("probabilities")
    result = subject.postprocess({"p": np.array([[0.1, 0.2, 0.3, 0.4]], np.float16)}, subject.preprocess(IMAGES[:1]))[0]
    assert np.allclose(result.confidence, [0.4, 0.3, 0.2, 0.1], atol=1e-3)


def test_background_without_a_label_is_no_answer() -> None:
    subject = task("probabilities", label_offset=1)
    result = subject.postprocess({"p": np.array([[0.9, 0.0, 0.06, 0.04, 0.0]], np.float32)}, subject.preprocess(IMAGES[:1]))[0]
    assert result.class_id.tolist()[:2] == [1, 2]
    assert result.label == "bee"
    assert len(result.class_id) == 4


def test_named_output_is_taken() -> None:
    outputs = {"features": np.ones((1, 9), np.float32), "scores": np.array([[0, 0, 0, 1]], np.float32)}
    subject = task(decoder_options={"output": "scores"})
    assert subject.postprocess(outputs, subject.preprocess(IMAGES[:1]))[0].label == "dog"
    wrong = task(decoder_options={"output": "other"})
    with pytest.raises(ModelError, match="no output 'other'; the graph answers features, scores"):
        wrong.postprocess(outputs, wrong.preprocess(IMAGES[:1]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    """Negative control: argmax alone answers a class."""
    logits = np.array([[0, bad, 1, 2]], np.float32)
    assert logits.argmax() in range(4)
    subject = task()
    with pytest.raises(ModelError, match="output 'logits' has 1 of 4 values NaN or infinite"):
        subject.postprocess({"logits": logits}, subject.preprocess(IMAGES[:1]))


def test_shapes_that_are_no_classification_are_refused() -> None:
    subject = task()
    batch = subject.preprocess(IMAGES)
    for shape in ((1, 4), (2, 4, 7, 7), (2,)):
        with pytest.raises(ModelError, match="shape"):
            subject.postprocess({"logits": np.zeros(shape, np.float32)}, batch)
    with pytest.raises(ModelError, match="nothing"):
        subject.postprocess({}, batch)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="logits, probabilities"):
        task("softmax")
    with pytest.raises(UsageError, match="top"):
        task(options=TaskOptions(top=0))
    with pytest.raises(UsageError, match="confidence is 50"):
        task(options=TaskOptions(confidence=50))
