"""Streams: stages in order, one thread each, with bounded queues between them."""

from __future__ import annotations

from jetlens.pipeline.render import Renderer
from jetlens.pipeline.stages import Stage, run_stages
from jetlens.pipeline.statistics import StreamStats
from jetlens.pipeline.stream import Result, predict_stream

__all__ = ["Renderer", "Result", "Stage", "StreamStats", "predict_stream", "run_stages"]
