"""The engine cache and adopted plans on a real GPU: the second run loads, and nothing reaches TensorRT that nobody vouched for (rows C5, C9, M4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.backends import tensorrt
from jetlens.backends.base import SessionOptions
from jetlens.engines.cache import obtain
from jetlens.errors import BackendError
from jetlens.export.adopt import AdoptOptions, adopt
from jetlens.predictor import load

pytestmark = pytest.mark.gpu
LABELS = ("good", "mould", "scar", "green")


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every plan that a session hands to TensorRT."""
    seen: list[bytes] = []
    real = tensorrt.open_plan

    def spy(module: Any, plan: bytes, *rest: Any) -> Any:
        seen.append(plan)
        return real(module, plan, *rest)

    monkeypatch.setattr(tensorrt, "open_plan", spy)
    return seen


def test_the_second_run_loads_in_a_tenth_of_the_time(
    cache: Path, grade: bytes, quick: SessionOptions, record_property: Callable[[str, object], None]
) -> None:
    times, engines = [], []
    for _ in range(2):
        start = time.perf_counter()
        engines.append(obtain(grade, quick.build, name="grade"))
        times.append(time.perf_counter() - start)
    record_property("build_s", round(times[0], 2))
    record_property("load_s", round(times[1], 4))
    assert [engine.reused for engine in engines] == [False, True]
    assert engines[0].plan == engines[1].plan
    assert times[1] < times[0] / 10


def test_a_plan_runs_once_the_user_vouched_for_it_and_not_when_it_changed(
    cache: Path, grade: bytes, quick: SessionOptions, tmp_path: Path, handed: list[bytes]
) -> None:
    plan = tmp_path / "mine.plan"
    plan.write_bytes(obtain(grade, quick.build, name="grade").plan)
    good = plan.read_bytes()
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    with pytest.raises(BackendError, match="--trust"):
        load(plan)
    assert handed == []
    options = AdoptOptions(task="classification", labels=tmp_path / "labels.txt", resize="stretch", filter="antialias")
    adopted = adopt(plan, options, trust=True)
    assert adopted.tried
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    with load(plan) as mine, load("orange-grade", "onnxruntime") as reference:
        assert mine.facts.backend == "tensorrt"
        assert adopted.spec.preprocess.baked
        batch = reference.task.preprocess([image])
        expected, got = (next(iter(net.infer(batch).values())) for net in (reference, mine))
        np.testing.assert_allclose(got, expected, rtol=0.02, atol=0.02)
    handed.clear()
    for turn in range(10):
        changed = bytearray(good)
        changed[turn * len(good) // 10] ^= 0x55
        plan.write_bytes(changed)
        with pytest.raises(BackendError, match="nobody vouched"):
            load(plan)
    assert handed == []
