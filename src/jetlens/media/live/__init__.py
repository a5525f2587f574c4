"""Cameras and network streams that come back by themselves."""

from __future__ import annotations

from jetlens.media.live.source import LiveSource, Timing
from jetlens.media.live.status import SourceStatus, State

__all__ = ["LiveSource", "SourceStatus", "State", "Timing"]
