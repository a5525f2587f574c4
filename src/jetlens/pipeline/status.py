"""LiveStatus: a snapshot of a running pipeline and of each of its streams, and the hook by which viewers get its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jetlens.backends.base import RunFacts
from jetlens.frame import Frame
from jetlens.results import Prediction

__all__ = ["LiveStatus", "Observer", "StreamStatus"]


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream at one moment; ``captured == delivered + under_way + sum(dropped.values())`` at every moment.

    Attributes:
        name: without credentials.
        live: whether it is a camera, whose old frames are dropped; a file loses none.
        state: opening, running, stalled, reconnecting, paused or ended.
        reason: why it last left ``running``, one line; empty where nothing happened.
        size_hw: of its newest frame; (0, 0) before the first.
        fps: results in a second, over the last seconds.
        captured_fps: frames that arrived in a second, over the last seconds.
        captured: frames that the source gave.
        delivered: frames whose result reached every sink.
        dropped: frames that got no result, by reason: ``newer frame``, ``paused``, ``target rate``, ``stopped``,
            ``before the pipeline`` (in the source itself), ``worker died``, ``worker hung``,
            ``model failed``, ``nothing to carry over``.
        under_way: frames that are between the two.
        corrupt: frames or packets that could not be decoded; they are in none of the other counts.
        reconnects: how often the source came back.
        age_p50_ms: median time from capture to result of the last results; None before the first.
        age_p99_ms: the 99th percentile of the same.
        index: number of the frame that ``prediction`` is of; -1 before the first.
        prediction: the last answer.
    """

    name: str
    live: bool
    state: str
    reason: str = ""
    size_hw: tuple[int, int] = (0, 0)
    fps: float = 0.0
    captured_fps: float = 0.0
    captured: int = 0
    delivered: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    under_way: int = 0
    corrupt: int = 0
    reconnects: int = 0
    age_p50_ms: float | None = None
    age_p99_ms: float | None = None
    index: int = -1
    prediction: Prediction | None = None

    @property
    def why(self) -> str:
        """The reason without the stream's own name, which stands beside it."""
        return self.reason.removeprefix(f"{self.name}: ")

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as plain Python values, ready for JSON; the last answer stands under ``answer``."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        rounded = {name: None if (value := getattr(self, name)) is None else round(value, 2) for name in _ROUNDED}
        answer = None if self.prediction is None else self.prediction.to_dict()
        return {**plain, **rounded, "size_hw": list(self.size_hw), "dropped": dict(self.dropped), "answer": answer}


_PLAIN = ("name", "live", "state", "reason", "captured", "delivered", "under_way", "corrupt", "reconnects", "index")
_ROUNDED = ("fps", "captured_fps", "age_p50_ms", "age_p99_ms")


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """The whole pipeline at one moment.

    Attributes:
        streams: in the order in which the sources were given; their number and names never change.
        model: the model's name.
        task: classification, detection or segmentation.
        facts: what really runs.
        started_unix_s: wall clock when it started.
        uptime_s: since then.
        state: running, paused, stopping or ended.
        batches: runs of the model until now.
        frames: pictures in them.
        busy: share of the time since the start that each stage worked, 0 to 1, by name.
        memory_mib: most that frames between capture and sink can take.
        note: how it runs where that is not the usual way, such as in one thread; empty otherwise.
        changes: steps of the adaptive mode until now.
    """

    streams: tuple[StreamStatus, ...]
    model: str
    task: str
    facts: RunFacts
    started_unix_s: float
    uptime_s: float
    state: str
    batches: int = 0
    frames: int = 0
    busy: Mapping[str, float] = field(default_factory=dict)
    memory_mib: float = 0.0
    note: str = ""
    changes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as plain Python values, ready for JSON."""
        facts = {name: getattr(self.facts, name) for name in ("backend", "version", "provider", "device", "precision")}
        return {
            "model": self.model,
            "task": self.task,
            **facts,
            "state": self.state,
            "started_unix_s": round(self.started_unix_s, 3),
            "uptime_s": round(self.uptime_s, 3),
            "batches": self.batches,
            "frames": self.frames,
            "busy": {name: round(share, 3) for name, share in self.busy.items()},
            "memory_mib": round(self.memory_mib, 1),
            "note": self.note,
            "changes": self.changes,
            "streams": [stream.to_dict() for stream in self.streams],
        }


class Observer(Protocol):
    """Who looks on: a web page, a window. Both methods are called from the pipeline's own thread and must return at once."""

    def wanted(self, stream: str) -> bool:
        """Whether anybody looks at this stream now; frames that nobody wants are not drawn."""
        ...

    def show(self, frame: Frame, prediction: Prediction) -> None:
        """Takes the newest frame of ``frame.stream`` with the result drawn into it.

        Keep the reference and return; the array may be read as long as wanted, and never written to.
        """
        ...
