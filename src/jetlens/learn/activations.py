"""Activations and their derivatives: formulas, curves, and the derivative checked by differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import GateError, UsageError
from jetlens.learn.lesson import Lesson, compared
from jetlens.plots.style import COLOURS, FAINT, INK, draw_figure, write_title
from jetlens.registry import installed, require

__all__ = ["ACTIVATIONS", "Activation", "activations", "numeric_error"]

Values = NDArray[np.float64]
POINTS: Final = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0)
MOST_POINTS = 25
SLOPE = 0.01
RANGE = 4.0
_STEP = 1e-6
_NUMERIC_LIMIT = 1e-6
_LARGEST = 1e3


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation.

    Attributes:
        kink: whether the derivative jumps at 0, where the value at 0 is a convention (here, as in PyTorch, the one from the left).
        torch: PyTorch's name for it, in ``torch.nn.functional`` or in ``torch``.
    """

    name: str
    formula: str
    function: Callable[[Values], Values]
    derivative: Callable[[Values], Values]
    note: str
    torch: str
    kink: bool = False


def _sigmoid(x: Values) -> Values:
    # exp of the negative absolute value: it never overflows.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


ACTIVATIONS: Final[tuple[Activation, ...]] = (
    Activation(
        "ReLU",
        "max(0, x)",
        lambda x: np.maximum(x, 0),
        lambda x: (x > 0).astype(np.float64),
        "cheap, does not saturate above 0; a unit that is below 0 for every picture has gradient 0 and learns no more",
        "relu",
        kink=True,
    ),
    Activation(
        "leaky ReLU",
        f"x if x > 0 else {SLOPE:g}·x",
        lambda x: np.where(x > 0, x, SLOPE * x),
        lambda x: np.where(x > 0, 1.0, SLOPE),
        "a small slope below 0 keeps a gradient there",
        "leaky_relu",
        kink=True,
    ),
    Activation(
        "ELU",
        "x if x > 0 else exp(x) - 1",
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))),
        "smooth at 0 and bounded by -1 below; costs an exponential",
        "elu",
    ),
    Activation(
        "sigmoid",
        "1 / (1 + exp(-x))",
        _sigmoid,
        lambda x: _sigmoid(x) * (1 - _sigmoid(x)),
        "0 to 1, the probability of one class; its derivative is at most 1/4, so gradients shrink from layer to layer",
        "sigmoid",
    ),
    Activation(
        "tanh",
        "(exp(x) - exp(-x)) / (exp(x) + exp(-x))",
        np.tanh,
        lambda x: 1 - np.tanh(x) ** 2,
        "-1 to 1 around 0, equal to 2·sigmoid(2x) - 1; it saturates on both sides as well",
        "tanh",
    ),
)


def activations(output: Path, points: Sequence[float] = POINTS) -> Lesson:
    """Draws the five activations with their derivatives, gives a table of values, and checks the derivatives.

    Raises:
        GateError: a derivative is not what differences give, or PyTorch computes something else.
        UsageError: a point is no number from -1000 to 1000, or there are too many.
    """
    if not 1 <= len(points) <= MOST_POINTS or not all(abs(point) <= _LARGEST for point in points):
        raise UsageError(f"--at takes 1 to {MOST_POINTS} numbers from -{_LARGEST:g} to {_LARGEST:g}, such as -2,0,2")
    x = np.array(points, np.float64)
    grid = np.linspace(-6, 6, 2001)
    errors = {row.name: numeric_error(row, grid) for row in ACTIVATIONS}
    wrong = [name for name, error in errors.items() if error > _NUMERIC_LIMIT]
    if wrong:
        raise GateError(f"the derivative of {', '.join(wrong)} is not what differences give: off by {max(errors.values()):.3g}")
    agreement, differences = _beside_torch(grid)
    _draw(output)
    table = {row.name: [[float(a), float(b)] for a, b in zip(row.function(x), row.derivative(x), strict=True)] for row in ACTIVATIONS}
    return Lesson(
        "activations",
        (
            "An activation makes a layer non-linear: without one, layers after each other were a single linear layer.",
            "Training multiplies by the derivative f'(x) in every layer on the way back.",
            *(f"{row.name}: f(x) = {row.formula}; {row.note}." for row in ACTIVATIONS),
            "At 0 ReLU and leaky ReLU have no derivative; as in PyTorch the one from the left is taken.",
        ),
        (*_table(x), *(f"{name}: f'(x) and (f(x + h) - f(x - h)) / 2h differ by at most {error:.1e}" for name, error in errors.items()), *agreement),
        {"x": list(map(float, x)), "values_and_derivatives": table, "derivative_error": errors, "largest_difference": differences},
        (output,),
    )  # fmt: skip


def numeric_error(row: Activation, x: Values) -> float:
    """How far the derivative is from central differences, at most; a kink itself is left out."""
    if row.kink:
        x = x[np.abs(x) > 2 * _STEP]
    slope = (row.function(x + _STEP) - row.function(x - _STEP)) / (2 * _STEP)
    return float(np.abs(slope - row.derivative(x)).max(initial=0.0))


def _beside_torch(grid: Values) -> tuple[list[str], dict[str, float]]:
    """The functions beside PyTorch's, and the derivatives beside those of its autograd."""
    others: dict[str, dict[str, NDArray[Any]]] = {row.name: {} for row in ACTIVATIONS}
    if installed("torch"):
        torch = require("torch", extra="train", why="the comparison")
        for row in ACTIVATIONS:
            x = torch.tensor(grid, requires_grad=True)
            function = getattr(torch.nn.functional, row.torch, None) or getattr(torch, row.torch)
            y = function(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
            others[row.name] = {f"torch {row.torch}": np.stack([y.detach().numpy(), slope.numpy()])}
    lines: list[str] = []
    differences: dict[str, float] = {}
    for row in ACTIVATIONS:
        found, figures = compared(
            f"{row.name}, value and derivative", np.stack([row.function(grid), row.derivative(grid)]), others[row.name]
        )
        lines += found if figures else []
        differences |= figures
    return lines, differences


def _table(x: Values) -> list[str]:
    head = f"{'x':>8}" + "".join(f"{row.name:>12}{'f′':>9}" for row in ACTIVATIONS)
    rows = []
    for point in x:
        cells = "".join(f"{float(row.function(point)):12.4f}{float(row.derivative(point)):9.4f}" for row in ACTIVATIONS)
        rows.append(f"{point:8g}{cells}")
    return [head, *rows]


def _draw(path: Path) -> None:
    x = np.linspace(-RANGE, RANGE, 801)

    def draw(figure: Any) -> None:
        grid = figure.subplots(2, 3, sharex=True).ravel()
        for index, (ax, row) in enumerate(zip(grid, ACTIVATIONS, strict=False)):
            colour = COLOURS[index]
            ax.axhline(0, color=FAINT, linewidth=0.8)
            ax.axvline(0, color=FAINT, linewidth=0.8)
            ax.plot(x, row.function(x), color=colour, label="f(x)")
            slope = row.derivative(x)
            if row.kink:
                slope[len(x) // 2] = np.nan  # the jump is no part of the curve
            ax.plot(x, slope, color=INK, linestyle="--", linewidth=1.3, label="f′(x)")
            ax.set_title(row.name)
            ax.text(0.03, 0.95, f"f(x) = {row.formula}", transform=ax.transAxes, fontsize=7.5, va="top", color=INK)
            bounded = row.name in ("sigmoid", "tanh")
            ax.set_ylim((-1.25, 1.6) if bounded else (-1.4, RANGE + 0.6))
            ax.legend(loc="lower right")
        last = grid[len(ACTIVATIONS)]
        for index, row in enumerate(ACTIVATIONS):
            last.plot(x, row.derivative(x), color=COLOURS[index], linewidth=1.5, label=row.name)
        last.set_title("all derivatives")
        last.set_ylim(-0.1, 1.3)
        last.legend(loc="upper left", ncols=2, fontsize=7.5)
        for ax in grid[3:]:
            ax.set_xlabel("x")
        write_title(figure, "Activations and their derivatives")

    draw_figure(path, (11.0, 6.2), draw)
