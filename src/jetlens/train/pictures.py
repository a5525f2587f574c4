"""The pictures and tables of a run, in its folder: curves while it runs; confusion, classes, mistakes and the network at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jetlens.atomic import write_atomic
from jetlens.registry import installed, require
from jetlens.train.score import Score

__all__ = ["NO_PICTURES", "can_draw", "draw_curves", "draw_end", "draw_range", "write_tables"]

NO_PICTURES = "no pictures: matplotlib is not installed (pip install 'jetlens[report]')"


def can_draw() -> bool:
    """Whether matplotlib is here."""
    return installed("matplotlib")


def draw_curves(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """``curves.png`` of the epochs so far."""
    require("jetlens.plots", extra="report").plot_curves(rows, folder / "curves.png")


def draw_range(rates: Sequence[float], losses: Sequence[float], suggested: float, folder: Path) -> None:
    """``lr-range.png`` of a range test."""
    require("jetlens.plots", extra="report").plot_range_test(rates, losses, folder / "lr-range.png", chosen=suggested)


def write_tables(score: Score, labels: tuple[str, ...], network: nn.Module, size_hw: tuple[int, int], folder: Path) -> None:
    """``classes.json``: precision, recall, F1 and IoU, or average precision, of each class; ``architecture.txt``: layers, shapes, parameters, MACs."""
    models = require("jetlens.models.summary", extra="train")
    rows = score.classes if score.classes or score.matrix is None else list(score.matrix.rows(labels))
    if rows:
        write_atomic(folder / "classes.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    write_atomic(folder / "architecture.txt", (models.summary_table(models.summary(network, (3, *size_hw))) + "\n").encode())


def draw_end(score: Score, labels: tuple[str, ...], network: nn.Module, picture: Tensor, size_hw: tuple[int, int], folder: Path) -> None:
    """Confusion matrix, classes, worst predictions, architecture and feature maps, each a PNG file."""
    plots = require("jetlens.plots", extra="report")
    if score.matrix is not None:
        plots.plot_confusion(score.matrix.counts, labels, folder / "confusion.png")
        plots.plot_class_scores(score.matrix.counts, labels, folder / "classes.png")
    if score.worst:
        rows = [plots.WorstRow(row.image, row.true, row.predicted, row.figure, row.name) for row in score.worst]
        plots.plot_worst(rows, folder / "worst.png")
    rows = require("jetlens.models.summary", extra="train").summary(network, (3, *size_hw))
    plots.plot_architecture(rows, folder / "architecture.png")
    maps = _first_maps(network, picture)
    if maps is not None:
        plots.plot_feature_maps(maps.numpy(), folder / "features.png", title="Feature maps of the first convolution")


def _first_maps(network: nn.Module, picture: Tensor) -> Tensor | None:
    """What the first convolution answers to a normalised picture [1, 3, H, W]: [channels, h, w]."""
    found: list[Tensor] = []
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        return None
    keep: Callable[..., None] = lambda module, inputs, output: found.append(output[0].detach().float().cpu())  # noqa: E731
    hook = first.register_forward_hook(keep)
    try:
        with torch.inference_mode():
            network(picture)
    finally:
        hook.remove()
    return found[0]
