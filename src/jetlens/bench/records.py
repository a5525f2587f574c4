"""What a run keeps: every single time, what really ran and the state of the machine; figures are computed from these, never stored instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jetlens.backends.base import Device, Precision, RunFacts
from jetlens.errors import UsageError

__all__ = [
    "MODES",
    "SCOPES",
    "STAGES",
    "STREAMS",
    "Block",
    "Case",
    "Gate",
    "Measurement",
    "Memory",
    "Mode",
    "Run",
    "Scenario",
    "Scope",
    "WarmUp",
]

Scenario = Literal["single", "offline", "camera", "multi", "video", "live"]
Scope = Literal["answer", "full", "network"]
Mode = Literal["single", "threads", "deepstream"]
STREAMS: tuple[Scenario, ...] = ("video", "live")
"""Scenarios in which a whole video or camera goes from its source to an encoded file, in one of the modes."""

MODES: dict[Mode, str] = {"single": "single frame", "threads": "threads", "deepstream": "DeepStream"}
"""How frames go through: one thread that reads, infers, draws and encodes; a thread a stage, as in predict and run; NVIDIA's pipeline."""
STAGES = ("decode", "preprocess", "copy_in", "compute", "copy_out", "postprocess", "draw")
"""What one call goes through; copies are there only where the runtime measures them, and are inside of compute elsewhere."""

SCOPES: dict[Scope, tuple[str, ...]] = {"full": STAGES, "answer": STAGES[1:6], "network": STAGES[2:5]}
"""Which stages a latency covers: from the picture's file to the drawn picture, from pixels to answer, the network alone."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked to run; a precision of None is the backend's own for that graph.

    Attributes:
        model: file or name.
        lanes: calls in flight at once.
        size_hw: another input size than the model's own, for graphs whose height and width are free.
        mode: how a stream's frames go through; None for calls.
    """

    model: str
    backend: str
    precision: Precision | None = None
    device: Device = "auto"
    batch: int = 1
    lanes: int = 1
    size_hw: tuple[int, int] | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.lanes < 1:
            raise UsageError(f"batch {self.batch}, lanes {self.lanes}: give 1 or more")

    @property
    def title(self) -> str:
        """Short words for a table's row."""
        size = f"{self.size_hw[0]}x{self.size_hw[1]}" if self.size_hw else ""
        extra = (f"batch {self.batch}" if self.batch > 1 else "", f"{self.lanes} lanes" if self.lanes > 1 else "", size)
        device = "" if self.device == "auto" else self.device
        mode = "" if self.mode in (None, self.backend) else self.mode
        return " ".join(part for part in (self.backend, self.precision or "", device, *extra, mode) if part)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What ran before anything counted.

    Attributes:
        calls_ms: every call after the first.
        windows_ms: the median of each window of calls; it ends when three in a row agree within 10 %.
        settled: whether they did before the cap.
    """

    calls_ms: tuple[float, ...] = ()
    windows_ms: tuple[float, ...] = ()
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """One turn of a case, while all others waited.

    Attributes:
        started_s: reading of ``time.perf_counter()``, the clock of the samples too.
        wall_s: of the whole turn, from the first call's start to the last one's end.
        items: pictures answered.
        calls_ms: the wall time of each call: all its stages; from a frame's arrival to its answer with a camera; from submit to answer
            with several lanes; of a stream from a frame's being read to its being encoded, and empty where that is not known.
        stages_ms: by stage the time of each call, on the host's clock.
        device_ms: by copy_in, compute and copy_out the time of each call on the device, between events; empty where there is none.
        dropped: frames that a camera offered and nobody could take.
        yardstick_ms: times of a fixed piece of arithmetic on the CPU just before and after: how fast the machine was.
        busy_s: by stage of a stream the time that it worked.
    """

    started_s: float
    wall_s: float
    items: int
    calls_ms: tuple[float, ...]
    stages_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    device_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    dropped: int = 0
    yardstick_ms: tuple[float, ...] = ()
    busy_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB, of the case's own process; None where it cannot be known.

    Attributes:
        before: resident, before the runtime was imported.
        peak: the most that was ever resident.
        device: what loading and running took of the GPU's memory.
        model: the file's size.
        engine: the size of the engine that the runtime built from it.
    """

    before: float | None = None
    peak: float | None = None
    device: float | None = None
    model: float | None = None
    engine: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A check of a case, and its figures in words."""

    name: Literal["numeric", "accuracy"]
    passed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One case after it ran, or until it stopped.

    Attributes:
        facts: what really ran.
        model_sha256: of the file that ran.
        input_sha256: of the uint8 batch that every backend was given for the comparison of outputs.
        load_ms: opening the model, an engine's build included.
        first_ms: the first call, kept apart from the steady state.
        planned: blocks that were to be run; fewer are an incomplete measurement.
        deviation: from the reference, on identical input.
        accuracy: metric name to value, and ``pictures``, their number.
        intervals: 95 % of each of these over pictures drawn again.
        predictions: of the first pictures, ready for JSON.
        overlays: the same pictures with the prediction drawn in, as base64 of PNG files; pages show JPEG too.
        differences: how far each of these drawings is from the reference's, as base64 of PNG files.
        engine: what is known of the engine that the runtime built: layers by precision, build time, notes; empty where it builds none.
        failed: why the case could not run, or how it ended.
    """

    case: Case
    facts: RunFacts | None = None
    model_sha256: str = ""
    input_sha256: str = ""
    load_ms: float = 0.0
    first_ms: float = 0.0
    warm_up: WarmUp = WarmUp()
    blocks: tuple[Block, ...] = ()
    planned: int = 0
    memory: Memory = Memory()
    deviation: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    predictions: tuple[Mapping[str, Any], ...] = ()
    overlays: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

    @property
    def precision(self) -> str | None:
        """That which ran, or where nothing did, the one that was asked for."""
        return self.facts.precision if self.facts else self.case.precision

    @property
    def refused(self) -> str:
        """Why its speed may not be shown: it failed, or a gate did; empty where it may."""
        return self.failed or next((f"{gate.name} gate: {gate.why}" for gate in self.gates if not gate.passed), "")

    @property
    def complete(self) -> bool:
        """Whether every planned block ran."""
        return not self.failed and len(self.blocks) >= self.planned


@dataclass(frozen=True, slots=True)
class Run:
    """All that one ``jetlens bench`` measured.

    Attributes:
        created: when it began, ISO 8601 with its zone.
        ended: ``done``, or ``interrupted``; empty in the file of a run that was killed.
        versions: of jetlens, Python, NumPy.
        command: as it was typed.
        scenario: single, offline, camera or multi for calls, video or live for a stream; ``fps`` is the camera's.
        scope: which stages the headline latency covers.
        images: path or name of every picture; ``images_sha256`` is of all their bytes.
        machine: its facts.
        state_before: clocks, temperatures, power mode, throttling before the first block; ``state_after`` after the last.
        samples: ``device.sampling.Samples.as_dict()``: power, load, memory, temperatures and clocks over time, on the blocks' clock.
        idle: the same before the work began.
        overhead_ms: what the bench's own clock readings add to one call.
        reference: the case whose outputs the others are compared with; empty if there is none.
        unscored: why the accuracy that was asked for could not be measured; empty where it was, or was not asked for.
        stream: of a video or camera its name, size, rate, frames and hash, the task, the network's size and what is known of the GPU.
    """

    created: str
    measurements: tuple[Measurement, ...]
    ended: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    scenario: Scenario = "single"
    fps: float | None = None
    scope: Scope = "answer"
    images: tuple[str, ...] = ()
    images_sha256: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    state_before: Mapping[str, Any] = field(default_factory=dict)
    state_after: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    idle: Mapping[str, Any] = field(default_factory=dict)
    overhead_ms: float = 0.0
    reference: str = ""
    unscored: str = ""
    stream: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scenario not in get_args(Scenario):
            raise UsageError(f"scenario {self.scenario!r}; allowed: {', '.join(get_args(Scenario))}")
        if self.scope not in SCOPES:
            raise UsageError(f"scope {self.scope!r}; allowed: {', '.join(SCOPES)}")

    @property
    def complete(self) -> bool:
        """Whether it ended by itself and every case ran all its blocks or failed for a reason that it names."""
        return self.ended == "done" and all(row.complete or row.failed for row in self.measurements)

    @property
    def counts(self) -> tuple[int, int]:
        """Blocks that ran, and blocks that were planned for the cases that did not fail."""
        rows = [row for row in self.measurements if not row.failed]
        return sum(len(row.blocks) for row in rows), sum(row.planned for row in rows)
