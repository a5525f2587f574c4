"""N4, same answer: a model on the CPU answers equal pictures equally, however often, from however many threads, in whatever batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from jetlens.backends import BACKENDS
from jetlens.backends.base import SessionOptions
from jetlens.data.samples import orange_line_samples
from jetlens.predictor import model_path
from jetlens.spec import read_model
from jetlens.tasks import TASKS

BATCH = 8
TOLERANCE = 1e-5  # of the outputs' spread, from batch to batch
THREADS = 4


def unequal(outputs: Iterator[Any], expected: Any) -> int:
    return sum(not np.array_equal(found, expected) for found in outputs)


def pictures(model: str) -> tuple[bytes, Any]:
    content, spec = read_model(model_path(model))
    images = [sample.image for sample, _ in zip(orange_line_samples(spec.task, BATCH), range(BATCH), strict=False)]
    return content, TASKS.load(spec.task)(spec).preprocess(images).array.copy()


def count_differences(backend: str, model: str, repeats: int) -> tuple[int, float]:
    """Repeats whose outputs are not bit-equal, among them those of several threads; and the largest relative difference from batch 1 to 8."""
    content, batch = pictures(model)
    with BACKENDS.load(backend).open(content, SessionOptions(precision="fp32", threads=1)) as session:
        feed, name = session.inputs[0].name, session.outputs[0].name
        expected = session.run({feed: batch})[name]

        def again(_: int) -> Any:
            return session.run({feed: batch})[name]

        wrong = unequal((again(number) for number in range(repeats // 2)), expected)
        single = np.concatenate([session.run({feed: batch[i : i + 1]})[name] for i in range(BATCH)])
    sessions = [BACKENDS.load(backend).open(content, SessionOptions(precision="fp32", threads=1)) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(0, repeats - repeats // 2, THREADS):
            rows = pool.map(lambda own: own.run({feed: batch})[name], sessions[: repeats - repeats // 2 - number])
            wrong += unequal(rows, expected)
    for own in sessions:
        own.close()
    spread = float(expected.astype(np.float64).std()) or 1.0
    return wrong, float(np.abs(single.astype(np.float64) - expected).max()) / spread


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "pytorch"])
def test_a_model_answers_equal_pictures_equally(backend: str) -> None:
    why = BACKENDS.load(backend).unavailable()
    if why:
        pytest.skip(why)
    wrong, off = count_differences(backend, "orange-grade", 12)
    assert wrong == 0
    assert off <= TOLERANCE


def test_a_difference_in_the_last_bit_is_seen() -> None:
    """The control: a runtime that adds noise fails."""
    expected = np.float32([1.0, 2.0])
    assert unequal(iter([expected, np.nextafter(expected, np.float32(9))]), expected) == 1


@pytest.mark.release
@pytest.mark.parametrize("backend", ["onnxruntime", "pytorch"])
def test_a_thousand_times(backend: str, record_property: Any) -> None:
    wrong, off = count_differences(backend, "orange-grade", 1000)
    record_property("repeats that were not bit-equal", f"{wrong}/1000")
    record_property("largest difference from batch 1 to 8, of the spread", f"{off:.1e}")
    assert wrong == 0
    assert off <= TOLERANCE
