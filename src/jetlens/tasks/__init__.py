"""Tasks: pictures to a graph's input and its outputs to results; no runtime is known here."""

from __future__ import annotations

from jetlens.registry import Table

__all__ = ["TASKS"]

TASKS = Table(
    "task",
    {
        "classification": "jetlens.tasks.classification:ClassificationTask",
        "detection": "jetlens.tasks.detection:DetectionTask",
        "segmentation": "jetlens.tasks.segmentation:SegmentationTask",
    },
)
