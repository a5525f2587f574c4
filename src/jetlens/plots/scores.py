"""How well classes are told apart: the confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.plots.style import COLOURS, FAINT, INK, SHARES, draw_figure, shorten, write_title

__all__ = ["plot_class_scores", "plot_confusion"]

MOST_NUMBERS = 20
MOST_NAMES = 60
MOST_BARS = 60
DARK = 0.36


def plot_confusion(counts: NDArray[Any], labels: Sequence[str], path: Path, *, title: str = "Confusion matrix") -> Path:
    """Counts of true class (rows) and predicted class (columns); the colour is the share of the row.

    Up to 20 classes have their numbers in the cells, up to 60 their names at the sides; beyond that the picture shows where the mistakes gather.

    Args:
        counts: [classes, classes], or with one more column for predictions of no class.

    Raises:
        UsageError: counts and labels do not match.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    table, names, columns = _checked(counts, labels)
    total = table.sum(axis=1, keepdims=True)
    share = np.divide(table, total, out=np.zeros(table.shape), where=total > 0)
    classes = len(names)
    side = float(np.clip(0.62 * classes, 3.4, 12.0)) if classes <= MOST_NUMBERS else 9.5
    right = int(np.diagonal(table).sum())

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        picture = ax.imshow(share, cmap=SHARES, norm=_shares(), interpolation="nearest")
        ax.grid(False)
        ax.spines[:].set_visible(True)
        _name_axes(ax, names, columns)
        if classes <= MOST_NUMBERS:
            _write_cells(ax, table, share, 9.0 if classes <= 12 else 7.5)
        bar = figure.colorbar(picture, ax=ax, fraction=0.046, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("share of the true class", color=FAINT)
        everything = int(table.sum())
        write_title(figure, f"{shorten(title, 60)}: {right:,} of {everything:,} right ({right / max(1, everything):.1%})")

    longest = max(map(len, (shorten(name, 22) for name in names)))
    room = 0.075 * longest if classes <= MOST_NAMES else 0.3
    return draw_figure(path, (max(side + room + 2.2, 6.4), side + room + 0.9), draw)


def plot_class_scores(counts: NDArray[Any], labels: Sequence[str], path: Path, *, title: str = "Precision, recall and F1 by class") -> Path:
    """Precision, recall and F1 of each class as bars, the weakest F1 at the bottom; of more than 60 classes the 60 weakest.

    Args:
        counts: as ``plot_confusion`` takes them. A class never predicted has precision 0, one that is not in the truth recall 0.

    Raises:
        UsageError: counts and labels do not match.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    table, names, _ = _checked(counts, labels)
    right, support, predicted = np.diagonal(table), table.sum(axis=1), table[:, : len(names)].sum(axis=0)
    rates = {"precision": _share(right, predicted), "recall": _share(right, support), "F1": _share(2 * right, support + predicted)}
    order = np.argsort(rates["F1"], kind="stable")[:MOST_BARS]
    step = 0.42 if len(order) <= 25 else 0.3

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        places = np.arange(len(order))
        for index, (name, values) in enumerate(rates.items()):
            ax.barh(places + (1 - index) * 0.27, values[order], height=0.25, color=COLOURS[index], label=name)
        for place, class_id in zip(places, order, strict=True):
            ax.text(1.01, place, f"F1 {rates['F1'][class_id]:.3f}, {support[class_id]:,} true", va="center", fontsize=8, color=FAINT)
        ax.set_yticks(places, [shorten(names[class_id], 28) for class_id in order])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.grid(visible=False, axis="y")
        there = support > 0
        mean = float(rates["F1"][there].mean()) if there.any() else 0.0
        some = f" ({len(order)} weakest of {len(names)})" if len(order) < len(names) else ""
        write_title(figure, f"{shorten(title, 50)}{some}; mean F1 {mean:.3f}")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return draw_figure(path, (9.0, 1.5 + step * len(order)), draw)


def _checked(counts: NDArray[Any], labels: Sequence[str]) -> tuple[NDArray[Any], list[str], list[str]]:
    """The table, the names of its rows and of its columns; a column for no class is left out where it is empty."""
    table = np.asarray(counts)
    classes = len(labels)
    if not classes or table.shape not in ((classes, classes), (classes, classes + 1)):
        raise UsageError(f"the counts have shape {list(table.shape)} for {classes} labels; give [classes, classes] or one column more")
    names = [str(label) or f"class {index}" for index, label in enumerate(labels)]
    if table.shape[1] > classes and not table[:, classes].any():
        table = table[:, :classes]
    return table, names, [*names, "no class"][: table.shape[1]]


def _shares() -> Any:
    """The root of a share: a few mistakes of a good network then still have a colour."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0.0, 1.0)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    shares = np.zeros(len(whole))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _name_axes(ax: Any, names: Sequence[str], columns: Sequence[str]) -> None:
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    ax.tick_params(length=0)
    if len(names) > MOST_NAMES:
        return
    size = 9.0 if len(names) <= 25 else 6.5
    ax.set_xticks(
        range(len(columns)), [shorten(name, 22) for name in columns], rotation=45, ha="right", rotation_mode="anchor", fontsize=size
    )
    ax.set_yticks(range(len(names)), [shorten(name, 22) for name in names], fontsize=size)
    ax.tick_params(labelcolor=INK)


def _write_cells(ax: Any, table: NDArray[Any], share: NDArray[np.float64], size: float) -> None:
    for (row, column), count in np.ndenumerate(table):
        if not count:
            continue
        large = f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
        ax.text(column, row, large, ha="center", va="center", fontsize=size, color="white" if share[row, column] > DARK else INK)
