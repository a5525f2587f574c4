"""Pictures of training and of networks, drawn by matplotlib without a display, each one PNG file."""

from __future__ import annotations

from jetlens.plots.architecture import plot_architecture
from jetlens.plots.curves import plot_curves, plot_range_test
from jetlens.plots.features import plot_class_activation, plot_feature_maps
from jetlens.plots.scores import plot_class_scores, plot_confusion
from jetlens.plots.worst import WorstRow, plot_worst

__all__ = [
    "WorstRow",
    "plot_architecture",
    "plot_class_activation",
    "plot_class_scores",
    "plot_confusion",
    "plot_curves",
    "plot_feature_maps",
    "plot_range_test",
    "plot_worst",
]
