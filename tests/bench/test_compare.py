from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from bench_runs import CASE, FACTS, block, measurement, noisy_measurements, run

from jetlens.bench.compare import compare, compare_rows
from jetlens.bench.records import Case, Gate, Measurement

SLOWER = 1.10
CALM = tuple(block(5.0, 7.0) for _ in range(5))


def slowed(row: Measurement, factor: float) -> Measurement:
    def turn(made):
        stages = {name: tuple(factor * value for value in times) for name, times in made.stages_ms.items()}
        return replace(made, calls_ms=tuple(factor * value for value in made.calls_ms), stages_ms=stages)

    return replace(row, blocks=tuple(turn(made) for made in row.blocks))


def naive_change(first: Measurement, second: Measurement) -> bool:
    """The control: two medians further apart than 5 %, as speed tables are read."""
    a, b = (np.median(np.concatenate([made.calls_ms for made in row.blocks])) for row in (first, second))
    return bool(abs(b / a - 1) > 0.05)


def test_separately_taken_runs_of_one_case_are_no_change_and_ten_percent_is(record_property) -> None:
    """On 24 real runs of one case, taken while others used the machine."""
    rows = noisy_measurements()
    cried = compared = found = 0
    for first, second in permutations(rows, 2):
        plain = compare_rows(first, second, "answer", "single", 16)
        if plain.refused:
            assert "too busy" in plain.refused
            continue
        compared += 1
        cried += plain.change != "no change"
        found += compare_rows(first, slowed(second, SLOWER), "answer", "single", 16).change == "slower"
    record_property("pairs of the same case that cried change", f"{cried}/{compared}")
    record_property("ten percent found", f"{found}/{compared}")
    assert compared >= 400
    assert cried <= compared / 20
    assert found >= compared * 19 / 20
    naive = sum(naive_change(first, second) for first, second in permutations(rows, 2))
    assert naive > len(rows) * (len(rows) - 1) / 3


def test_a_busy_machine_is_named_and_not_compared() -> None:
    rng = np.random.default_rng(1)
    busy = measurement(*(block(*(5 * (1 + rng.exponential(1.0, 4)))) for _ in range(10)))
    row = compare_rows(measurement(*(block(5.0, 5.0, 5.0, 5.0) for _ in range(10))), busy, "answer", "single", 4)
    assert "too busy in the second run" in row.refused


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scope": "full"}, "other scope: answer and full"),
        ({"scenario": "offline"}, "other scenario"),
        ({"images_sha256": "others"}, "other pictures"),
        ({"machine": {"cpu": "y", "cores": 2}}, "another machine: cpu x and y"),
        ({"ended": "interrupted"}, "the second run is incomplete"),
    ],
)
def test_runs_that_do_not_compare_say_why(changed, reason: str) -> None:
    first = run(measurement(*CALM))
    found = compare(first, replace(first, **changed))
    assert found.rows == ()
    assert any(reason in why for why in found.refused), found.refused
    assert compare(first, replace(first, **changed), force=True).refused


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"facts": replace(FACTS, provider="CUDAExecutionProvider")}, "other provider that ran"),
        ({"facts": replace(FACTS, precision="bf16")}, "other precision that ran: fp32 and bf16"),
        ({"model_sha256": "another"}, "another model file"),
        ({"input_sha256": "another"}, "other input"),
        ({"blocks": tuple(block(5.0, 7.0, yardstick_ms=0.3) for _ in range(5))}, "other clocks"),
        ({"gates": (Gate("numeric", False, "off by 3"),)}, "numeric gate: off by 3"),
        ({"failed": "died"}, "died"),
        ({"planned": 9}, "incomplete"),
    ],
)
def test_rows_that_do_not_compare_say_why(changed, reason: str) -> None:
    row = compare_rows(
        measurement(*CALM), measurement(*CALM, **({"blocks": CALM} | changed) if "blocks" not in changed else {}), "answer", "single", 2
    )
    if "blocks" in changed:
        row = compare_rows(measurement(*CALM), measurement(*changed["blocks"]), "answer", "single", 2)
    assert row.change == "not comparable"
    assert reason in row.refused


def test_another_version_is_a_note() -> None:
    row = compare_rows(measurement(*CALM), measurement(*CALM, facts=replace(FACTS, version="2.0")), "answer", "single", 2)
    assert row.change == "no change"
    assert row.notes == ("onnxruntime 1.0 and 2.0",)


def test_clock_limits_of_the_machine_are_compared() -> None:
    from jetlens.device.state import State

    first = run(measurement(*CALM), state_before=State(power_mode="MAXN").as_dict())
    second = replace(first, state_before=State(power_mode="15W").as_dict())
    assert any("power mode" in why for why in compare(first, second).refused)


def test_runs_without_a_common_case_do_not_compare() -> None:
    first = run(measurement(*CALM))
    second = run(measurement(*CALM, case=Case("m", "openvino")))
    assert compare(first, second).refused == ("no case is in both runs",)
    assert CASE not in {row.case for row in second.measurements}


def test_faster_is_found_too() -> None:
    row = compare_rows(measurement(*CALM), slowed(measurement(*CALM), 0.8), "answer", "single", 2)
    assert row.change == "faster"
    assert row.ratio == pytest.approx(0.8)
