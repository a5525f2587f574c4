"""Cameras, a batcher and stages on a clock that the test moves: hours of streaming in seconds, the same every time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jetlens.frame import Frame
from jetlens.media import StreamInfo
from jetlens.media.live.status import SourceStatus
from jetlens.pipeline.batching import Batcher, Pacer, Taken, Way
from jetlens.pipeline.capture import Capture
from jetlens.results import Classification

PIXEL = np.zeros((1, 1, 3), np.uint8)
ANSWER = Classification(np.array([0]), np.array([1.0], np.float32), (1, 1), ("x",))


class Camera:
    """A live source that never gives a frame by itself."""

    def __init__(self, name: str, fps: float = 30.0) -> None:
        self.info = StreamInfo((1, 1), fps, None, name, "simulated")
        self.name = name

    def status(self) -> SourceStatus:
        return SourceStatus(self.name, "running", 0.0)

    def __iter__(self) -> Any:
        return iter(())

    def close(self) -> None: ...

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass
class Line:
    """``run`` moves the clock by one millisecond a step.

    Attributes:
        fps: of each camera; 0 for a dead one.
        work_s: how long each stage takes for a batch, a function of its size.
        ages_s: by camera, pairs of the answer's time and age.
    """

    fps: Sequence[float]
    work_s: Sequence[Any]
    largest: int = 1
    wait_s: float = 0.010
    paced: bool = True
    jitter_s: float = 0.0
    workers: Sequence[int] = ()
    now_s: float = 0.0
    ages_s: list[list[tuple[float, float]]] = field(init=False)

    def __post_init__(self) -> None:
        changed = threading.Condition()
        self.captures = [Capture(Camera(f"camera {i}", fps), f"camera {i}", changed, clock=self.clock) for i, fps in enumerate(self.fps)]
        self.pacer = Pacer([f"stage {i}" for i in range(len(self.work_s))], self.workers)
        self.batcher = Batcher(
            self.captures, changed, largest=self.largest, wait_s=self.wait_s, pacer=self.pacer, paced=self.paced, clock=self.clock
        )
        self.waiting: list[deque[Taken]] = [deque() for _ in self.work_s]
        self.working: list[deque[tuple[float, Taken, Way]]] = [deque() for _ in self.work_s]
        self.ages_s = [[] for _ in self.fps]
        self.sizes: list[int] = []
        self.most_under_way = 0
        self._rng = np.random.default_rng(0)
        self._next_s = [0.003 * i for i in range(len(self.fps))]
        self._count = [0] * len(self.fps)

    def clock(self) -> float:
        return self.now_s

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 1000)):
            self.step()

    def step(self) -> None:
        for number, (fps, capture) in enumerate(zip(self.fps, self.captures, strict=True)):
            while fps and self._next_s[number] <= self.now_s + 1e-6:
                capture.offer(Frame(PIXEL, self._count[number], self.now_s, self.now_s, capture.name))
                self._count[number] += 1
                self._next_s[number] += 1 / fps
        for stage in reversed(range(len(self.work_s))):
            self._work(stage)
        if not self.waiting[0] and (taken := self.batcher.poll()) is not None:
            self.sizes.append(len(taken))
            self.waiting[0].append(taken)
        held = sum(len(taken) for queue in self.waiting for taken in queue) + sum(len(at[1]) for stage in self.working for at in stage)
        self.most_under_way = max(self.most_under_way, held + sum(capture.waiting for capture in self.captures))
        self.now_s += 0.001

    def _work(self, stage: int) -> None:
        held = self.working[stage]
        # In order: one that is done waits for those before it.
        while held and held[0][0] <= self.now_s + 1e-6:
            if stage + 1 < len(self.work_s) and self.waiting[stage + 1]:
                break  # no room before the next stage
            _, taken, way = held.popleft()
            self.pacer.end(way, self.now_s)
            if stage + 1 < len(self.work_s):
                self.waiting[stage + 1].append(taken)
            else:
                self._deliver(taken)
        while len(held) < self.pacer.workers[stage] and self.waiting[stage]:
            taken = self.waiting[stage].popleft()
            way = self.pacer.begin(stage, self.now_s)
            noise_s = self.jitter_s * float(self._rng.standard_normal())
            held.append((self.now_s + max(0.0, self.work_s[stage](len(taken)) + noise_s), taken, way))

    def _deliver(self, taken: Taken) -> None:
        for capture, frame in taken:
            age_ms = capture.answered(frame, ANSWER)
            self.ages_s[self.captures.index(capture)].append((self.now_s, age_ms / 1e3))
            capture.deliver()

    def p99_s(self, camera: int) -> float:
        return float(np.percentile([age for _, age in self.ages_s[camera]], 99))

    def slope(self, camera: int) -> float:
        """Seconds of age a second."""
        times, ages = zip(*self.ages_s[camera], strict=True)
        return float(np.polyfit(times, ages, 1)[0])
