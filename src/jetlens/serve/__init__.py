"""What a running pipeline shows over HTTP: the live page."""

from __future__ import annotations

from jetlens.serve.live_page import LivePage

__all__ = ["LivePage"]
