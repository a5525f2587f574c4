"""Decoders of detection heads: a name to a function from a graph's outputs to candidates."""

from __future__ import annotations

from jetlens.registry import Table
from jetlens.tasks.heads.base import Candidates, Decoder

__all__ = ["HEADS", "Candidates", "Decoder"]

HEADS = Table(
    "detection decoder",
    {
        "detections": "jetlens.tasks.heads.ours:detections",
        "yolov5": "jetlens.tasks.heads.yolo:yolov5",
        "yolov8": "jetlens.tasks.heads.yolo:yolov8",
        "yolox": "jetlens.tasks.heads.yolo:yolox",
        "nanodet": "jetlens.tasks.heads.nanodet:nanodet",
        "fastestdet": "jetlens.tasks.heads.fastestdet:fastestdet",
        "ssd": "jetlens.tasks.heads.ssd:ssd",
        "yunet": "jetlens.tasks.heads.yunet:yunet",
    },
)
