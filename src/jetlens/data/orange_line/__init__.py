"""The orange line: a procedural navel-orange inspection line with exact ground truth for all three tasks."""

from __future__ import annotations

from jetlens.data.orange_line.dataset import Written, write_dataset
from jetlens.data.orange_line.line import OrangeLine, crops, still
from jetlens.data.orange_line.truth import CLASSES, DETECTION_CLASSES, GRADES, LineTruth

__all__ = ["CLASSES", "DETECTION_CLASSES", "GRADES", "LineTruth", "OrangeLine", "Written", "crops", "still", "write_dataset"]
