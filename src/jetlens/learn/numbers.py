"""Small tables of numbers inside a picture: cells coloured by their value, with the value written in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.plots.style import INK

__all__ = ["DIVERGING", "GREYS", "draw_numbers", "short"]

GREYS = "gray"
DIVERGING = "RdBu_r"
MOST_WRITTEN = 9


def short(value: float) -> str:
    """A number in few letters: whole where it is whole."""
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def draw_numbers(ax: Any, values: NDArray[Any], colours: str, limits: tuple[float, float], *, title: str = "", size: float = 8.0) -> None:
    """Draws a small matrix as cells with their numbers; of more than 9 rows or columns the colours alone."""
    table = np.atleast_2d(np.asarray(values, np.float64))
    shown = ax.imshow(table, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    ax.grid(False)
    ax.set_xticks(np.arange(-0.5, table.shape[1]), labels=[])
    ax.set_yticks(np.arange(-0.5, table.shape[0]), labels=[])
    ax.tick_params(length=0)
    ax.grid(True, color="white", linewidth=1.0)
    ax.set_axisbelow(False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=9, fontweight="normal", loc="center")
    if max(table.shape) > MOST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(table):
        red, green, blue, _ = shown.cmap(shown.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        ax.text(column, row, short(float(value)), ha="center", va="center", fontsize=size, color="white" if dark else INK)
