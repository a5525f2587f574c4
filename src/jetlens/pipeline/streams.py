"""Capacity: how many cameras this machine answers in real time with a model, and what stands in the way of one more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final

from jetlens.errors import BackendError
from jetlens.frame import Frame, Image
from jetlens.media import open_source
from jetlens.media.base import StreamInfo
from jetlens.media.live.status import SourceStatus
from jetlens.pipeline.live import LiveOptions, LivePipeline
from jetlens.pipeline.status import LiveStatus
from jetlens.predictor import Predictor

__all__ = ["Capacity", "LoopCamera", "Trial", "limited_by", "measure", "search", "trials_at_most"]

WARM_S: Final = 1.0
PICTURES: Final = 8
_DELIVERED: Final = 0.97
"""Share of the promised frames that must come at all: else the machine cannot even play the cameras."""


@dataclass(frozen=True, slots=True)
class Trial:
    """So many cameras for a few seconds.

    Attributes:
        answered: frames of all cameras.
        dropped: frames that a newer one replaced.
        least_fps: answers in a second of the camera that had fewest.
        age_p99_ms: of the camera with the oldest results.
        busy: share of the time that each stage worked.
        cpu_share: processor time of this process over that of all cores.
        held: nothing was dropped, and every camera had its rate.
    """

    cameras: int
    answered: int
    dropped: int
    least_fps: float
    age_p99_ms: float
    busy: Mapping[str, float]
    cpu_share: float
    held: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a search found.

    Attributes:
        cameras: the most that were held; 0 for none.
        trials: in the order in which they ran.
        limit: what stands in the way of one more.
        seconds: that the search took.
    """

    cameras: int
    trials: tuple[Trial, ...]
    limit: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python values, ready for JSON."""
        return {
            "cameras": self.cameras,
            "limit": self.limit,
            "seconds": round(self.seconds, 1),
            "trials": [{**asdict(trial), "busy": dict(trial.busy)} for trial in self.trials],
        }


class LoopCamera:
    """A camera that shows a few pictures over and over at an exact rate: it costs a copy a frame, and no decoding."""

    def __init__(self, pictures: Sequence[Image], fps: float, number: int) -> None:
        self._pictures, self._fps = pictures, fps
        self._closing = threading.Event()
        self._start_s = time.monotonic()
        # Cameras are not in step.
        self._phase_s = (number * 0.618034 % 1) / fps
        self._info = StreamInfo((pictures[0].shape[0], pictures[0].shape[1]), fps, None, f"camera {number}", "loop of pictures")

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream."""
        return self._info

    def status(self) -> SourceStatus:
        """Always running, until it is closed."""
        return SourceStatus(self._info.name, "ended" if self._closing.is_set() else "running", self._start_s)

    def __iter__(self) -> Iterator[Frame]:
        start_s, index = time.monotonic() + self._phase_s, 0
        while True:
            due_s = start_s + index / self._fps
            if self._closing.wait(max(0.0, due_s - time.monotonic())):
                return
            image = self._pictures[index % len(self._pictures)].copy()
            # The age of a frame that this machine was too late to show counts from when a camera would have given it.
            yield Frame(image, index, index / self._fps, due_s, self._info.name)
            index += 1

    def close(self) -> None:
        """Ends the iteration."""
        self._closing.set()

    def __enter__(self) -> LoopCamera:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def measure(predictor: Predictor, cameras: int, fps: float, size_hw: tuple[int, int], seconds: float, options: LiveOptions) -> Trial:
    """Runs so many cameras and looks at what became of their frames after a second of warming up."""
    height, width = size_hw
    with open_source(f"test://orange-line?frames={PICTURES}&size={height}x{width}") as source:
        pictures = [frame.image_rgb for frame in source]
    pipeline = LivePipeline([LoopCamera(pictures, fps, n) for n in range(cameras)], predictor, lambda result, drawn: None, options=options)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="jetlens-capacity", daemon=True)
    thread.start()
    try:
        thread.join(WARM_S)
        first, cpu_s, start_s = pipeline.status(), time.process_time(), time.monotonic()
        thread.join(seconds)
        last, cpu_s, wall_s = pipeline.status(), time.process_time() - cpu_s, time.monotonic() - start_s
    finally:
        pipeline.stop()
        thread.join(10)
    if errors:
        raise errors[0]
    if thread.is_alive():
        raise BackendError(f"the model did not answer {cameras} cameras within 10 s; try one that is faster")
    return _judged(first, last, fps, wall_s, cpu_s / (wall_s * (os.cpu_count() or 1)))


def _judged(first: LiveStatus, last: LiveStatus, fps: float, wall_s: float, cpu_share: float) -> Trial:
    """What happened between two snapshots."""
    pairs = list(zip(first.streams, last.streams, strict=True))
    answered = [after.delivered - before.delivered for before, after in pairs]
    captured = [after.captured - before.captured for before, after in pairs]
    dropped = sum(sum(after.dropped.values()) - sum(before.dropped.values()) for before, after in pairs)
    busy = {
        name: (share * last.uptime_s - first.busy.get(name, 0.0) * first.uptime_s) / wall_s
        for name, share in last.busy.items()
        if name != "decode"
    }
    whole = min(captured) >= _DELIVERED * fps * wall_s - 1
    ages = [after.age_p99_ms for _, after in pairs if after.age_p99_ms is not None]
    return Trial(
        cameras=len(pairs),
        answered=sum(answered),
        dropped=dropped,
        least_fps=round(min(answered) / wall_s, 2),
        age_p99_ms=round(max(ages, default=float("inf")), 1),
        busy={name: round(share, 3) for name, share in busy.items()},
        cpu_share=round(cpu_share, 3),
        held=whole and not dropped and min(answered) >= _DELIVERED * fps * wall_s - 2,
    )


def trials_at_most(limit: int) -> int:
    """How many trials a search may take: doubling up and halving back, each failure checked once more."""
    return 3 * max(1, limit.bit_length()) + 1


def search(trial: Callable[[int], Trial], limit: int, report: Callable[[Trial], None] = lambda trial: None) -> Capacity:
    """The most cameras that are held, by doubling and then halving the interval; a failure counts once it came twice.

    Args:
        trial: runs so many cameras.
        limit: no more are tried.
    """
    start_s = time.monotonic()
    trials: list[Trial] = []

    def held(cameras: int) -> bool:
        for _ in range(2):
            trials.append(trial(cameras))
            report(trials[-1])
            if trials[-1].held:
                return True
        return False

    most, above = 0, limit + 1
    cameras = 1
    while most + 1 < above:
        if held(cameras):
            most = cameras
        else:
            above = cameras
        cameras = min(2 * most, limit) if above > limit and most else (most + above) // 2
    failed = [one for one in trials if one.cameras == above and not one.held]
    limited = limited_by(failed[-1]) if failed else f"no more than {limit} were tried"
    return Capacity(most, tuple(trials), limited, time.monotonic() - start_s)


def limited_by(trial: Trial) -> str:
    """What stood in the way of cameras that were not held."""
    name = max(trial.busy, key=lambda stage: trial.busy[stage])
    share = trial.busy[name]
    if trial.cpu_share >= 0.85:
        return f"the processor: {trial.cpu_share:.0%} of all cores busy; the busiest stage is {name}, {share:.0%} of the time"
    if share >= 0.8:
        return f"stage {name}: busy {share:.0%} of the time, while {trial.cpu_share:.0%} of all cores work"
    return f"single late frames: no stage is busy all the time ({name} most, {share:.0%}; {trial.cpu_share:.0%} of all cores)"
