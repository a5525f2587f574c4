"""Datasets in NumPy and Pillow alone: every common layout on disk, and the synthetic orange line, the default everywhere."""

from __future__ import annotations

from jetlens.data.base import IGNORED, Dataset, LabelError
from jetlens.data.layouts import LAYOUTS
from jetlens.data.opening import open_dataset
from jetlens.data.samples import Sample
from jetlens.data.statistics import compute_mean_std

__all__ = ["IGNORED", "LAYOUTS", "Dataset", "LabelError", "Sample", "compute_mean_std", "open_dataset"]
