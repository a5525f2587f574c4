"""Rows and sentences follow from what was measured, and from nothing else."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import row, run

from jetlens.bench.records import Gate, Run, WarmUp
from jetlens.report import findings
from jetlens.report.rows import number, rows

FAILED = Gate("numeric", False, "top-1 agrees on 71 %, 99 % needed")


def test_the_fastest_comes_first_and_the_refused_last() -> None:
    found = rows(run(row("slow", 9), row("wrong", 1, gates=[FAILED]), row("fast", 3)))
    assert [one.title for one in found] == ["fast fp32", "slow fp32", "wrong fp32"]
    assert [one.rank for one in found] == [1, 2, None]
    assert found[2].p50_ms is None
    assert "71 %" in found[2].refused


def test_cases_that_cannot_be_told_apart_tie() -> None:
    found = rows(run(row("one", 5, seed=1), row("two", 5, seed=2), row("slow", 9)))
    assert [(one.rank, one.tied) for one in found] == [(1, True), (1, True), (3, False)]
    told = findings.headline(run(row("one", 5, seed=1), row("two", 5, seed=2)), found)
    assert "(a tie)" in told
    assert "times as fast" not in told, "what ties is not faster"


def test_no_sentence_names_a_refused_speed() -> None:
    measured = run(row("slow", 9), row("wrong", 1, gates=[FAILED]))
    found = rows(measured)
    for line in [*findings.results(measured, found), *findings.tensorrt(measured, found)]:
        assert "2.5" not in line  # its p50 would be 2.50 ms
    assert "Refused: wrong fp32" in findings.headline(measured, found)


def test_where_all_are_refused_there_is_no_fastest() -> None:
    measured = run(row("wrong", 1, gates=[FAILED]))
    assert findings.headline(measured, rows(measured)).startswith("No case passed its gates: wrong fp32")


def test_what_tensorrt_gained_is_split_into_the_network_and_the_rest() -> None:
    measured = run(row("pytorch", 8.5), row("tensorrt", 0.5, engine={"build_s": 61.0}))
    text = " ".join(findings.tensorrt(measured, rows(measured)))
    assert "5.0 times as fast as pytorch fp32" in text
    assert re.search(r"network itself went from 8\.\d+ ms to 0\.\d+ ms; everything around it from 1\.50 ms to 1\.50 ms", text)
    assert "75% of the time" in text
    assert "61.0 s to build" in text


@pytest.mark.parametrize(("compute_ms", "said"), [(8.4, "gained nothing clear"), (20.0, "gained nothing clear"), (4.0, "times as fast as")])
def test_no_gain_is_called_no_gain(compute_ms: float, said: str) -> None:
    measured = run(row("pytorch", 8.5), row("tensorrt", compute_ms))
    assert said in " ".join(findings.tensorrt(measured, rows(measured)))


def test_without_tensorrt_nothing_is_said_of_its_gain() -> None:
    measured = run(row("pytorch", 8.5))
    assert findings.tensorrt(measured, rows(measured)) == [
        "No TensorRT case was measured here, so this page says nothing about what it would gain on this machine."
    ]


MACHINE = {"cpu": "a processor", "memory_available_mib": 100, "python": "3.10"}
TENSORRT = run(row("tensorrt", 0.5), machine=MACHINE, state_before={"power_mode": "MAXN"})
PYTORCH = run(row("pytorch", 8.5), machine={**MACHINE, "memory_available_mib": 90, "python": "3.12"})


def across(mine: Run, other: Run) -> str:
    return " ".join(findings.tensorrt(mine, rows(mine), {"other.json": (other, rows(other))}))


def test_what_tensorrt_gained_over_another_record_names_it_and_that_they_did_not_take_turns() -> None:
    text = across(TENSORRT, PYTORCH)
    assert re.search(
        r"tensorrt fp32 at its best answered [45]\.\d times as fast as pytorch fp32 of other\.json \(\d\.\d+ against \d\.\d+ ms\)", text
    )
    assert "another run, one after the other and not by turns" in text
    assert "network itself went from 8." in text


def test_no_gain_over_another_record_is_called_no_gain() -> None:
    assert "gained nothing clear over pytorch fp32 of other.json" in across(TENSORRT, replace(PYTORCH, measurements=(row("pytorch", 0.5),)))


def test_a_page_with_tensorrt_in_another_record_does_not_say_that_there_is_none() -> None:
    assert across(PYTORCH, TENSORRT) == ""
    assert across(PYTORCH, PYTORCH).startswith("No TensorRT case was measured here")


@pytest.mark.parametrize(
    "other",
    [
        replace(PYTORCH, machine={**MACHINE, "cpu": "another"}),
        replace(PYTORCH, scope="network"),
        replace(PYTORCH, scenario="offline"),
        replace(PYTORCH, ended="interrupted"),
        replace(PYTORCH, state_before={"power_mode": "15W"}),
        *(
            replace(PYTORCH, measurements=(changed,))
            for changed in (
                row("pytorch", 8.5, input_sha256="d" * 64),
                row("pytorch", 8.5, model_sha256="d" * 64),
                row("pytorch", 8.5, case=replace(row("pytorch", 1).case, batch=2)),
                row("pytorch", 8.5, gates=[FAILED]),
            )
        ),
    ],
)
def test_records_that_do_not_compare_are_not_compared(other: Run) -> None:
    assert "other.json" not in across(TENSORRT, other)


def test_where_only_the_network_is_timed_nothing_is_said_of_what_is_around_it() -> None:
    text = across(replace(TENSORRT, scope="network"), replace(PYTORCH, scope="network"))
    assert "times as fast as pytorch fp32 of other.json" in text
    assert "around it" not in text


def test_machines_of_which_nothing_is_known_are_not_the_same() -> None:
    assert "other.json" not in across(replace(TENSORRT, machine={}), replace(PYTORCH, machine={}))


def test_only_stages_that_are_timed_are_said_to_take_time() -> None:
    slow = row("pytorch", 2)
    blocks = tuple(
        replace(block, stages_ms={"decode": (9.0,) * 40, **block.stages_ms}, calls_ms=tuple(ms + 9 for ms in block.calls_ms))
        for block in slow.blocks
    )
    measured = run(replace(slow, blocks=blocks))
    assert re.search(
        r"the largest part of the time goes to the network \(2\.\d+ ms, 57%\)", " ".join(findings.results(measured, rows(measured)))
    )
    whole = replace(measured, scope="full")
    assert "goes to decoding the picture" in " ".join(findings.results(whole, rows(whole)))


def test_a_case_that_could_not_run_is_a_row_without_figures() -> None:
    broken = row("absent", 1, blocks=0, failed="absent is not installed")
    found = rows(run(row("fast", 3), broken, row("waiting", 2, blocks=0)))
    assert next(one.title for one in found if not one.refused) == "fast fp32"
    absent = next(one for one in found if one.title == "absent fp32")
    assert (absent.rank, absent.p50_ms, absent.figures["undisturbed_ms"], absent.figures["calls"]) == (None, None, None, 0)


def test_what_makes_numbers_doubtful_is_told() -> None:
    doubtful = run(row("a", 5, warm_up=WarmUp(settled=False)), row("b", 5, blocks=3), ended="interrupted", overhead_ms=1.0)
    told = findings.warnings(doubtful, rows(doubtful))
    text = " ".join(told)
    for part in ("Incomplete: 9 of 12 blocks", "a fp32 did not settle", "above 1 % of the median"):
        assert part in text
    calm = run(row("a", 5))
    assert findings.warnings(calm, rows(calm)) == []


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_a_number_is_read_back_within_its_digits_or_not_known(value: float | None) -> None:
    text = number(value)
    if value is None or not math.isfinite(value):
        assert text == "n/a"
    elif 1e-3 <= abs(value) < 1e12:
        assert float(text.replace(",", "")) == pytest.approx(value, rel=6e-3)
