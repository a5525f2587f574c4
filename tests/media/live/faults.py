"""Rounds of faults on one camera, and what a reader made of them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from jetlens.media.live import LiveSource

__all__ = ["Outcome", "fault_rounds", "percentile"]


class Camera(Protocol):
    uri: str

    @property
    def number(self) -> int: ...
    def fail(self, mode: str) -> None: ...
    def heal(self) -> None: ...


@dataclass
class Outcome:
    """What was seen over some faults; times in seconds."""

    recovered_s: list[float] = field(default_factory=list)
    noticed_s: list[float] = field(default_factory=list)
    lost: int = 0
    stale: int = 0
    strange: int = 0

    def add(self, other: Outcome) -> None:
        self.recovered_s += other.recovered_s
        self.noticed_s += other.noticed_s
        self.lost += other.lost
        self.stale += other.stale
        self.strange += other.strange


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Watcher:
    """Takes every frame of a source in a thread and notes number and time."""

    def __init__(self, source: LiveSource, number_of: Callable[[Any], int]) -> None:
        self.seen: list[tuple[float, int]] = []
        self._number_of = number_of
        self._source = source
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def _watch(self) -> None:
        for frame in self._source:
            self.seen.append((time.monotonic(), self._number_of(frame.image_rgb)))


def fault_rounds(camera: Camera, source: LiveSource, number_of: Callable[[Any], int], fault: str, rounds: int, seed: int) -> Outcome:
    """Lets a camera fail and heal so often; every outage is long enough that it must be noticed."""
    outcome, rng = Outcome(), random.Random(seed)
    with source:
        watcher = Watcher(source, number_of)
        source.ready(10)
        for _ in range(rounds):
            time.sleep(rng.uniform(0.3, 0.5))
            before = len(watcher.seen)
            camera.fail(fault)
            failed_s = time.monotonic()
            while source.status().state == "running" and time.monotonic() < failed_s + 5:
                time.sleep(0.005)
            outcome.noticed_s.append(time.monotonic() - failed_s)
            old = camera.number
            time.sleep(max(0.0, failed_s + rng.uniform(1.6, 2.4) - time.monotonic()))
            camera.heal()
            healed_s = time.monotonic()
            while not (len(watcher.seen) > before and watcher.seen[-1][0] > healed_s) and time.monotonic() < healed_s + 10:
                time.sleep(0.005)
            fresh = [seen for seen in watcher.seen if seen[0] > healed_s]
            outcome.lost += not fresh
            outcome.recovered_s.append(fresh[0][0] - healed_s if fresh else 10.0)
            outcome.stale += sum(number < old for _, number in fresh)
    watcher.thread.join(5)
    numbers = [number for _, number in watcher.seen]
    outcome.strange += numbers.count(-1) + sum(after <= before for before, after in pairwise(numbers))
    return outcome
