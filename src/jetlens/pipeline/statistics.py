"""StreamStats: how many frames went through, in what time, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jetlens.errors import InputError

__all__ = ["StageTimes", "StreamStats"]


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Time that one stage spent on its frames, waiting for others left out.

    Attributes:
        busy_s: wall time, added up over the stage's threads.
        cpu_s: processor time of the stage's own threads; threads inside a runtime or codec are not in it.
    """

    busy_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream's run came to.

    Attributes:
        frames: how many reached the end.
        wall_s: from before the first frame was asked for to after the last one was delivered.
        stages: times by stage name, in order.
        ended_by: why the source ended before its end or was damaged, None where it was whole; not raised, so look at it.
    """

    frames: int
    wall_s: float
    stages: Mapping[str, StageTimes]
    ended_by: InputError | None = None

    @property
    def fps(self) -> float:
        """Average rate: frames over wall time, decoding, drawing and encoding included."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0
