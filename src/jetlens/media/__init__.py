"""Frames in and out: sources and sinks."""

from __future__ import annotations

from jetlens.media.base import Sink, Source, StreamInfo
from jetlens.media.sinks import open_sink
from jetlens.media.sources import SOURCES, open_source

__all__ = ["SOURCES", "Sink", "Source", "StreamInfo", "open_sink", "open_source"]
