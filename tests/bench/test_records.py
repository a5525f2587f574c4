import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_runs import CASE, FACTS, block, measurement, run

from jetlens.bench import figures
from jetlens.bench.files import read_run, write_run
from jetlens.bench.records import Block, Case, Gate, Run
from jetlens.errors import DataError, UsageError


def test_figures_come_from_the_raw_values() -> None:
    row = measurement(block(10.0, 10.0), block(10.0, 100.0))
    assert figures.latency_figures(row, "answer")["p50"] == 10.0
    assert figures.latency_figures(row, "answer")["max"] == 100.0
    # Items over wall time: not the mean of rates, which one slow call would hardly move.
    assert figures.images_per_s(row, "answer") == pytest.approx(4000 / 130)


def test_the_scope_says_which_stages_a_latency_covers() -> None:
    row = measurement(block(8.0, 8.0))
    found = {scope: figures.latency_figures(row, scope)["p50"] for scope in ("full", "answer", "network")}
    assert found == {"full": 9.5, "answer": 8.0, "network": 6.0}


def test_a_percentile_needs_as_many_calls_as_it_stands_for() -> None:
    row = measurement(block(*range(1, 100)))
    found = figures.latency_figures(row, "answer")
    assert found["p95"] is not None
    assert found["p99"] is None
    assert found["p99.9"] is None


def test_stages_sum_to_the_wall_time_and_a_gap_shows() -> None:
    row = measurement(block(8.0, 9.0))
    assert figures.stage_sum_error(row) == pytest.approx(0)
    gap = Block(0.0, 0.02, 2, (10.0, 10.0), {"compute": (5.0, 10.0)})
    assert figures.stage_sum_error(measurement(gap)) == pytest.approx(0.25)


def test_what_cannot_be_known_is_none_and_never_zero() -> None:
    row = measurement(block(8.0))
    found = figures.summary(run(row), row)
    assert [found[name] for name in ("mean_power_w", "joules_per_image", "gpu_percent")] == [None, None, None]


def test_energy_is_what_a_picture_takes_above_idle() -> None:
    from jetlens.device.reading import Reading
    from jetlens.device.sampling import Samples

    def at(watts: float, begin: float) -> dict[str, object]:
        readings = tuple(Reading(at_s=begin + i / 10, rails_w={"VDD_IN": watts}, whole=("VDD_IN",)) for i in range(31))
        return dict(Samples("tegrastats", "VDD_IN (whole module)", "", 0.1, 0.0, readings).as_dict())

    turn = Block(10.5, 2.0, 40, (50.0,) * 40, {"compute": (50.0,) * 40})
    row = measurement(turn)
    taken = run(row, samples=at(12.0, 10.0), idle=at(4.0, 0.0))
    assert figures.mean_power_w(taken, row) == pytest.approx(12.0)
    assert figures.joules_per_image(taken, row) == pytest.approx((12 - 4) * 2 / 40)


@pytest.mark.parametrize(
    ("rails", "provider", "known"),
    [
        (("GPU 1 (NVML)",), "CPUExecutionProvider", False),
        (("GPU 1 (NVML)",), "torch cpu", False),
        (("GPU 1 (NVML)",), "torch cuda", True),
        (("GPU 1 (NVML)",), "TensorRT", True),
        (("package-0 (RAPL)", "GPU 1 (NVML)"), "torch cpu", True),
        (("VDD_GPU_SOC", "VDD_CPU_CV"), "torch cpu", True),
    ],
)
def test_the_gpus_power_is_not_a_processor_cases(rails: tuple[str, ...], provider: str, known: bool) -> None:
    from jetlens.device.reading import Reading, power_label
    from jetlens.device.sampling import Samples

    def at(watts: float, begin: float) -> dict[str, object]:
        readings = tuple(Reading(at_s=begin + i / 10, rails_w=dict.fromkeys(rails, watts), whole=rails) for i in range(31))
        return dict(Samples("made up", power_label(rails), "", 0.1, 0.0, readings).as_dict())

    row = measurement(Block(10.5, 2.0, 40, (50.0,) * 40, {"compute": (50.0,) * 40}), facts=replace(FACTS, provider=provider))
    found = figures.summary(run(row, samples=at(12.0, 10.0), idle=at(4.0, 0.0)), row)
    assert [found[name] is not None for name in ("mean_power_w", "joules_per_image")] == [known, known]


def test_rows_whose_intervals_overlap_are_ties() -> None:
    def row(name: str, ms: float) -> object:
        return measurement(*(block(ms, ms) for _ in range(5)), case=Case("m", name, "fp32"))

    made = run(row("openvino", 5.0), row("onnxruntime", 5.05), row("pytorch", 6.0))  # type: ignore[arg-type]
    assert figures.ties(made) == {0: 1, 1: 1, 2: 3}


def test_no_two_ranks_overlap() -> None:
    """A chain: the second overlaps both neighbours, and its noise may put it before the first or behind the third."""

    def row(name: str, *ms: float) -> object:
        return measurement(*(block(*ms) for _ in range(5)), case=Case("m", name, "fp32"))

    made = run(row("openvino", 5.0), row("onnxruntime", 5.17), row("pytorch", 5.34), row("tensorrt", 6.0))  # type: ignore[arg-type]
    intervals = [figures.undisturbed(row, "answer", "single", 2).interval_ms for row in made.measurements]
    assert intervals[0][1] > intervals[1][0]
    assert intervals[0][1] < intervals[2][0] < intervals[1][1]
    assert figures.ties(made) == {0: 1, 1: 1, 2: 1, 3: 4}


def test_a_refused_row_has_no_rank() -> None:
    made = run(measurement(block(5.0), gates=(Gate("numeric", False, "off by 3"),)))
    assert figures.ties(made) == {}
    assert made.measurements[0].refused == "numeric gate: off by 3"


def test_a_file_gives_back_the_same_run(tmp_path: Path) -> None:
    made = run(measurement(block(1.0, 2.0), case=Case("m", "pytorch", "bf16", size_hw=(64, 96)), gates=(Gate("accuracy", True, "fine"),)))
    write_run(tmp_path / "r.json", made)
    assert read_run(tmp_path / "r.json") == made
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "no whole JSON"),
        (lambda text: "[]", "no run of jetlens bench"),
        (lambda text: text.replace('"jetlens_bench":1', '"jetlens_bench":9'), "no run of jetlens bench in format"),
        (lambda text: text.replace('"overhead_ms"', '"overhead"'), "unknown field"),
        (lambda text: text.replace('"measurements"', '"rows"'), "damaged"),
        (lambda text: text.replace('"scenario":"single"', '"scenario":"mad"'), "scenario"),
    ],
)
def test_a_file_that_is_no_run_is_named(tmp_path: Path, change, message: str) -> None:
    write_run(tmp_path / "r.json", run(measurement(block(1.0))))
    (tmp_path / "r.json").write_text(change((tmp_path / "r.json").read_text()))
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "r.json")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.json: cannot be read"):
        read_run(tmp_path / "r.json")


def test_a_run_that_was_not_ended_or_lacks_blocks_is_incomplete() -> None:
    whole = run(measurement(block(1.0), block(1.0)))
    assert whole.complete
    assert not run(measurement(block(1.0)), ended="").complete
    short = run(measurement(block(1.0), planned=3))
    assert not short.complete
    assert short.counts == (1, 3)


def test_raw_values_are_in_the_file_and_no_figure_is(tmp_path: Path) -> None:
    write_run(tmp_path / "r.json", run(measurement(block(1.0, 2.0, 3.0))))
    row = json.loads((tmp_path / "r.json").read_text())["measurements"][0]
    assert row["blocks"][0]["calls_ms"] == [2.5, 3.5, 4.5]
    assert not {"p50", "p99", "mean"} & set(row)


def test_the_undisturbed_latency_leaves_out_what_others_add() -> None:
    calm = measurement(*(block(5.0, 7.0) for _ in range(6)))
    rng = np.random.default_rng(0)
    busy = measurement(*(block(*(np.array([5.0, 7.0]) * (1 + rng.exponential(0.2, 2)))) for _ in range(30)))
    first, second = (figures.undisturbed(row, "answer", "single", 2) for row in (calm, busy))
    assert second.ms == pytest.approx(first.ms, rel=0.03)
    assert second.deviation > first.deviation


@pytest.mark.parametrize("changed", [{"batch": 0}, {"lanes": 0}])
def test_a_case_without_a_picture_or_a_lane_is_wrong(changed: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        Case("m", "onnxruntime", **changed)  # type: ignore[arg-type]


def test_a_title_says_what_is_unusual() -> None:
    assert CASE.title == "onnxruntime fp32"
    assert Case("m", "pytorch", None, "cuda", 8, 2, (64, 96)).title == "pytorch cuda batch 8 2 lanes 64x96"


def test_a_scope_is_one_of_the_table() -> None:
    with pytest.raises(UsageError, match="scope"):
        Run("now", (), scope="all")  # type: ignore[arg-type]
