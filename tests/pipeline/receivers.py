"""What tests of everything that sends events share."""

from __future__ import annotations

import time
from typing import Any

from jetlens.pipeline.events import LineCrossed

EVENT = LineCrossed("cam", 1.5, "gate", "forward", 7, "orange")

SECRETS = (
    "s3cret",
    "p@ssw0rd",
    "pass:w0rd",
    "pa/ssword",
    "what?ever",
    "ha#shed",
    "100%sure",
    "%40%3A%2F%3F",
    "t\u00f6kenized",
    "[::secret]",
)


def wait_for(what: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert what()


def longest_send(hook: Any, count: int) -> float:
    longest = 0.0
    for _ in range(count):
        start = time.monotonic()
        hook.send(EVENT)
        longest = max(longest, time.monotonic() - start)
    return longest
