"""LivePipeline: cameras and files through one session, as fresh as the machine allows, and every frame accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from jetlens.backends.breaker import RunFailedError
from jetlens.errors import UsageError
from jetlens.frame import Frame
from jetlens.media.base import Source
from jetlens.pipeline.adaptive import FULL, Between, Level
from jetlens.pipeline.batching import Batcher, Pacer, Taken
from jetlens.pipeline.capture import Capture, stream_names
from jetlens.pipeline.inference import Inference, InFlight, largest_batch, open_alike
from jetlens.pipeline.stages import DEPTH, Stage, run_stages
from jetlens.pipeline.statistics import StageTimes, StreamStats
from jetlens.pipeline.status import LiveStatus, Observer
from jetlens.pipeline.stream import Result
from jetlens.predictor import Predictor
from jetlens.results import Prediction

__all__ = ["LiveOptions", "LivePipeline", "LiveResult"]

CAMERA_DEPTH: Final = 1
"""Batches that may wait before a stage where a camera is among the sources: the pacer lets hardly one wait."""
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
        lanes: runs of the model at once: in flight where the session was opened with so many, and in threads on a runtime that answers at
            once and may be called from several; else one. See ``usual_lanes``.
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
        batch: pictures that went through the model with it; 0 where none did.
    """

    stream: int
    age_ms: float
    batch: int


Refine = Callable[[Prediction, Frame], Prediction]
Render = Callable[[LiveResult], Frame]
Deliver = Callable[[LiveResult, Frame], None]


@dataclass(slots=True)
class _Batch:
    """Frames on their way; ``results`` once they are answered.

    Attributes:
        inference: of the model that answers them.
        looked: for each frame, whether the model is to see it.
    """

    taken: Taken
    flight: InFlight
    inference: Inference
    looked: tuple[bool, ...]
    results: list[tuple[LiveResult, Frame, bool]]
    dropped: bool = False

    def release(self) -> None:
        """Gives back what the model holds for it."""
        self.inference.release(self.flight)


class LivePipeline:
    """Runs every source through one predictor until all have ended or ``stop`` is called.

    Each source is read in its own thread. The threads of ``Inference.parts`` take batches of frames and answer them; ``draw`` (on a processor
    with postprocessing) and ``encode`` (the sinks) have a thread each where pictures are drawn, else one. Order is kept in every stream. Of a
    camera only the newest frame waits, and it is taken as late as possible; of a file nothing is dropped, but where the model fails on it.
    ``pause``, ``resume``, ``adapt``, ``stop`` and ``status`` may be called from any thread.

    Args:
        deliver: takes each result, with the frame that was drawn or, where nobody wants that, as it came.
        render: one a stream: draws a result into its frame; None where only observers or nobody needs pictures.
        draws: whether ``deliver`` needs drawn frames; otherwise they are drawn while an observer wants them.
        refine: one a stream: changes each prediction of the model in the order of the frames, such as a tracker.
        spare: the same model in lower precision, for ``adapt``.
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
        spare: Predictor | None = None,
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
        self.largest_batch = largest_batch(predictor, options.largest_batch, len(sources))
        self._changed = threading.Condition()
        self._captures = [
            Capture(source, name, self._changed, depth=max(2, self.largest_batch), most_fps=options.most_fps, clock=clock)
            for source, name in zip(sources, stream_names(sources), strict=True)
        ]
        self._numbers = {id(capture): number for number, capture in enumerate(self._captures)}
        self._paced = any(capture.live for capture in self._captures)
        self._inferences, parts = open_alike((predictor, *([spare] if spare is not None else [])), options.lanes, live=self._paced)
        self._runs = {id(one): {name: run for part in one.parts() for name, run in part.steps} for one in self._inferences}
        self._level, self._changes = FULL, 0
        self._between = [Between() for _ in sources]
        shares = [(part.workers, part.ahead, [name for name, _ in part.steps]) for part in parts]
        # Without pictures to draw the last two have so little to do that handing over would cost more.
        shares += [(1, 0, ["draw"]), (1, 0, ["encode"])] if self._draws or observers else [(1, 0, ["draw", "encode"])]
        at_once = {name: workers * (1 + ahead * (name == share[-1])) for workers, ahead, share in shares for name in share}
        self._pacer = Pacer(list(at_once), list(at_once.values()))
        if self._paced:
            for inference in self._inferences:
                inference.warm(self.largest_batch)
        self._depth = CAMERA_DEPTH if self._paced else DEPTH
        self._batcher = Batcher(
            self._captures,
            self._changed,
            largest=self.largest_batch,
            wait_s=options.batch_wait_s if len(sources) > 1 else 0.0,
            pacer=self._pacer,
            paced=self._paced,
            clock=clock,
        )
        self._stages = [
            Stage(last, self._step(last), workers, self._steps(before) if before else None, ahead, _Batch.release)
            for workers, ahead, (*before, last) in shares
        ]
        self.memory_mib, self._limit_mib = self._most_memory_mib(), options.memory_mib
        self.threaded = options.memory_mib is None or self.memory_mib <= options.memory_mib
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
        return StreamStats(sum(stream.delivered for stream in self.status().streams), stats.wall_s, {**stats.stages, "decode": decode})

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

    def adapt(self, level: Level) -> None:
        """From the next frame on looks at fewer frames, or runs the spare model."""
        if level.spare and len(self._inferences) < 2:
            raise UsageError(f"{level.name}: there is no spare model")
        self._level = level
        self._changes += 1
        # Frames that the model does not see are as quick as it is slow: they wait behind it for a moment, or they would be lost.
        self._batcher.paced = self._paced and level.every == 1

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
            changes=self._changes,
        )

    def _work(self, outcome: list[StreamStats | BaseException]) -> None:
        try:
            batches = map(self._batch, self._batcher)
            outcome.append(run_stages(batches, self._stages, depth=self._depth, threaded=self.threaded, poll=self._poll))
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
            return "" if self._level is FULL else f"the model sees {self._level.name}"
        return f"in one thread: frames under way can take {self.memory_mib:.0f} MiB, and {self._limit_mib or 0:.0f} MiB may be taken"

    def _most_memory_mib(self) -> float:
        """Most that frames can take between the sources and the sinks."""
        sizes = [prod(source.info.size_hw) or prod(UNKNOWN_SIZE_HW) for source in self._sources]
        ahead = 1 + max(2, self.largest_batch)
        waiting = sum(pixels * (2 if capture.live else ahead) for pixels, capture in zip(sizes, self._captures, strict=True))
        batches = sum(stage.holds for stage in self._stages) + sum(self._depth + stage.workers - 1 for stage in self._stages[:-1])
        return 3 * (waiting + batches * self.largest_batch * max(sizes)) / 2**20

    def _batch(self, taken: Taken) -> _Batch:
        level = self._level
        looked = tuple(self._between[self._numbers[id(capture)]].looks(frame, level.every) for capture, frame in taken)
        images = [frame.image_rgb for (_, frame), looks in zip(taken, looked, strict=True) if looks]
        return _Batch(taken, InFlight(images), self._inferences[level.spare], looked, [])

    def _poll(self) -> _Batch | None:
        taken = self._batcher.poll()
        return self._batch(taken) if taken else None

    def _steps(self, names: Sequence[str]) -> Callable[[_Batch], None]:
        """What one thread does with a batch before its last step."""
        steps = [self._step(name) for name in names]

        def all_of_them(batch: _Batch) -> None:
            for step in steps:
                step(batch)

        return all_of_them

    def _step(self, name: str) -> Callable[[_Batch], _Batch]:
        """A stage: timed, left out for what is dropped or not looked at, and the end of everything where it fails."""
        number = self._pacer.stages.index(name)
        whole = {"draw": self._answer, "encode": self._hand_over}.get(name)

        def step(batch: _Batch) -> _Batch:
            way = self._pacer.begin(number, self._clock())
            try:
                if self._stopping and not whole and not batch.dropped and not batch.inference.begun(batch.flight):
                    self._drop(batch)
                if not batch.dropped and whole:
                    whole(batch)
                elif not batch.dropped and any(batch.looked):
                    self._runs[id(batch.inference)][name](batch.flight)
            except RunFailedError as error:  # one run's failure ends no stream
                self._drop(batch, error.reason)
            except BaseException:
                batch.release()
                self.stop()
                raise
            self._pacer.end(way, self._clock())
            return batch

        return step

    def _drop(self, batch: _Batch, reason: str = "stopped") -> None:
        if not batch.dropped:
            batch.dropped = True
            batch.release()
            for capture, _ in batch.taken:
                capture.drop(reason)

    def _answer(self, batch: _Batch) -> None:
        start = time.perf_counter()
        seen = sum(batch.looked)
        predictions = iter(batch.inference.answers(batch.flight) if seen else ())
        latency_ms = batch.flight.latency_ms + (time.perf_counter() - start) * 1e3
        self._batches += bool(seen)
        self._frames += seen
        for (capture, frame), looked in zip(batch.taken, batch.looked, strict=True):
            number = self._numbers[id(capture)]
            prediction = self._answer_one(number, frame, next(predictions) if looked else None)
            if prediction is None:
                capture.drop("nothing to carry over")
                continue
            age_ms = capture.answered(frame, prediction)
            drawn = self._render is not None and (self._draws or any(observer.wanted(frame.stream) for observer in self.observers))
            result = LiveResult(frame, prediction, latency_ms, number, age_ms, seen, fps=capture.fps() if drawn else None, inferred=looked)
            batch.results.append((result, self._render[number](result) if drawn and self._render is not None else frame, drawn))

    def _answer_one(self, number: int, frame: Frame, prediction: Prediction | None) -> Prediction | None:
        """What is said of a frame, from the model's answer where it saw it; None where nothing can be."""
        if prediction is None:
            return self._between[number].answer(frame)
        if self._refine is not None:
            prediction = self._refine[number](prediction, frame)
        self._between[number].keep(prediction, frame)
        return prediction

    def _hand_over(self, batch: _Batch) -> None:
        for result, frame, drawn in batch.results:
            self._deliver(result, frame)
            if drawn:
                for observer in self.observers:
                    observer.show(frame, result.prediction)
            self._captures[result.stream].deliver()

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
