"""Datasets in NumPy and Pillow alone: a table of names; the synthetic orange line is the default everywhere."""

from __future__ import annotations

from jetlens.registry import Table

__all__ = ["DATASETS"]

DATASETS = Table("dataset", {"orange-line": "jetlens.data.orange_line:OrangeLine"})
