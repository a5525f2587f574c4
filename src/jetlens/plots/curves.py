"""Training curves: loss, metrics and learning rate by epoch, and the loss by learning rate of a range test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetlens.errors import UsageError
from jetlens.plots.style import COLOURS, INK, draw_figure, shorten, write_title

__all__ = ["plot_curves", "plot_range_test"]

_NOT_CURVES = frozenset(
    ("done", "epoch", "step", "steps", "elapsed_s", "seconds", "time_s", "images_per_s", "samples", "seed", "best", "left_s")
)
MOST_CURVES = len(COLOURS)
MARKED_EPOCHS = 40
ROW = 3


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> Path:
    """Loss, metrics and learning rate, one above the other, by epoch.

    Args:
        history: a row an epoch with numbers under ``epoch``, ``loss`` (and other names with ``loss`` in them), ``lr``, and the metrics either under
            ``metrics`` or beside the others; a row may lack some of them, and a number may be NaN.

    Raises:
        UsageError: there is no number to draw.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    curves = _curves(history)
    losses = {name: points for name, points in curves.items() if "loss" in name}
    rates = {name: points for name, points in curves.items() if name in ("lr", "learning_rate")}
    metrics = {name: points for name, points in curves.items() if name not in losses and name not in rates}
    panels = [panel for panel in (("loss", losses), ("metric", metrics), ("learning rate", rates)) if panel[1]]
    if not panels:
        raise UsageError("the history holds no numbers, so there is no curve to draw; train for an epoch first")
    # The learning rate needs no height.
    heights = [1.0 if name == "learning rate" else 2.2 for name, _ in panels]

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (name, content) in zip(axes, panels, strict=True):
            _panel(ax, name, dict(list(content.items())[:MOST_CURVES]))
        axes[-1].set_xlabel("epoch")
        epochs = [epoch for points in curves.values() for epoch, _ in points]
        axes[-1].set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes[-1].xaxis.set_major_locator(_ticks(9, integer=True))
        if title:
            write_title(figure, shorten(title, 90))

    return draw_figure(path, (8.5, 1.0 + 1.2 * sum(heights)), draw)


def plot_range_test(rates: Sequence[float], losses: Sequence[float], path: Path, *, chosen: float | None = None) -> Path:
    """The loss by learning rate of a range test (Smith 2017), and the rate that was chosen.

    Raises:
        UsageError: there is no point to draw.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    points = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if rate > 0 and math.isfinite(loss)]
    if not points:
        raise UsageError("the range test has no finite loss, so there is nothing to draw; start at a smaller learning rate")

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        ax.plot(*zip(*points, strict=True), color=COLOURS[0])
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(_plain_number)
        ax.set_xlabel("learning rate")
        ax.set_title("Loss by learning rate")
        # Where the loss explodes it says no more than that.
        low = min(loss for _, loss in points)
        ax.set_ylim(low - 0.05 * abs(low), min(max(loss for _, loss in points), 2.5 * points[0][1] - low) + 1e-6)
        if chosen is not None:
            ax.axvline(chosen, color=COLOURS[1], linestyle="--", linewidth=1.4)
            ax.annotate(
                f"chosen: {chosen:.2g}",
                (chosen, 0.96),
                xycoords=("data", "axes fraction"),
                xytext=(6, 0),
                textcoords="offset points",
                color=COLOURS[1],
                va="top",
            )

    return draw_figure(path, (8.0, 4.2), draw)


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """The points (epoch, value) of each name, in the order of first sight."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(history, 1):
        epoch = float(row.get("epoch", index))
        nested = row.get("metrics")
        flat = {**row, **nested} if isinstance(nested, Mapping) else row
        for name, value in flat.items():
            if name not in _NOT_CURVES and isinstance(value, (int, float)) and not isinstance(value, bool):
                curves.setdefault(str(name), []).append((epoch, float(value)))
    return curves


def _panel(ax: Any, name: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    ax.set_title(name.capitalize())
    for index, (label, points) in enumerate(curves.items()):
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= MARKED_EPOCHS else None
        colour = INK if name == "learning rate" else COLOURS[index]
        # Metrics come in the order of their weight: the first chooses the checkpoint.
        best = _mark_best(ax, points) if name == "metric" and index == 0 else ""
        text = shorten(label.replace("_", " "), 24) + best
        ax.plot(epochs, values, color=colour, marker=marker, markersize=3.2, label=text)
    if name == "learning rate":
        ax.yaxis.set_major_formatter(_plain_number)
        ax.yaxis.set_major_locator(_ticks(4))
    elif len(curves) > ROW:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=ROW, borderaxespad=0.0, columnspacing=1.4, handlelength=1.4)


def _mark_best(ax: Any, points: Sequence[tuple[float, float]]) -> str:
    """Rings the highest value of a metric and says where it is."""
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        return ""
    epoch, value = max(finite, key=lambda point: point[1])
    ax.plot([epoch], [value], marker="o", markersize=8, markerfacecolor="none", markeredgecolor=COLOURS[0], linestyle="none")
    return f", best {value:.4g} in epoch {epoch:g}"


def _plain_number(value: float, position: int) -> str:
    return f"{value:g}"


def _ticks(most: int, *, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, integer=integer, min_n_ticks=1)
