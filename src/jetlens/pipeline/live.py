"""LivePipeline: cameras and files through one session, as fresh as the machine allows, and every frame accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import UsageError
from jetlens.frame import Frame
from jetlens.media.base import Source
from jetlens.pipeline.batching import Batcher, Pacer, Taken
from jetlens.pipeline.capture import Capture
from jetlens.pipeline.inference import Inference, InFlight, LanedInference, PlainInference
from jetlens.pipeline.stages import Stage, run_stages
from jetlens.pipeline.statistics import StageTimes, StreamStats
from jetlens.pipeline.status import LiveStatus, Observer
from jetlens.pipeline.stream import Result
from jetlens.predictor import Predictor
from jetlens.results import Prediction

__all__ = ["LiveOptions", "LivePipeline", "LiveResult"]

DEPTH: Final = 1
"""Batches that may wait before a stage: with cameras the pacer lets none wait."""
CLOSING_S: Final = 1.2
"""How long sources may take to close; one that hangs is left behind."""
SIGNALS_S: Final = 0.2
"""A signal that another thread received is seen after this time at the latest."""
UNKNOWN_SIZE_HW: Final = (1080, 1920)
"""Taken for a camera that has not told its size yet, in the statement of memory."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How streams share a session.

    Attributes:
        largest_batch: pictures in one run at most; None for one of each stream on a GPU, as far as the model takes it, and one on a
            processor, where a batch takes as long as its pictures one by one and only makes the first of them wait.
        batch_wait_s: how long a frame may wait for those of other streams.
        lanes: runs in flight, where the session was opened with so many.
        most_fps: frames of each camera that are answered in a second at most; None for all that can be.
        memory_mib: what frames under way may take; with more the stages run in one thread. None for no limit.
    """

    largest_batch: int | None = None
    batch_wait_s: float = 0.010
    lanes: int = 1
    most_fps: float | None = None
    memory_mib: float | None = None


@dataclass(frozen=True, slots=True)
class LiveResult(Result):
    """A frame of one of several streams, and what the model says of it.

    Attributes:
        stream: number of the source, from 0.
        age_ms: time from the frame's capture to its answer.
        batch: pictures that went through the model with it.
    """

    stream: int
    age_ms: float
    batch: int


Refine = Callable[[Prediction, Frame], Prediction]
Render = Callable[[LiveResult], Frame]
Deliver = Callable[[LiveResult, Frame], None]


@dataclass(slots=True)
class _Batch:
    """Frames on their way; ``results`` once they are answered."""

    taken: Taken
    flight: InFlight
    results: list[tuple[LiveResult, Frame, bool]]
    dropped: bool = False


class LivePipeline:
    """Runs every source through one predictor until all have ended or ``stop`` is called.

    Each source is read in its own thread; ``prepare`` (preprocessing), ``infer`` (the model), ``draw`` (with postprocessing) and ``encode``
    (the sinks) have a thread each. Order is kept in every stream. Of a camera only the newest frame waits, and it is taken as late as
    possible; of a file nothing is dropped. ``pause``, ``resume``, ``stop`` and ``status`` may be called from any thread.

    Args:
        deliver: takes each result, with the frame that was drawn or, where nobody wants that, as it came.
        render: one a stream: draws a result into its frame; None where only observers or nobody needs pictures.
        draws: whether ``deliver`` needs drawn frames; otherwise they are drawn while an observer wants them.
        refine: one a stream: changes each prediction in the order of the frames, such as a tracker.
        clock: the clock of ``Frame.captured_s``.

    Raises:
        UsageError: there is no source, or the batch is larger than the model takes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        predictor: Predictor,
        deliver: Deliver,
        *,
        render: Sequence[Render] | None = None,
        draws: bool = False,
        refine: Sequence[Refine] | None = None,
        observers: Sequence[Observer] = (),
        options: LiveOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not sources:
            raise UsageError("there is no source to run; give at least one")
        options = options or LiveOptions()
        self._sources = tuple(sources)
        self._predictor = predictor
        self._deliver = deliver
        self._render, self._draws = render, draws and render is not None
        self._refine = refine
        self.observers: list[Observer] = list(observers)
        self._clock = clock
        self.largest_batch = _largest(predictor, options.largest_batch, len(sources))
        self._changed = threading.Condition()
        self._captures = [
            Capture(source, name, self._changed, depth=max(2, self.largest_batch), most_fps=options.most_fps, clock=clock)
            for source, name in zip(sources, _names(sources), strict=True)
        ]
        self._numbers = {id(capture): number for number, capture in enumerate(self._captures)}
        laned = options.lanes > 1 and not isinstance(predictor.session, ImmediateLanes) and hasattr(predictor.session, "lane")
        self._inference: Inference = LanedInference(predictor, options.lanes) if laned else PlainInference(predictor)
        steps: list[tuple[str, Callable[[Any], None]]] = [
            *self._inference.steps(),
            ("draw", self._answer),
            ("encode", self._hand_over),
        ]
        self._pacer = Pacer([name for name, _ in steps])
        live = any(capture.live for capture in self._captures)
        self._batcher = Batcher(
            self._captures,
            self._changed,
            largest=self.largest_batch,
            wait_s=options.batch_wait_s if len(sources) > 1 else 0.0,
            pacer=self._pacer,
            paced=live,
            clock=clock,
        )
        self._stages = [Stage(name, self._step(number, name, run)) for number, (name, run) in enumerate(steps)]
        self.memory_mib = self._most_memory_mib()
        self.threaded = options.memory_mib is None or self.memory_mib <= options.memory_mib
        self._limit_mib = options.memory_mib
        self._paused = self._stopping = self._ended = False
        self._started_unix_s = self._started_s = self._ended_s = 0.0
        self._batches = self._frames = 0
        self._worked = threading.Event()

    def run(self) -> StreamStats:
        """Runs to the end, in threads that are gone when it returns or raises; the sources are closed then.

        A source that fails ends alone: see ``failures``. Any other error is raised. Ctrl-C in the caller's thread stops, and is raised.
        """
        self._started_unix_s, self._started_s = time.time(), self._clock()
        for capture in self._captures:
            capture.start()
        outcome: list[StreamStats | BaseException] = []
        # The caller's thread only waits: a signal must not come between a stage and what it holds.
        worker = threading.Thread(target=self._work, args=(outcome,), name="jetlens-stages", daemon=True)
        worker.start()
        try:
            # Not join: up to Python 3.12 an interrupted join takes the thread for ended.
            while not self._worked.wait(SIGNALS_S):
                pass
        finally:
            self.stop()
            self._worked.wait()
            worker.join()
            self._close_sources()
            self._ended, self._ended_s = True, self._clock()
        stats = outcome[0]
        if isinstance(stats, BaseException):
            raise stats
        reading = [capture.times() for capture in self._captures]
        decode = StageTimes(sum(times.busy_s for times in reading), sum(times.cpu_s for times in reading))
        stages = {"decode": decode, **{name: times for name, times in stats.stages.items() if name != "collect"}}
        return StreamStats(sum(stream.delivered for stream in self.status().streams), stats.wall_s, stages)

    def stop(self) -> None:
        """Ends soon: frames that the model has not begun on are dropped, those after it are delivered."""
        self._stopping = True
        self._batcher.stop()
        for capture in self._captures:
            capture.stop()

    def pause(self) -> None:
        """Answers nothing until ``resume``: cameras' frames are dropped, files wait."""
        self._pause(True)

    def resume(self) -> None:
        """Goes on after ``pause``."""
        self._pause(False)

    @property
    def paused(self) -> bool:
        """Whether it pauses."""
        return self._paused

    @property
    def failures(self) -> dict[str, Exception]:
        """Why sources ended before their end, by stream name."""
        return {capture.name: capture.error for capture in self._captures if capture.error is not None}

    def status(self) -> LiveStatus:
        """What it does now."""
        spec, facts = self._predictor.spec, self._predictor.facts
        until_s = self._ended_s if self._ended else self._clock()
        uptime_s = until_s - self._started_s if self._started_s else 0.0
        share = 1 / uptime_s if uptime_s > 0 else 0.0
        busy = {name: seconds * share for name, seconds in zip(self._pacer.stages, self._pacer.busy_s, strict=True)}
        decode_s = max(capture.times().busy_s for capture in self._captures)
        state = "ended" if self._ended else "stopping" if self._stopping else "paused" if self._paused else "running"
        return LiveStatus(
            streams=tuple(capture.status() for capture in self._captures),
            model=spec.name,
            task=spec.task,
            facts=facts,
            started_unix_s=self._started_unix_s,
            uptime_s=uptime_s,
            state=state,
            batches=self._batches,
            frames=self._frames,
            busy={"decode": decode_s * share, **busy},
            memory_mib=self.memory_mib,
            note=self._note(),
        )

    def _work(self, outcome: list[StreamStats | BaseException]) -> None:
        try:
            outcome.append(run_stages(self._batches_in_turn(), self._stages, depth=DEPTH, threaded=self.threaded, name="collect"))
        except BaseException as error:
            outcome.append(error)
        finally:
            self._worked.set()

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        for capture in self._captures:
            capture.pause(paused)

    def _note(self) -> str:
        if self.threaded:
            return ""
        return f"in one thread: frames under way can take {self.memory_mib:.0f} MiB, and {self._limit_mib or 0:.0f} MiB may be taken"

    def _most_memory_mib(self) -> float:
        """Most that frames can take between the sources and the sinks."""
        sizes = [prod(source.info.size_hw) or prod(UNKNOWN_SIZE_HW) for source in self._sources]
        ahead = 1 + max(2, self.largest_batch)
        waiting = sum(pixels * (2 if capture.live else ahead) for pixels, capture in zip(sizes, self._captures, strict=True))
        batches = 1 + len(self._stages) * (1 + DEPTH)
        return 3 * (waiting + batches * self.largest_batch * max(sizes)) / 2**20

    def _batches_in_turn(self) -> Iterator[_Batch]:
        for taken in self._batcher:
            yield _Batch(taken, InFlight([frame.image_rgb for _, frame in taken]), [])

    def _step(self, number: int, name: str, run: Callable[[Any], None]) -> Callable[[_Batch], _Batch]:
        """A stage: timed, left out for what is dropped, and the end of everything where it fails."""
        whole = name in ("draw", "encode")

        def step(batch: _Batch) -> _Batch:
            self._pacer.begin(number, self._clock())
            try:
                if self._stopping and not whole and not batch.dropped and not self._inference.begun(batch.flight):
                    self._drop(batch)
                if not batch.dropped:
                    run(batch if whole else batch.flight)
            except BaseException:
                self._inference.abandon(batch.flight)
                self.stop()
                raise
            self._pacer.end(number, self._clock())
            return batch

        return step

    def _drop(self, batch: _Batch) -> None:
        if not batch.dropped:
            batch.dropped = True
            self._inference.release(batch.flight)
            for capture, _ in batch.taken:
                capture.drop("stopped")

    def _answer(self, batch: _Batch) -> None:
        start = time.perf_counter()
        predictions = self._inference.answers(batch.flight)
        latency_ms = batch.flight.latency_ms + (time.perf_counter() - start) * 1e3
        self._batches += 1
        self._frames += len(batch.taken)
        for (capture, frame), prediction in zip(batch.taken, predictions, strict=True):
            number = self._numbers[id(capture)]
            if self._refine is not None:
                prediction = self._refine[number](prediction, frame)
            age_ms = capture.answered(frame, prediction)
            result = LiveResult(frame, prediction, latency_ms, number, age_ms, len(batch.taken))
            drawn = self._render is not None and (self._draws or any(observer.wanted(frame.stream) for observer in self.observers))
            batch.results.append((result, self._render[number](result) if drawn and self._render is not None else frame, drawn))

    def _hand_over(self, batch: _Batch) -> None:
        for (capture, _), (result, frame, drawn) in zip(batch.taken, batch.results, strict=True):
            self._deliver(result, frame)
            if drawn:
                for observer in self.observers:
                    observer.show(frame, result.prediction)
            capture.deliver()

    def _close_sources(self) -> None:
        cameras = [capture for capture in self._captures if capture.live]
        # Closing wakes a camera's thread, and may wait for its connection: all at once.
        closing = [threading.Thread(target=capture.source.close, name="jetlens-close", daemon=True) for capture in cameras]
        for thread in closing:
            thread.start()
        end_s = time.monotonic() + CLOSING_S
        for thread in closing:
            thread.join(max(0.0, end_s - time.monotonic()))
        for capture in self._captures:
            if capture.join(max(0.0, end_s - time.monotonic())) and not capture.live:
                capture.source.close()
            capture.settle("stopped")


def _largest(predictor: Predictor, wanted: int | None, streams: int) -> int:
    """Pictures in one run."""
    axis = predictor.session.inputs[0].shape[0]
    most = axis if isinstance(axis, int) else predictor.facts.largest_batch
    if wanted is not None and wanted > (most or wanted):
        raise UsageError(f"--max-batch {wanted}: {predictor.spec.name} takes at most {most} pictures in one run here; give that or fewer")
    usual = 1 if "CPU" in predictor.facts.provider.upper() else streams
    return wanted or min(usual, most or usual)


def _names(sources: Sequence[Source]) -> list[str]:
    """The sources' names; one that comes again gets a number."""
    given: list[str] = []
    for source in sources:
        name, number = source.info.name, 1
        while name in given:
            number += 1
            name = f"{source.info.name} #{number}"
        given.append(name)
    return given
