"""The look that all pictures share, and their way to a file: no display, no global state, never half a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.atomic import write_atomic
from jetlens.errors import plain_line
from jetlens.registry import require

__all__ = ["COLOURS", "FAINT", "GRID", "INK", "SHARES", "draw_figure", "image_array", "shorten", "write_title"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#4D4D4D")
"""After Okabe and Ito: told apart also by colour-blind eyes, and on a grey print by their order."""

INK = "#222222"
FAINT = "#6B6B6B"
GRID = "#E3E3E3"
SHARES = "Blues"
DPI = 110

_LOOK: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": INK,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
}


def draw_figure(path: Path, size_inches: tuple[float, float], draw: Callable[[Any], None], *, pad: bool = True) -> Path:
    """Lets ``draw`` fill a new matplotlib ``Figure`` and writes it as PNG, atomically.

    Args:
        pad: lets matplotlib find the margins; without it ``draw`` places its axes itself.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    matplotlib = require("matplotlib", extra="report", why="pictures")
    figures = require("matplotlib.figure", extra="report", why="pictures")
    agg = require("matplotlib.backends.backend_agg", extra="report", why="pictures")
    buffer = io.BytesIO()
    # What a user's matplotlibrc says is for the user's own pictures.
    with matplotlib.rc_context({**_defaults(matplotlib), **_LOOK}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = figures.Figure(figsize=size_inches, dpi=DPI, layout="constrained" if pad else None)
        agg.FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(buffer, format="png", metadata={"Software": "jetlens"})
    write_atomic(path, buffer.getvalue())
    return path


def _defaults(matplotlib: Any) -> dict[str, Any]:
    """Matplotlib's own settings, less those that would choose a window system or warn."""
    return {
        key: value for key, value in dict.items(matplotlib.rcParamsDefault) if not key.startswith(("backend", "webagg", "savefig.bbox"))
    }


def write_title(figure: Any, text: str) -> None:
    """The title over all panels of a figure."""
    figure.suptitle(text, fontsize=12, fontweight="bold", x=0.01, ha="left")


def shorten(text: object, length: int) -> str:
    """A label on one line, cut with an ellipsis where it is longer."""
    line = plain_line(str(text))
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}…"


def image_array(image: Any) -> NDArray[np.uint8]:
    """A picture for ``imshow``: uint8 [H, W, 3] from the same, from [H, W] or [H, W, 1]."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    return np.ascontiguousarray(array[..., :3].astype(np.uint8))
