"""Breaker: failures of single runs are borne until they come too often."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from jetlens.backends.checks import reason
from jetlens.errors import BackendError

__all__ = ["Breaker", "BreakerOpenError", "RunFailedError"]

MOST_FAILURES: Final = 5
WINDOW_S: Final = 60.0


class RunFailedError(BackendError):
    """One run of a model failed, and the next may succeed: whoever has other pictures goes on with them.

    Attributes:
        reason: in a word or two, for accounts of dropped frames, such as ``worker died``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BreakerOpenError(BackendError):
    """A model failed too often, and is not tried again."""


class Breaker:
    """Counts failures; it opens at the fifth within a minute, and stays open: trying for ever would only heat the machine.

    Args:
        most: failures within the window at which it opens.
        window_s: how long a failure counts.
        clock: seconds, never set back.
    """

    def __init__(self, most: int = MOST_FAILURES, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._window_s, self._clock = most, window_s, clock
        self._times: deque[float] = deque(maxlen=most)
        self.failures = 0
        self.opened = ""

    def failed(self, error: BaseException | str, cause: str = "model failed") -> RunFailedError:
        """Counts one failure; the error to raise for the run that it cost.

        Args:
            error: what happened.
            cause: the same in two words, for accounts.

        Raises:
            BreakerOpenError: it is open, or the failure is that another one is; nothing more should be tried.
        """
        if isinstance(error, BreakerOpenError):
            raise error
        said = error if isinstance(error, str) else reason(error)
        now_s = self._clock()
        self._times.append(now_s)
        self.failures += 1
        if len(self._times) == self._most and now_s - self._times[0] <= self._window_s:
            self.opened = (
                f"the model failed {self._most} times in {now_s - self._times[0]:.0f} s and is not tried again; the last time: {said}"
            )
        if self.opened:
            raise BreakerOpenError(self.opened)
        return RunFailedError(f"one run of the model failed: {said}", cause)
