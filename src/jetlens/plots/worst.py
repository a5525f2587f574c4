"""The worst predictions: the pictures on which a network was most certain and wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.plots.style import COLOURS, FAINT, draw_figure, image_array, shorten

__all__ = ["WorstRow", "plot_worst"]

MOST = 24
COLUMNS = 6
SMALL = 128

# In inches: a picture with its margins, the title, and the lines under a picture.
WIDTH, TOP, TEXT = 1.95, 0.42, 0.62


@dataclass(frozen=True, slots=True)
class WorstRow:
    """One prediction.

    Attributes:
        image: the picture, uint8 [H, W, 3] or [H, W].
        true: what it shows.
        predicted: what the network says.
        confidence: of that, 0 to 1.
        name: the file, if there is one.
    """

    image: Image
    true: str
    predicted: str
    confidence: float
    name: str = ""


def plot_worst(rows: Sequence[WorstRow], path: Path, *, title: str = "Worst predictions") -> Path:
    """A grid of pictures with what they show, what was predicted and how surely; the first 24 rows, in the order given.

    Raises:
        UsageError: there is no row.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    if not rows:
        raise UsageError("there is no prediction to draw; give at least one")
    shown = list(rows)[:MOST]
    columns = min(COLUMNS, max(3, len(shown)))
    lines = math.ceil(len(shown) / columns)
    pictures = [image_array(row.image) for row in shown]
    tallest = min(1.6, max(picture.shape[0] / picture.shape[1] for picture in pictures))
    height = WIDTH * tallest

    def draw(figure: Any) -> None:
        whole = (columns * WIDTH, TOP + lines * (height + TEXT))
        figure.text(0.08 / whole[0], 1 - 0.2 / whole[1], shorten(title, 90), fontsize=12, fontweight="bold", va="center")
        for index, (row, picture) in enumerate(zip(shown, pictures, strict=True)):
            line, column = divmod(index, columns)
            top = TOP + line * (height + TEXT)
            box = ((column + 0.04) * WIDTH / whole[0], 1 - (top + height) / whole[1], 0.92 * WIDTH / whole[0], height / whole[1])
            ax = figure.add_axes(box, anchor="S")
            ax.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) < SMALL else "antialiased")
            ax.set_axis_off()
            _write_answer(figure, row, (column + 0.5) * WIDTH / whole[0], top + height, whole[1])

    return draw_figure(path, (columns * WIDTH, TOP + lines * (height + TEXT)), draw, pad=False)


def _write_answer(figure: Any, row: WorstRow, x: float, below: float, whole: float) -> None:
    """Three lines under a picture; heights in inches from the top."""
    colour = COLOURS[2] if row.true == row.predicted else COLOURS[1]
    figure.text(x, 1 - (below + 0.12) / whole, f"true: {shorten(row.true, 20)}", fontsize=9, ha="center", va="center")
    answer = f"{shorten(row.predicted, 20)} {row.confidence:.0%}"
    figure.text(x, 1 - (below + 0.28) / whole, answer, fontsize=9, color=colour, fontweight="bold", ha="center", va="center")
    figure.text(x, 1 - (below + 0.43) / whole, shorten(row.name, 30), fontsize=7, color=FAINT, ha="center", va="center")
