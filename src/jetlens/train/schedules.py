"""Learning-rate schedules: the factor on the peak learning rate as a closed form of the share of the run that is over."""

from __future__ import annotations

import math
from typing import Protocol

from jetlens.train.config import SCHEDULES, TrainConfig

__all__ = ["Constant", "Cosine", "OneCycle", "Plateau", "Schedule", "Step", "build_schedule"]

COSINE_WARM_UP = 0.05
COSINE_LAST = 0.01
CYCLE_WARM_UP = 0.3
CYCLE_FIRST = 1 / 25
CYCLE_LAST = 1 / 25e4


class Schedule(Protocol):
    """Built as ``SomeSchedule(config)``."""

    def factor(self, done: float) -> float:
        """What the peak learning rate is multiplied with when the share ``done`` of the run is over."""
        ...

    def measured(self, score: float) -> None:
        """Hears each validation's figure, higher is better."""
        ...

    def state(self) -> dict[str, float]:
        """What ``restore`` needs to go on from here."""
        ...

    def restore(self, state: dict[str, float]) -> None:
        """Goes on from a saved state."""
        ...


class Constant:
    """The peak from the first step to the last; the others stand on it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def factor(self, done: float) -> float:
        return 1.0

    def measured(self, score: float) -> None:
        """A schedule of the clock alone does not listen."""

    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """A schedule of the clock alone has no state."""


class Step(Constant):
    """``step_factor ** floor(epochs over / step_epochs)``; a third of the epochs each where ``step_epochs`` is not given."""

    def factor(self, done: float) -> float:
        every = self.config.step_epochs or max(1, self.config.epochs // 3)
        return self.config.step_factor ** math.floor(done * self.config.epochs / every + 1e-9)


class Cosine(Constant):
    """Linear warm-up, then a half cosine down to a hundredth of the peak."""

    def factor(self, done: float) -> float:
        warm_up = COSINE_WARM_UP if self.config.warm_up is None else self.config.warm_up
        if done < warm_up:
            return max(done, 1e-3) / warm_up
        return COSINE_LAST + (1 - COSINE_LAST) * _fall(done, warm_up)


class OneCycle(Constant):
    """Up from 1/25 of the peak and down to almost nothing, each by a half cosine (Smith and Topin 2018)."""

    def factor(self, done: float) -> float:
        warm_up = CYCLE_WARM_UP if self.config.warm_up is None else self.config.warm_up
        if done < warm_up:
            return 1 + (CYCLE_FIRST - 1) * 0.5 * (1 + math.cos(math.pi * done / warm_up))
        return CYCLE_LAST + (1 - CYCLE_LAST) * _fall(done, warm_up)


class Plateau(Constant):
    """Multiplies by ``step_factor`` once ``plateau`` validations in a row brought nothing better."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._best, self._stale, self._drops = -math.inf, 0, 0

    def factor(self, done: float) -> float:
        return self.config.step_factor**self._drops

    def measured(self, score: float) -> None:
        if score > self._best:
            self._best, self._stale = score, 0
            return
        self._stale += 1
        if self._stale >= self.config.plateau:
            self._drops, self._stale = self._drops + 1, 0

    def state(self) -> dict[str, float]:
        # JSON knows no infinity.
        return {"best": max(self._best, -1e300), "stale": self._stale, "drops": self._drops}

    def restore(self, state: dict[str, float]) -> None:
        self._best, self._stale, self._drops = state["best"], int(state["stale"]), int(state["drops"])


def _fall(done: float, start: float) -> float:
    """From 1 at ``start`` to 0 at 1 by a half cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - start) / (1 - start))))


def build_schedule(config: TrainConfig) -> Schedule:
    """The schedule that the config names."""
    built: Schedule = SCHEDULES.load(config.schedule)(config)
    return built
