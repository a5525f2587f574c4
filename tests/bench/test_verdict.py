from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import block, measurement, run

from jetlens.bench.choose import choose
from jetlens.bench.records import Block, Case, Gate
from jetlens.bench.verdict import verdict
from jetlens.errors import GateError, UsageError

FAST = measurement(*(block(*[20.0] * 50) for _ in range(4)), case=Case("m", "onnxruntime", "fp32"))
SLOW = measurement(*(block(*[50.0] * 50) for _ in range(4)), case=Case("m", "pytorch", "fp32"))


def test_yes_with_its_evidence() -> None:
    found = verdict(run(SLOW, FAST), 30)
    assert found.passed
    assert found.line == (
        "30 fps: YES, onnxruntime fp32, p99 20.00 ms (allowed 33.33), 50.0 images/s, most time in compute: 15.00 of 20.00 ms"
    )


def test_no_names_the_row_that_comes_nearest_and_its_stage() -> None:
    found = verdict(run(SLOW), 30)
    assert not found.passed
    assert found.line.startswith("30 fps: NO, pytorch fp32, p99 50.00 ms (allowed 33.33)")
    assert "most time in compute" in found.line


def test_a_limit_of_the_latency_may_be_given() -> None:
    assert not verdict(run(FAST), 30, p99_ms=15).passed
    assert verdict(run(SLOW), 15, p99_ms=60).passed


def test_one_slow_call_in_fifty_is_no_real_time() -> None:
    spiky = measurement(*(block(*[20.0] * 49, 80.0) for _ in range(4)))
    assert not verdict(run(spiky), 30).passed


def test_few_calls_are_judged_by_their_slowest() -> None:
    few = measurement(block(*[20.0] * 9, 40.0))
    assert not verdict(run(few), 30).passed
    assert "slowest of 10" in verdict(run(few), 30).line


def test_what_was_refused_is_no_answer() -> None:
    refused = replace(FAST, gates=(Gate("accuracy", False, "lost 5 points"),))
    assert not verdict(run(refused), 30).passed
    assert verdict(run(refused, SLOW), 15).line.startswith("15 fps: YES, pytorch")
    assert not verdict(run(refused), 30).line.count("YES")


def test_an_incomplete_row_is_no_yes() -> None:
    assert not verdict(run(replace(FAST, planned=9)), 30).passed


def test_a_camera_must_drop_nothing() -> None:
    def camera(dropped: int) -> Block:
        return Block(0.0, 2.0, 60, (5.0,) * 60, {"compute": (4.0,) * 60}, dropped=dropped)

    kept, lost = (run(measurement(camera(n), camera(0)), scenario="camera", fps=30.0) for n in (0, 1))
    assert verdict(kept, 30).passed
    assert not verdict(lost, 30).passed
    assert "dropped 0.8%" in verdict(lost, 30).line


def test_a_target_below_nothing_is_wrong() -> None:
    with pytest.raises(UsageError, match="above 0"):
        verdict(run(FAST), 0)


def test_without_a_target_the_lowest_latency_is_chosen_and_with_one_the_most_images(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    batched = measurement(
        *(Block(0.0, 1.0, 8 * 50, (30.0,) * 50, {"compute": (30.0,) * 50}) for _ in range(4)),
        case=Case("m", "onnxruntime", "fp32", batch=8),
    )
    assert choose(run(FAST, SLOW, batched), model, {}).batch == 1
    assert choose(run(FAST, SLOW, batched), model, {}, fps=30).batch == 8
    with pytest.raises(GateError, match="nothing to choose"):
        choose(run(SLOW), model, {}, fps=30)
