"""Adaptive mode: holds the rate of cameras by looking at fewer of their frames, then by a model of lower precision, and goes back up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import Precision
from jetlens.device.readers import Reader, find_readers
from jetlens.device.reading import merge
from jetlens.errors import JetlensError
from jetlens.frame import Frame
from jetlens.pipeline.status import LiveStatus
from jetlens.predictor import Predictor, model_path
from jetlens.results import Detections, Prediction

__all__ = ["FULL", "Between", "Change", "Level", "Load", "Policy", "RateHolder", "ThrottlingWatch", "ladder", "open_lower"]

_BEHIND: Final = 0.95
"""Below this share of the wanted rate a camera is behind."""
_ROOM: Final = 0.85
"""The model may be busy for this share of the time on the better level."""
_FALL_S: Final = 2.0
"""So long behind before a step down: one slow moment is no reason."""
_SETTLE_S: Final = 5.0
"""After a step nothing is judged for so long: rates are those of the last three seconds."""
_PATIENCE_S: Final = 10.0
_MOST_PATIENCE_S: Final = 160.0
"""So long there must be room before a step up; doubled each time that a step up did not last, up to the second."""
_LASTS_S: Final = 60.0
_MOST_A_MINUTE: Final = 6
_LOWER_COST: Final = 0.6
"""What a run in lower precision is taken to cost before it was tried: only a wrong step up depends on it, and patience ends those."""
_LOWER: Final[Mapping[str, tuple[Precision, ...]]] = {"fp32": ("fp16", "int8"), "bf16": ("int8",), "fp16": ("int8",)}
_CLOSING_S: Final = 0.3
_GAP_S: Final = 0.5
"""After a longer gap between frames nothing is carried over."""


@dataclass(frozen=True, slots=True)
class Level:
    """One way to run.

    Attributes:
        every: each so-many-th frame of a stream goes through the model; what is between is tracked or keeps the last answer.
        spare: whether the model of lower precision answers.
        cost: work of the model a frame, 1 at full quality.
    """

    name: str
    every: int = 1
    spare: bool = False
    cost: float = 1.0


FULL: Final = Level("every frame")


def ladder(lower: str | None = None) -> tuple[Level, ...]:
    """The levels from the best to the cheapest.

    Args:
        lower: the precision of a second model that is there; None for none.
    """
    skipping = [FULL, Level("every 2nd frame", 2, cost=1 / 2), Level("every 3rd frame", 3, cost=1 / 3)]
    return (*skipping, *([Level(f"every 3rd frame, {lower}", 3, True, _LOWER_COST / 3)] if lower else []))


@dataclass(frozen=True, slots=True)
class Load:
    """How it goes.

    Attributes:
        fps: results a second of the camera that is furthest behind.
        wanted_fps: what it should have: the target, or what the camera gives where that is less.
        busy: share of the time that the model worked.
        throttling: why the machine holds its clocks down; empty where it does not, or nothing tells.
    """

    fps: float
    wanted_fps: float
    busy: float
    throttling: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One step."""

    before: Level
    after: Level
    cause: str

    def __str__(self) -> str:
        return f"quality: {self.before.name} -> {self.after.name}: {self.cause}"


class Policy:
    """Decides when to go down and up the levels; it has no clock and no machine of its own.

    Down after 2 s behind the wanted rate. Up after 10 s in which the better level would leave the model idle for 15 % of the time, the rate
    was held and nothing throttled; each step up that did not last doubles that wait. At most 6 steps a minute.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        self._at = 0
        self._behind_s: float | None = None
        self._room_s: float | None = None
        self._climbed_s: float | None = None
        self._patience_s = _PATIENCE_S
        self._times: deque[float] = deque(maxlen=_MOST_A_MINUTE)

    @property
    def level(self) -> Level:
        """The one that it is at."""
        return self.levels[self._at]

    def update(self, now_s: float, load: Load) -> Change | None:
        """Looks at the load; the step to take now, if any."""
        if self._times and now_s - self._times[-1] < _SETTLE_S:
            return None
        self._look(now_s, load)
        if len(self._times) == _MOST_A_MINUTE and now_s - self._times[0] < 60:
            return None
        if self._behind_s is not None and now_s - self._behind_s >= _FALL_S and self._at + 1 < len(self.levels):
            if self._climbed_s is not None:
                self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
            held = f"; throttling: {', '.join(load.throttling)}" if load.throttling else ""
            return self._step(now_s, 1, f"{load.fps:.1f} of {load.wanted_fps:.1f} FPS{held}")
        if self._room_s is not None and now_s - self._room_s >= self._patience_s:
            self._climbed_s = now_s
            return self._step(now_s, -1, f"there is room: the model is busy {load.busy:.0%} of the time at {load.fps:.1f} FPS")
        return None

    def _look(self, now_s: float, load: Load) -> None:
        """Notes since when it is behind, and since when there is room."""
        behind = load.fps < _BEHIND * load.wanted_fps
        room = self._at > 0 and not behind and not load.throttling and self._busy_above(load) <= _ROOM
        self._behind_s = _since(self._behind_s, behind, now_s)
        self._room_s = _since(self._room_s, room, now_s)
        if self._climbed_s is not None and now_s - self._climbed_s > _LASTS_S:
            self._climbed_s, self._patience_s = None, _PATIENCE_S

    def _busy_above(self, load: Load) -> float:
        return load.busy * self.levels[self._at - 1].cost / self.level.cost

    def _step(self, now_s: float, by: int, cause: str) -> Change:
        before = self.level
        self._at += by
        self._behind_s = self._room_s = None
        self._times.append(now_s)
        return Change(before, self.level, cause)


def _since(start_s: float | None, holds: bool, now_s: float) -> float | None:
    """Since when something holds."""
    return (now_s if start_s is None else start_s) if holds else None


class Adaptable(Protocol):
    """What can run at several levels."""

    def adapt(self, level: Level) -> None:
        """From now on runs like this."""
        ...


class RateHolder:
    """Looks at snapshots of a pipeline, and takes the policy's steps.

    Args:
        target_fps: results a second of each camera.
        tell: takes a line for people at each step.
        throttling: why the machine holds its clocks down now; None where nothing tells.
    """

    def __init__(
        self,
        policy: Policy,
        pipeline: Adaptable,
        target_fps: float,
        tell: Callable[[str], None],
        throttling: Callable[[], tuple[str, ...] | None] = lambda: None,
    ) -> None:
        self._policy, self._pipeline, self._target_fps = policy, pipeline, target_fps
        self._tell, self._throttling = tell, throttling
        self._before: tuple[float, float] | None = None

    def update(self, status: LiveStatus) -> None:
        """Looks at a snapshot; call it about once a second."""
        now_s, worked_s = status.uptime_s, status.busy.get("infer", 0.0) * status.uptime_s
        before, self._before = self._before, (now_s, worked_s)
        cameras = [stream for stream in status.streams if stream.live and stream.state == "running" and stream.captured_fps > 0]
        if before is None or now_s <= before[0] or not cameras or status.state != "running":
            return
        busy = (worked_s - before[1]) / (now_s - before[0])
        rates = [(stream.fps, min(self._target_fps, stream.captured_fps)) for stream in cameras]
        fps, wanted_fps = min(rates, key=lambda pair: pair[0] / pair[1])
        change = self._policy.update(now_s, Load(fps, wanted_fps, busy, self._throttling() or ()))
        if change is not None:
            self._pipeline.adapt(change.after)
            self._tell(str(change))


class ThrottlingWatch:
    """Asks this machine every two seconds whether anything holds its clocks down, in a thread of its own; a context manager.

    Args:
        open_readers: gives the sources; called in the thread, because some need seconds to start.
    """

    def __init__(self, interval_s: float = 2.0, open_readers: Callable[[float], Sequence[Reader]] = lambda s: find_readers(s)) -> None:
        self._interval_s, self._open_readers = interval_s, open_readers
        self._now: tuple[str, ...] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="jetlens-throttling")

    def now(self) -> tuple[str, ...] | None:
        """What was told last; None where nothing tells."""
        return self._now

    def __enter__(self) -> ThrottlingWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_CLOSING_S)

    def _follow(self) -> None:
        readers = self._open_readers(self._interval_s)
        try:
            while not self._stop.wait(self._interval_s):
                self._now = merge([reader.read() for reader in readers]).throttling
        finally:
            for reader in readers:
                reader.close()


def open_lower(model: str | Path, running: Predictor, opening: Callable[[Path, str, Precision], Predictor]) -> Predictor | None:
    """The same model in lower precision, where its file is there already and it really runs so; nothing is made or built for it.

    Args:
        model: as it was given for ``running``.
        opening: loads a file on a backend in a precision.
    """
    path = model_path(model)
    for precision in _LOWER.get(running.facts.precision, ()):
        if not path.with_name(f"{path.stem}.{precision}.onnx").is_file():
            continue
        try:
            # auto takes an engine of TensorRT only where it is built already.
            spare = opening(path, "auto" if running.facts.backend == "tensorrt" else running.facts.backend, precision)
        except JetlensError:
            continue
        same = (spare.facts.backend, spare.spec.task, spare.spec.labels) == (running.facts.backend, running.spec.task, running.spec.labels)
        if same and spare.facts.precision == precision:
            return spare
        spare.close()
    return None


class Between:
    """Answers for the frames of one stream that the model does not see: tracked boxes move on, everything else stays as it was."""

    def __init__(self) -> None:
        self._last: tuple[float, Prediction] | None = None
        self._speed: dict[int, NDArray[np.float32]] = {}
        self._seen: tuple[float, tuple[int, int]] | None = None
        self._count = 0

    def looks(self, frame: Frame, every: int) -> bool:
        """Whether the model has to see this frame: it is its turn, or nothing of the frames before can be carried over to it."""
        seen, self._seen = self._seen, (frame.captured_s, frame.size_hw)
        fresh = seen is None or seen[1] != frame.size_hw or frame.captured_s - seen[0] > _GAP_S
        self._count = 1 if fresh or self._count >= every else self._count + 1
        return self._count == 1

    def keep(self, prediction: Prediction, frame: Frame) -> None:
        """Keeps what the model said of a frame."""
        if isinstance(prediction, Detections) and prediction.tracker_id is not None:
            boxes = dict(zip(prediction.tracker_id.tolist(), prediction.xyxy, strict=True))
            passed_s = frame.pts_s - self._last[0] if self._last is not None else 0.0
            old = self._boxes()
            self._speed = {key: (box - old[key]) / passed_s for key, box in boxes.items() if key in old} if passed_s > 0 else {}
        self._last = (frame.pts_s, prediction)

    def answer(self, frame: Frame) -> Prediction | None:
        """What is said of a frame in between; None where the model has said nothing yet."""
        if self._last is None:
            return None
        kept_s, prediction = self._last
        if not isinstance(prediction, Detections) or prediction.tracker_id is None or not len(prediction):
            return prediction
        height, width = frame.size_hw
        still = np.zeros(4, np.float32)
        speed = np.array([self._speed.get(key, still) for key in prediction.tracker_id.tolist()], np.float32)
        moved = prediction.xyxy + speed * np.float32(frame.pts_s - kept_s)
        return replace(prediction, xyxy=np.clip(moved, 0, np.array([width, height, width, height], np.float32)), mask=None)

    def _boxes(self) -> dict[int, NDArray[np.float32]]:
        if self._last is None or not isinstance(self._last[1], Detections) or self._last[1].tracker_id is None:
            return {}
        return dict(zip(self._last[1].tracker_id.tolist(), self._last[1].xyxy, strict=True))
