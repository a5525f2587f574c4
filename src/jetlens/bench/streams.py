"""StreamWork: one case of a video or camera in its own process, from the source to an encoded file, in one of the modes."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from jetlens.backends.base import RunFacts
from jetlens.bench.deepstream import DeepStream
from jetlens.bench.records import Block, Case, Memory, WarmUp
from jetlens.bench.scenarios import yardstick_ms
from jetlens.bench.work import gpu_memory_mib
from jetlens.device.nvml import process_memory_mib
from jetlens.device.proc import process_memory, read_memory
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError
from jetlens.frame import Frame
from jetlens.media import Sink, Source, open_sink, open_source
from jetlens.media.live.source import LiveSource
from jetlens.pipeline import Renderer, Result, predict_stream
from jetlens.pipeline.inference import gpu_lanes, usual_lanes
from jetlens.pipeline.live import LiveOptions, LivePipeline, LiveResult
from jetlens.predictor import Predictor, load

__all__ = ["StreamWork"]

_WARM_UP_FRAMES = 10
_CONNECT_S = 30.0


@dataclass
class _Turn:
    """What one turn measures while it runs; the clock of frames is ``time.monotonic()``.

    Args:
        skip: results that come before the turn: a camera's first, which only says that it is connected.
    """

    skip: int = 0
    ages_ms: list[float] = field(default_factory=list)
    first_s: float = 0.0
    last_s: float = 0.0
    dropped: int = 0
    busy_s: Mapping[str, float] = field(default_factory=dict)

    def done(self, frame: Frame) -> None:
        """A frame is encoded."""
        self.last_s = time.monotonic()
        if self.skip:
            self.skip -= 1
            self.first_s = self.last_s
            return
        self.ages_ms.append(1000 * (self.last_s - frame.captured_s))

    def over(self, seconds: float | None) -> bool:
        """Whether a camera's turn has lasted so long."""
        return seconds is not None and bool(self.ages_ms) and self.last_s - self.first_s >= seconds


class StreamWork:
    """A loaded case of a stream; offers what ``work.Work`` offers.

    Args:
        case: with its mode.
        stream: ``uri`` of the source, ``live`` whether it is a camera, ``frames`` of a video that are used (None for all), ``folder`` for
            what is encoded.

    Raises:
        JetlensError: the runtime, device, precision or DeepStream cannot be had here, or memory is too short for the mode.
    """

    def __init__(self, case: Case, path: Path, stream: Mapping[str, Any], *, threads: int | None = None) -> None:
        self._case, self._threads = case, threads
        self._uri, self._live, self._frames = str(stream["uri"]), bool(stream["live"]), stream["frames"]
        self._folder = Path(stream["folder"])
        self.model_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._model_mib = path.stat().st_size / 2**20
        self.engine: dict[str, Any] = {}
        self._deepstream: DeepStream | None = None
        self._predictor: Predictor | None = None
        before_mib, began = gpu_memory_mib(), time.perf_counter()
        if case.mode == "deepstream":
            self._deepstream = DeepStream(path, self._uri, self._folder)
        else:
            self._predictor = load(
                path,
                case.backend,
                case.device,
                precision=None if case.precision in ("fp16", "int8") else case.precision,
                threads=threads,
                lanes=gpu_lanes() if case.mode == "threads" else 1,
                build=BuildOptions(),
            )
        self.load_ms = 1000 * (time.perf_counter() - began)
        self.first_ms = self._first_ms()
        after_mib = gpu_memory_mib()
        self._gpu_mib = None if before_mib is None or after_mib is None else max(0.0, after_mib - before_mib)

    @property
    def facts(self) -> RunFacts:
        """What really runs."""
        return self._deepstream.facts if self._deepstream is not None else self._opened.facts

    def close(self) -> None:
        """Frees the model."""
        if self._predictor is not None:
            self._predictor.close()

    def warm_up(self, scenario: str) -> WarmUp:
        """Lets caches and clocks come up; a camera's turn begins when it has sent its first frame anyway."""
        if self._deepstream is not None:
            return WarmUp()  # it ran when it was opened
        calls: list[float] = []
        with self._source() as source:
            for frame, _ in zip(source, range(_WARM_UP_FRAMES), strict=False):
                began = time.perf_counter()
                self._opened(frame.image_rgb)
                calls.append(1000 * (time.perf_counter() - began))
        return WarmUp(tuple(calls))

    def block(self, scenario: str, block_s: float) -> Block:
        """One turn: the video from its first frame to the closed file, or so many seconds of a camera from its first answer."""
        before, started_s = yardstick_ms(), time.perf_counter()
        seconds = block_s if self._live else None
        if self._deepstream is not None:
            frames, wall_s = self._deepstream.run(seconds)
            return Block(started_s, wall_s, frames, (), yardstick_ms=before + yardstick_ms())
        turn = _Turn(skip=1 if self._live else 0)
        with ExitStack() as stack:
            source = stack.enter_context(self._source())
            sink = stack.enter_context(open_sink(self._folder / f"{os.getpid()}.mp4", source.info))
            started_s = time.perf_counter()
            run = self._single if self._case.mode == "single" else self._threads_run
            run(source, sink, seconds, turn)
            sink.close()
            wall_s = time.perf_counter() - started_s
        if self._live:
            wall_s = turn.last_s - turn.first_s
        if not turn.ages_ms or wall_s <= 0:
            raise BackendError(f"no frame came through within {block_s:g} s; give a longer turn: --block-seconds {2 * block_s:g}")
        ages = tuple(round(age, 3) for age in turn.ages_ms)
        return Block(
            started_s, wall_s, len(ages), ages, dropped=turn.dropped, yardstick_ms=before + yardstick_ms(), busy_s=dict(turn.busy_s)
        )

    def drawings(self, count: int) -> tuple[list[Mapping[str, Any]], list[str]]:
        """None: what is drawn is the video."""
        return [], []

    def memory(self, before_mib: float | None) -> Memory:
        """What this process, or the pipeline that it started, held at most."""
        if self._deepstream is not None:
            children_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            return Memory(peak=children_mib, model=self._model_mib)
        own = process_memory(os.getpid())
        device = (process_memory_mib(os.getpid()) or self._gpu_mib) if self.facts.on_gpu else None
        return Memory(before_mib, own.peak_mib if own else None, device, self._model_mib)

    @property
    def _opened(self) -> Predictor:
        assert self._predictor is not None
        return self._predictor

    def _first_ms(self) -> float:
        """The first call of the model, on the source's first frame; DeepStream does not tell its own."""
        if self._deepstream is not None:
            return 0.0
        with self._source() as source:
            if self._case.mode == "threads":
                self._check_memory(source)
            frame = next(iter(source))
        began = time.perf_counter()
        self._opened(frame.image_rgb)
        return 1000 * (time.perf_counter() - began)

    def _check_memory(self, source: Source) -> None:
        pipeline = self._pipeline(source, lambda result, drawn: None)
        if not pipeline.threaded:
            raise BackendError(
                f"memory is short: frames between the threads may take {pipeline.memory_mib:.0f} MiB, and half of what is free is "
                f"{_half_of_free_mib() or 0:.0f} MiB; the single-frame loop holds one frame"
            )

    def _source(self) -> Source:
        """The stream from its beginning; a camera has sent a frame, so that its size is known."""
        source = open_source(self._uri)
        try:
            if isinstance(source, LiveSource):
                source.ready(_CONNECT_S)
        except BaseException:
            source.close()
            raise
        return source if self._frames is None or self._live else _Cut(source, int(self._frames))

    def _pipeline(self, source: Source, deliver: Callable[[LiveResult, Frame], None]) -> LivePipeline:
        lanes = usual_lanes(self._opened, self._threads, int(self._live), int(not self._live))
        options = LiveOptions(lanes=lanes, memory_mib=_half_of_free_mib())
        return LivePipeline([source], self._opened, deliver, render=[Renderer(self._opened.facts)], draws=True, options=options)

    def _single(self, source: Source, sink: Sink, seconds: float | None, turn: _Turn) -> None:
        """One thread: the next frame is asked for when the last one is encoded."""

        def deliver(result: Result, drawn: Frame) -> None:
            sink.write(drawn)
            turn.done(result.frame)

        stats = predict_stream(_until(source, seconds, turn), self._opened, Renderer(self._opened.facts), deliver, threaded=False)
        if stats.ended_by is not None and not turn.ages_ms:
            raise stats.ended_by
        turn.busy_s = {name: times.busy_s for name, times in stats.stages.items()}
        turn.dropped = source.status().dropped if isinstance(source, LiveSource) else 0

    def _threads_run(self, source: Source, sink: Sink, seconds: float | None, turn: _Turn) -> None:
        """A thread a stage, as in ``jetlens run``."""

        def deliver(result: LiveResult, drawn: Frame) -> None:
            sink.write(drawn)
            turn.done(result.frame)
            if turn.over(seconds):
                pipeline.stop()

        pipeline = self._pipeline(source, deliver)
        guard = threading.Timer((seconds or 0.0) + _CONNECT_S, pipeline.stop)
        if seconds is not None:
            guard.start()
        try:
            stats = pipeline.run()
        finally:
            guard.cancel()
        if pipeline.failures and not turn.ages_ms:
            raise next(iter(pipeline.failures.values()))
        turn.busy_s = {name: times.busy_s for name, times in stats.stages.items()}
        dropped = pipeline.status().streams[0].dropped
        turn.dropped = sum(count for reason, count in dropped.items() if reason != "stopped")


class _Cut:
    """The first frames of a source."""

    def __init__(self, source: Source, frames: int) -> None:
        self._source, self._frames = source, frames
        promised = source.info.frames
        self.info = replace(source.info, frames=frames if promised is None else min(frames, promised))

    def __iter__(self) -> Iterator[Frame]:
        return islice(iter(self._source), self._frames)

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> _Cut:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _until(source: Source, seconds: float | None, turn: _Turn) -> Iterator[Frame]:
    """The source's frames: all of a video, so many seconds of a camera."""
    guard = threading.Timer((seconds or 0.0) + _CONNECT_S, source.close)  # wakes who waits for a camera that fell silent
    if seconds is not None:
        guard.start()
    try:
        for frame in source:
            yield frame
            if turn.over(seconds):
                return
    finally:
        guard.cancel()


def _half_of_free_mib() -> float | None:
    free_mib = read_memory().available_mib
    return None if free_mib is None else free_mib / 2
