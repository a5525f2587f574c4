"""What a network sees: the feature maps of a layer, and the parts of a picture that speak for a class."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.plots.style import FAINT, draw_figure, image_array, shorten, write_title

__all__ = ["plot_class_activation", "plot_feature_maps"]

MOST_MAPS = 64
WIDE = 1.7

# In inches: the title, the number over a map, the margin, and the picture beside the maps.
TOP, NUMBER, MARGIN, BESIDE = 0.6, 0.2, 0.12, 2.7
MAP_COLOURS = "viridis"
HEAT_COLOURS = "inferno"


def plot_feature_maps(maps: NDArray[Any], path: Path, *, title: str = "Feature maps", image: Image | None = None) -> Path:
    """The channels of a layer as a grid, each scaled to its own range; of more than 64 the 64 that vary most, in their order.

    Args:
        maps: [channels, height, width].
        image: the picture that they come from, drawn beside them.

    Raises:
        UsageError: the maps have another shape.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    values = np.asarray(maps, np.float32)
    if values.ndim != 3 or not values.size:
        raise UsageError(f"feature maps have shape {list(values.shape)}; give [channels, height, width]")
    chosen = np.sort(np.argsort(-values.std(axis=(1, 2)), kind="stable")[:MOST_MAPS])
    aspect = values.shape[1] / values.shape[2]
    columns = int(np.clip(math.ceil(math.sqrt(WIDE * len(chosen) * aspect)), 1, 16)) if len(chosen) > 3 else len(chosen)
    lines = math.ceil(len(chosen) / columns)
    cell = 9.0 / max(columns, 6)
    line = cell * aspect + NUMBER
    beside = BESIDE if image is not None else 0.0
    width, height = max(beside + columns * cell + MARGIN, 6.0), TOP + max(lines * line, 0.8 * beside) + MARGIN
    some = f", the {len(chosen)} that vary most" if len(chosen) < len(values) else ""
    many = f"{len(values)} channel{'s' if len(values) > 1 else ''} of {values.shape[1]}x{values.shape[2]}{some}"

    def draw(figure: Any) -> None:
        figure.text(0.1 / width, 1 - 0.22 / height, f"{shorten(title, 60)}: {many}", fontsize=11, fontweight="bold", va="center")
        if image is not None:
            side = beside - 2 * MARGIN
            figure.text((MARGIN + side / 2) / width, 1 - (TOP - 0.08) / height, "input", fontsize=8, color=FAINT, ha="center", va="center")
            ax = figure.add_axes((MARGIN / width, 1 - (TOP + side) / height, side / width, side / height), anchor="N")
            ax.imshow(image_array(image))
            ax.set_axis_off()
        for index, channel in enumerate(chosen):
            row, column = divmod(index, columns)
            left, top = beside + MARGIN / 2 + column * cell, TOP + row * line
            ax = figure.add_axes((left / width, 1 - (top + cell * aspect) / height, 0.94 * cell / width, cell * aspect / height))
            ax.imshow(values[channel], cmap=MAP_COLOURS, interpolation="nearest", aspect="auto")
            ax.set_axis_off()
            figure.text(
                (left + 0.47 * cell) / width, 1 - (top - 0.08) / height, str(channel), fontsize=7, color=FAINT, ha="center", va="center"
            )

    return draw_figure(path, (width, height), draw, pad=False)


def plot_class_activation(image: Image, heat: NDArray[Any], path: Path, *, title: str = "What speaks for the class") -> Path:
    """The picture, and the picture with what speaks for a class laid over it.

    Args:
        heat: [height, width] from 0 to 1, of any size; stretched over the picture.

    Raises:
        UsageError: the heat has another shape.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    values = np.asarray(heat, np.float32)
    if values.ndim != 2 or not values.size:
        raise UsageError(f"the class activation has shape {list(values.shape)}; give [height, width]")
    picture = image_array(image)
    height, width = picture.shape[:2]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for ax in (left, right):
            ax.imshow(picture, extent=(0, width, height, 0))
            ax.set_axis_off()
        # The less a place says, the more of the picture shows.
        opacity = np.clip(0.15 + 0.65 * values, 0.0, 0.8)
        over = right.imshow(
            values, cmap=HEAT_COLOURS, vmin=0.0, vmax=1.0, alpha=opacity, extent=(0, width, height, 0), interpolation="bilinear"
        )
        bar = figure.colorbar(over, ax=right, fraction=0.046, pad=0.02)
        bar.outline.set_visible(False)
        bar.solids.set_alpha(1.0)
        bar.set_label("share of the strongest", color=FAINT, fontsize=9)
        write_title(figure, shorten(title, 90))

    return draw_figure(path, (9.0, float(np.clip(0.7 + 4.1 * height / width, 2.2, 9.0))), draw)
