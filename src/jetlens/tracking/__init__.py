"""Tracking: one id for an object through the frames of a stream, and the score that says how well that went."""

from __future__ import annotations

from jetlens.tracking.idf1 import IdentityScore, identity_score
from jetlens.tracking.tracker import Tracker, TrackerOptions

__all__ = ["IdentityScore", "Tracker", "TrackerOptions", "identity_score"]
