"""The tables of a run fit where they are printed, and lose no case and no failure by it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jetlens.backends.base import RunFacts
from jetlens.bench.records import Block, Case, Measurement, Run
from jetlens.cli.bench_table import show


def row(backend: str, ms: float, *, batch: int = 1, failed: str = "") -> Measurement:
    """A case of three blocks with a hundred calls each; none if it failed."""
    calls = tuple(float(value) for value in np.linspace(ms, 2 * ms, 100))
    stages = {"preprocess": tuple(value / 4 for value in calls), "compute": tuple(value / 2 for value in calls)}
    blocks = () if failed else tuple(Block(float(turn), sum(calls) / 1000, 100, calls, stages) for turn in range(3))
    facts = None if failed else RunFacts(backend, "1.0", f"{backend}ExecutionProvider", "a device", "fp32")
    return Measurement(Case("cat", backend, "fp32", batch=batch), facts, failed=failed, blocks=blocks, planned=3)


def printed(run: Run, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show(run, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_at_80_columns_no_cell_is_cut_and_what_has_no_room_is_named() -> None:
    run = Run("now", (row("onnxruntime", 1234.5), row("openvino", 0.5, batch=512), row("tensorrt", 1, failed="tensorrt is not installed")))
    text = printed(run, 80)
    table = text[: text.index("FAILED tensorrt")]
    assert "…" not in text
    assert max(map(len, table.splitlines())) <= 80
    for whole in ("#", "case", "best ms", "openvino", "fp32", "512", "1851.75", "FAILED"):
        assert whole in table
    assert "n/a here: p99.9, RSS MiB, W, J/image" in text
    assert "no room here, see --json: (95 %), p90, p95, max" in text


def test_where_there_is_room_every_column_is_shown() -> None:
    text = printed(Run("now", (row("onnxruntime", 2.0),)), 160)
    assert "no room here" not in text
    for heading in ("p95", "p99.9", "RSS", "J/image", "(95 %)", "engine"):
        assert heading in text


@given(width=st.integers(80, 200), ms=st.floats(0.001, 1e5), batch=st.sampled_from((1, 8, 1024)))
def test_no_number_is_cut_at_any_width(width: int, ms: float, batch: int) -> None:
    text = printed(Run("now", (row("onnxruntime-tensorrt", ms, batch=batch), row("openvino", 1.0))), width)
    assert "…" not in text
    assert f"{1.5 * ms:.2f}" in text


@pytest.mark.parametrize("slow", [1, 4])
def test_a_note_stands_once_for_all_rows_that_it_is_about(slow: int) -> None:
    rows = []
    for number in range(slow):
        calm = row(f"one{number}", 2.0)
        rough = tuple(
            Block(b.started_s, b.wall_s, b.items, tuple(v * (turn + 1) for v in b.calls_ms), {}) for turn, b in enumerate(calm.blocks)
        )
        rows.append(Measurement(calm.case, calm.facts, blocks=rough, planned=3))
    text = printed(Run("now", tuple(rows)), 200)
    assert text.count("noisy:") == 1
    assert all(f"one{number} fp32" in text[text.index("noisy:") :] for number in range(slow))
