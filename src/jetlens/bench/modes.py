"""The modes of a stream side by side: what is measured of a video or a camera, and the figures of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jetlens.backends.base import Precision
from jetlens.bench.cases import installed_backends, make_cases
from jetlens.bench.figures import calls_ms
from jetlens.bench.gpu import peak_tflops
from jetlens.bench.records import Case, Measurement, Mode, Run
from jetlens.data.orange_line import OrangeLine
from jetlens.errors import InputError, UsageError
from jetlens.media import StreamInfo, open_sink, open_source
from jetlens.media.live.address import shown
from jetlens.media.live.source import LiveSource
from jetlens.spec import ModelSpec

__all__ = ["CAMERA", "Stream", "StreamFigures", "find_stream", "orange_video", "stream_cases", "stream_figures"]

CAMERA = "test://orange-line?live=1&size=720x1280&fps=30&loop=8"
"""The synthetic camera: what a CSI camera of 1280x720 gives, at the cost of a copy a frame."""
_CONNECT_S = 30.0
_DEEPSTREAM = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Stream:
    """A video or camera that is there.

    Attributes:
        uri: how it is opened, secrets included.
        name: how it is shown.
        frames: of a video, that are used; None for all.
        sha256: of a video's file.
    """

    uri: str
    name: str
    live: bool
    size_hw: tuple[int, int]
    fps: float
    frames: int | None = None
    sha256: str = ""

    def plan(self, spec: ModelSpec) -> dict[str, Any]:
        """What ``runner.Plan.stream`` takes."""
        return {
            "name": self.name,
            "live": self.live,
            "size_hw": self.size_hw,
            "fps": self.fps,
            "frames": self.frames,
            "sha256": self.sha256,
            "task": spec.task,
            "network_hw": spec.preprocess.size_hw,
            "gpu": peak_tflops(),
            "open": {"uri": self.uri, "live": self.live, "frames": self.frames},
        }


def find_stream(uri: str, *, live: bool, frames: int | None = None) -> Stream:
    """Opens a source once to see what it is.

    Raises:
        InputError: it cannot be read, or is a camera where a video is asked for, or the other way round.
    """
    name = shown(uri)
    with open_source(uri) as source:
        if isinstance(source, LiveSource) != live:
            other = "is a video: --scenario video --video takes it" if live else "is a camera: --scenario live --camera takes it"
            raise InputError(f"{name} {other}")
        if isinstance(source, LiveSource):
            source.ready(_CONNECT_S)
        else:
            next(iter(source), None)  # what cannot be read is no reason to start a process for each case
        info = source.info
    path = Path(uri)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    used = info.frames if frames is None or live else min(frames, info.frames or frames)
    return Stream(uri, name, live, info.size_hw, info.fps, None if live else used, digest)


@contextmanager
def orange_video(folder: Path, frames: int = 90, size_hw: tuple[int, int] = (512, 512)) -> Iterator[Path]:
    """The conveyor as an encoded file that is removed afterwards."""
    path = folder / "orange-line.mp4"
    line = OrangeLine(frames=frames, size_hw=size_hw)
    with open_sink(path, StreamInfo(size_hw, line.fps, frames, str(path), "generator")) as sink:
        for frame, _ in line:
            sink.write(frame)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def stream_cases(
    model: str, backends: Sequence[str] | None, precisions: Sequence[Precision | None], modes: Sequence[str]
) -> tuple[Case, ...]:
    """Every backend and precision in every mode, DeepStream once a precision; TensorRT is named even where it is absent.

    Raises:
        UsageError: there is no such mode.
        UnknownNameError: there is no such backend.
    """
    unknown = [mode for mode in modes if mode not in get_args(Mode)]
    if unknown:
        raise UsageError(f"--modes {unknown[0]!r}; allowed: {', '.join(get_args(Mode))}")
    names = list(dict.fromkeys([*installed_backends(), "tensorrt"])) if backends is None else list(backends)
    rows = make_cases(model, names, precisions)
    cases = [replace(case, mode=mode) for case in rows for mode in ("single", "threads") if mode in modes]
    if "deepstream" in modes:
        asked = dict.fromkeys(precision or "fp32" for precision in precisions)
        cases += [Case(model, "deepstream", precision, mode="deepstream") for precision in asked if precision in _DEEPSTREAM]
    return tuple(cases)


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """What a row came to.

    Attributes:
        fps: frames over wall time, of all turns; ``lowest_fps`` and ``highest_fps`` of single turns.
        p50_ms: age of a frame from its being read to its being encoded; None where it is not known, p99 also with fewer than 100 frames.
        dropped: share of a camera's frames that nobody could take.
        busiest: the stage that worked most, and the share of the wall time.
        tflops: of the GPU in the row's precision; None where the row runs elsewhere or nothing tells.
    """

    fps: float
    lowest_fps: float
    highest_fps: float
    frames: int
    p50_ms: float | None
    p99_ms: float | None
    dropped: float
    busiest: tuple[str, float] | None
    tflops: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def stream_figures(run: Run, row: Measurement) -> StreamFigures | None:
    """The figures of a row; None where it did not run."""
    if row.refused or not row.blocks:
        return None
    wall_s, frames = sum(block.wall_s for block in row.blocks), sum(block.items for block in row.blocks)
    rates = [block.items / block.wall_s for block in row.blocks]
    ages = calls_ms(row, run.scope, run.scenario)
    dropped = sum(block.dropped for block in row.blocks)
    return StreamFigures(
        fps=frames / wall_s,
        lowest_fps=min(rates),
        highest_fps=max(rates),
        frames=frames,
        p50_ms=float(np.percentile(ages, 50)) if len(ages) else None,
        p99_ms=float(np.percentile(ages, 99)) if len(ages) >= 100 else None,
        dropped=dropped / max(1, dropped + frames),
        busiest=_busiest(row, wall_s),
        tflops=_tflops(row, run.stream.get("gpu") or {}),
    )


def _busiest(row: Measurement, wall_s: float) -> tuple[str, float] | None:
    busy: dict[str, float] = {}
    for block in row.blocks:
        for name, seconds in block.busy_s.items():
            busy[name] = busy.get(name, 0.0) + seconds
    name = max(busy, key=lambda stage: busy[stage], default="")
    return (name, busy[name] / wall_s) if name else None


def _tflops(row: Measurement, gpu: Mapping[str, Any]) -> float | None:
    facts = row.facts
    if facts is None or not any(word in facts.provider.casefold() for word in ("cuda", "tensorrt")):
        return None
    value = gpu.get("fp16" if facts.precision == "fp16" else "fp32")
    return float(value) if value else None
