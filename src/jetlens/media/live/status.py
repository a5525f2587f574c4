"""What a live source says of itself at any moment, for pages, logs and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["SourceStatus", "State"]

State: TypeAlias = Literal["opening", "running", "stalled", "reconnecting", "ended"]
"""opening: no frame yet; stalled: connected, and no frame for too long; reconnecting: the connection is lost; ended: closed."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One camera's state.

    ``captured`` = frames delivered + ``dropped`` + at most one that waits to be taken.

    Attributes:
        name: the address without user, password and query.
        since_s: reading of ``time.monotonic()`` when this state began.
        reconnects: how many times frames came again after an outage.
        corrupt: pictures that arrived and could not be decoded; none of them was delivered.
        captured: pictures that arrived sound.
        dropped: sound pictures that were never delivered, because a newer one replaced them or the connection was lost.
        reason: why the last outage or damage happened, one line without secrets; empty where nothing did.
    """

    name: str
    state: State
    since_s: float
    reconnects: int = 0
    corrupt: int = 0
    captured: int = 0
    dropped: int = 0
    reason: str = ""
