"""Presentation times of a live stream: increasing whatever the camera's clock does."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_DRIFT_S", "Timeline"]

MAX_DRIFT_S: Final = 1.0
"""How far presentation times may leave the times of arrival before the camera's clock counts as set anew."""
_TICK_S: Final = 1e-5


class Timeline:
    """Turns a camera's own times (which wrap, restart, repeat or are missing) into seconds since the first frame.

    The answers strictly increase and stay within ``MAX_DRIFT_S`` of the arrivals, which must be of a monotonic clock.
    """

    def __init__(self) -> None:
        self._start_s: float | None = None
        self._camera_s: float | None = None
        self._shown_s = 0.0

    def restart(self) -> None:
        """Forgets the camera's clock: a new connection may count from anywhere."""
        self._camera_s = None

    def shown_s(self, camera_s: float | None, captured_s: float) -> float:
        """When to show a picture that carries ``camera_s`` and arrived at ``captured_s``."""
        if self._start_s is None:
            self._start_s, self._camera_s = captured_s, camera_s
            return 0.0
        arrival_s = captured_s - self._start_s
        shown_s = arrival_s
        if camera_s is not None and self._camera_s is not None:
            step_s = camera_s - self._camera_s
            if step_s > 0 and abs(self._shown_s + step_s - arrival_s) <= MAX_DRIFT_S:
                shown_s = self._shown_s + step_s
        self._camera_s = camera_s
        self._shown_s = max(shown_s, self._shown_s + _TICK_S)
        return self._shown_s
