"""The picture of a convolution: input, kernel and result, and below them the products and sums of some steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jetlens.learn.numbers import DIVERGING, GREYS, draw_numbers, short
from jetlens.plots.style import COLOURS, FAINT, draw_figure, write_title

if TYPE_CHECKING:
    from jetlens.learn.convolution import Step

__all__ = ["draw_convolution"]

WRITTEN = 7
"""Kernels up to this side have their numbers in the cells."""
_MARK = COLOURS[1]


def draw_convolution(
    levels: NDArray[np.float64],
    kernel: NDArray[np.float64],
    result: NDArray[np.float64],
    shown: Sequence[Step],
    path: Path,
    *,
    name: str,
    stride: int,
    padding: int,
) -> Path:
    """Writes the picture; the steps are drawn as long as their numbers can be read."""
    rows = shown if kernel.shape[0] <= 5 else shown[:1]
    signed = bool((result < 0).any() and (kernel < 0).any())
    strongest = float(np.percentile(np.abs(result), 99.5)) or 1.0
    aspect = levels.shape[0] / levels.shape[1]
    top = min(5.4, max(2.2, 5.2 * aspect))
    step_h = 1.9 if kernel.shape[0] <= 5 else 3.0
    width, height = 11.0, top + 0.9 + step_h * len(rows)

    def draw(figure: Any) -> None:
        upper, lower = figure.subfigures(2, 1, height_ratios=[top + 0.5, step_h * len(rows) + 0.4])
        left, right = upper.subplots(1, 2)
        left.imshow(levels, cmap=GREYS, vmin=0, vmax=255)
        left.set_title("picture, grey levels")
        colours, limits = (DIVERGING, (-strongest, strongest)) if signed else (GREYS, (0.0, max(255.0, 0.0)))
        answer = right.imshow(result, cmap=colours, vmin=limits[0], vmax=limits[1])
        right.set_title(f"result of {name}")
        bar = upper.colorbar(answer, ax=right, fraction=0.03, pad=0.02)
        bar.outline.set_visible(False)
        for ax in (left, right):
            ax.set_axis_off()
        _mark(left, right, shown[0], kernel, stride, padding)
        _draw_steps(lower, rows, kernel)
        about = f"Convolution with {name}, {kernel.shape[0]}×{kernel.shape[1]}, stride {stride}, padding {padding}"
        write_title(figure, about)

    return draw_figure(path, (width, height), draw)


def _mark(left: Any, right: Any, step: Step, kernel: NDArray[np.float64], stride: int, padding: int) -> None:
    """A box around what the kernel lies on, and one around the pixel that it gives; circles lead the eye to such small ones."""
    from matplotlib.patches import Circle, Rectangle

    x, y = step.column * stride - padding - 0.5, step.row * stride - padding - 0.5
    left.add_patch(Rectangle((x, y), kernel.shape[1], kernel.shape[0], fill=False, edgecolor=_MARK, linewidth=1.4))
    right.add_patch(Rectangle((step.column - 0.5, step.row - 0.5), 1, 1, fill=False, edgecolor=_MARK, linewidth=1.4))
    for ax, centre in ((left, (x + kernel.shape[1] / 2, y + kernel.shape[0] / 2)), (right, (step.column, step.row))):
        ax.add_patch(Circle(centre, 0.025 * (ax.get_xlim()[1] - ax.get_xlim()[0]), fill=False, edgecolor=_MARK, linewidth=1.6))


def _draw_steps(figure: Any, rows: Sequence[Step], kernel: NDArray[np.float64]) -> None:
    """Patch × kernel = products, and their sum, a row a step."""
    columns = ["patch under the kernel", "", "kernel", "", "products", "", "sum"]
    grid = figure.subplots(len(rows), len(columns), squeeze=False, width_ratios=[3, 0.45, 3, 0.45, 3, 0.45, 2.2])
    weight = float(np.abs(kernel).max()) or 1.0
    most = max(float(np.abs(step.products).max()) for step in rows) or 1.0
    size = 9.0 if max(kernel.shape) <= 3 else 7.0 if max(kernel.shape) <= 5 else 6.0
    for index, (axes, step) in enumerate(zip(grid, rows, strict=True)):
        heads = columns if index == 0 else [""] * len(columns)
        written = max(kernel.shape) <= WRITTEN
        for ax, values, colours, limits, head in (
            (axes[0], step.patch, GREYS, (0.0, 255.0), heads[0]),
            (axes[2], kernel, DIVERGING, (-weight, weight), heads[2]),
            (axes[4], step.products, DIVERGING, (-most, most), heads[4]),
        ):
            draw_numbers(ax, values, colours, limits, title=head, size=size if written else 0.1)
        for ax, sign in ((axes[1], "×"), (axes[3], "="), (axes[5], "Σ")):
            ax.set_axis_off()
            ax.text(0.5, 0.5, sign, ha="center", va="center", fontsize=18, color=FAINT, transform=ax.transAxes)
        axes[6].set_axis_off()
        axes[6].set_title(heads[6], fontsize=9, fontweight="normal", loc="center")
        axes[6].text(0.5, 0.55, short(step.total), ha="center", va="center", fontsize=18, fontweight="bold", transform=axes[6].transAxes)
        where = f"row {step.row}, column {step.column}"
        axes[6].text(0.5, 0.2, where, ha="center", va="center", fontsize=8, color=FAINT, transform=axes[6].transAxes)
