"""Activations: values that are known, and derivatives that differences confirm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.errors import GateError, UsageError
from jetlens.learn import activations as module
from jetlens.learn.activations import ACTIVATIONS, activations, numeric_error

NAMED = {row.name: row for row in ACTIVATIONS}


@pytest.mark.parametrize(
    ("name", "x", "value", "slope"),
    [
        ("ReLU", -2.0, 0.0, 0.0),
        ("ReLU", 0.0, 0.0, 0.0),
        ("ReLU", 2.0, 2.0, 1.0),
        ("leaky ReLU", -2.0, -0.02, 0.01),
        ("ELU", -1.0, np.exp(-1) - 1, np.exp(-1)),
        ("ELU", 0.0, 0.0, 1.0),
        ("sigmoid", 0.0, 0.5, 0.25),
        ("sigmoid", -800.0, 0.0, 0.0),
        ("tanh", 0.5, np.tanh(0.5), 1 - np.tanh(0.5) ** 2),
    ],
)
def test_known_values(name: str, x: float, value: float, slope: float) -> None:
    row = NAMED[name]
    assert float(row.function(np.array(x))) == pytest.approx(value, abs=1e-12)
    assert float(row.derivative(np.array(x))) == pytest.approx(slope, abs=1e-12)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_derivatives_are_what_differences_give(points: list[float]) -> None:
    x = np.array(points)
    assert all(numeric_error(row, x) < 1e-6 for row in ACTIVATIONS)


def test_a_wrong_derivative_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(NAMED["tanh"], derivative=lambda x: 1 - np.tanh(x))
    monkeypatch.setattr(module, "ACTIVATIONS", (wrong,))
    with pytest.raises(GateError, match="derivative of tanh"):
        activations(tmp_path / "a.png")


def test_lesson(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lesson = activations(tmp_path / "a.png", (-1.0, 2.0))
    assert lesson.numbers["values_and_derivatives"]["leaky ReLU"] == [[-0.01, 0.01], [2.0, 1.0]]
    assert (tmp_path / "a.png").stat().st_size > 20_000
    for points in ((), (1e9,), (float("nan"),), (0.0,) * 26):
        with pytest.raises(UsageError):
            activations(tmp_path / "a.png", points)
