"""Work: one case in its own process, from opening the model to its answers."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens import overlay
from jetlens.backends.base import Lane, RunFacts, Session, SessionOptions
from jetlens.backends.choice import open_session
from jetlens.backends.immediate import ImmediateLanes
from jetlens.bench.engine import engine_facts
from jetlens.bench.labelled import kept
from jetlens.bench.records import Block, Case, Memory, WarmUp
from jetlens.bench.scenarios import Calls, time_block, yardstick_ms
from jetlens.bench.taps import read_taps
from jetlens.device.nvml import open_nvml, process_memory_mib
from jetlens.device.proc import process_memory
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError
from jetlens.evaluate import dataset, evaluate
from jetlens.frame import Image
from jetlens.graph import read_graph
from jetlens.imagefile import load_image
from jetlens.predictor import Predictor, check_contract
from jetlens.spec import ModelSpec, read_model
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

__all__ = ["Work", "gpu_memory_mib"]

_WINDOW_S = 0.05
_FEWEST_CALLS = 3
_MOST_WINDOWS = 30
_WARM_UP_CAP_S = 8.0
_AGREE = 1.10
_BEFORE_BLOCK = 2  # calls that refill the caches after another process had its turn
_OVERLAY_WIDTH = 480
_READABLE_WIDTH = 240
_MOST_RAW = 50_000
_SEEN_CONFIDENCE = 0.01


class Work:
    """A loaded case.

    Attributes:
        load_ms: opening the model, an engine's build included.
        first_ms: the first call.
        engine: what is known of the engine that the runtime built; empty where it builds none.
    """

    def __init__(self, case: Case, path: Path, contents: Sequence[bytes], *, threads: int | None = None, fps: float | None = None) -> None:
        """Opens the model file on the case's runtime.

        Raises:
            JetlensError: the runtime, device or precision cannot be had here, or the graph cannot run.
        """
        self.case = case
        self._contents = contents
        self._path = path
        self._twin: Session | None = None
        self._turn: list[int] = []
        model, spec = read_model(path)
        check_contract(read_graph(model, str(path)), spec, path.name)
        self.model_sha256 = hashlib.sha256(model).hexdigest()
        self._model_mib = len(model) / 2**20
        self.spec = spec = _resized(spec, case.size_hw)
        build = BuildOptions(batch=(1, case.batch, case.batch))
        options = SessionOptions(case.device, case.precision, threads, case.lanes, timed=True, build=build)
        before_mib = gpu_memory_mib()
        began = time.perf_counter()
        session, _ = open_session(model, case.backend, options)
        self.load_ms = 1000 * (time.perf_counter() - began)
        self._engine_mib, self.engine = engine_facts(model, build) if case.backend == "tensorrt" else (None, {})
        self.predictor = Predictor(TASKS.load(spec.task)(spec, TaskOptions()), session)
        fixed = session.inputs[0].shape[0]
        if isinstance(fixed, int) and fixed != case.batch:
            raise BackendError(f"batch {case.batch}: the graph's batch axis is fixed at {fixed}; give --batch {fixed} or export it dynamic")
        self._calls = Calls(
            task=self.predictor.task,
            session=session,
            decode=self._decode,
            lane=self._lender(),
            draw=_draw,
            images=[self._decode(number) for number in range(self._padded)],
            batch=case.batch,
            lanes=case.lanes,
            fps=fps or 30.0,
        )
        began = time.perf_counter()
        time_block("single", replace(self._calls, lanes=1), self._numbers(1))
        self.first_ms = 1000 * (time.perf_counter() - began)
        after_mib = gpu_memory_mib()
        # Cases load one at a time, so that what the whole GPU holds more is this case's, where its driver hides processes.
        self._gpu_mib = None if before_mib is None or after_mib is None else max(0.0, after_mib - before_mib)

    @property
    def facts(self) -> RunFacts:
        """What really runs."""
        return self.predictor.facts

    def close(self) -> None:
        """Frees the sessions."""
        self.predictor.close()
        if self._twin is not None:
            self._twin.close()

    def warm_up(self, scenario: str) -> WarmUp:
        """Runs until the medians of three windows in a row agree within 10 %, or the cap is reached."""
        scenario = "single" if scenario == "camera" else scenario
        probe = time_block(scenario, self._calls, self._numbers(1))
        times = list(probe.calls_ms)
        count = max(_FEWEST_CALLS, min(len(self._contents), round(_WINDOW_S / probe.wall_s)))
        windows: list[float] = []
        began = time.perf_counter()
        while len(windows) < _MOST_WINDOWS and (time.perf_counter() - began < _WARM_UP_CAP_S or len(windows) < _FEWEST_CALLS):
            block = time_block(scenario, self._calls, self._numbers(count))
            times += block.calls_ms
            windows.append(float(np.median(block.calls_ms)))
            last = windows[-3:]
            if len(last) == 3 and max(last) <= _AGREE * min(last):
                return WarmUp(tuple(times), tuple(windows), settled=True)
        return WarmUp(tuple(times), tuple(windows), settled=False)

    def block(self, scenario: str, block_s: float) -> Block:
        """One turn of about this length, after a few calls that do not count.

        Whole rounds over all pictures where a turn is long enough for one, else always the same first ones: blocks must hold equal work.
        """
        if not self._turn:
            self._turn = self._choose(scenario, block_s)
        time_block("single" if scenario == "camera" else scenario, self._calls, self._numbers(_BEFORE_BLOCK))
        before = yardstick_ms()
        block = time_block(scenario, self._calls, self._turn)
        return replace(block, yardstick_ms=before + yardstick_ms())

    def _choose(self, scenario: str, block_s: float) -> list[int]:
        everything = list(range(self._padded))
        if scenario == "camera":
            return everything * max(1, round(block_s * self._calls.fps / len(everything)))
        few = self._numbers(_FEWEST_CALLS)
        each_s = time_block(scenario, self._calls, few).wall_s / len(few)
        round_s = each_s * len(everything)
        if round_s <= 1.5 * block_s:
            return everything * max(1, round(block_s / round_s))
        batch = self.case.batch
        return self._numbers(max(_FEWEST_CALLS, round(block_s / (each_s * batch))))

    def outputs(self, *, taps: bool = False, gain: float = 1.0) -> tuple[dict[str, NDArray[Any]], str]:
        """The raw outputs for every picture, and the SHA-256 of the batch that the graph was given.

        Args:
            taps: also those of the model's twin that answers with its logits; only the model's own where there is none.
            gain: what the pictures are multiplied by first.
        """
        predictor = self.predictor
        images = self._calls.images[: len(self._contents)]
        if gain != 1.0:
            images = [np.round(image * gain).clip(0, 255).astype(np.uint8) for image in images]
        array = predictor.task.preprocess(images).array[: len(images)]
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        outputs = self._raw(predictor.session, array)
        twin = self._tapped() if taps else None
        if twin is not None:
            outputs |= {name: _thinned(raw) for name, raw in self._raw(twin, array).items() if name not in outputs}
        return outputs, digest

    def _tapped(self) -> Any:
        """The twin's session, opened once; None where there is none."""
        if self._twin is None:
            # An engine of its own would have to be built for a twin that is derived: only a file beside the model is worth that.
            content = read_taps(self._path, may_derive=self.case.backend != "tensorrt")
            if content is None:
                return None
            build = BuildOptions(batch=(1, self.case.batch, self.case.batch))
            self._twin, _ = open_session(content, self.case.backend, SessionOptions(self.case.device, self.case.precision, build=build))
        return self._twin

    def score(
        self, data: str, count: int | None, layout: str | None, drawn: tuple[str, str] | None = None
    ) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Accuracy on labelled pictures: metrics with the number of pictures, and their intervals."""
        samples = dataset(data, self.spec, count, layout=layout) if drawn is None else kept(Path(drawn[0]), drawn[1])
        task = TASKS.load(self.spec.task)(self.spec, TaskOptions(confidence=_SEEN_CONFIDENCE))
        result = evaluate(Predictor(task, self.predictor.session), samples)
        return {**result.metrics, "pictures": result.count}, dict(result.intervals)

    def drawings(self, count: int) -> tuple[list[Mapping[str, Any]], list[str]]:
        """The predictions of the first pictures, and the pictures with them drawn in, as base64 of PNG files.

        Not JPEG: the difference from the reference's drawing is computed from these, and would be full of what JPEG lost.
        """
        predictions: list[Mapping[str, Any]] = []
        drawn: list[str] = []
        for image in self._calls.images[:count]:
            prediction = self.predictor(image)
            predictions.append(prediction.to_dict())
            # Words need room; boxes and masks fit the picture as it is only.
            picture = _readable(image) if self.spec.task == "classification" else image
            drawn.append(_small_png(overlay.draw(picture, prediction)))
        return predictions, drawn

    def memory(self, before_mib: float | None) -> Memory:
        """What this process holds now and held at most; ``before_mib`` was read before any runtime was imported."""
        own = process_memory(os.getpid())
        return Memory(
            before=before_mib,
            peak=own.peak_mib if own else None,
            device=(process_memory_mib(os.getpid()) or self._gpu_mib) if self.predictor.facts.on_gpu else None,
            model=self._model_mib,
            engine=self._engine_mib,
        )

    @property
    def _padded(self) -> int:
        """So many pictures make whole batches."""
        batch = self.case.batch
        return -(-len(self._contents) // batch) * batch

    def _numbers(self, calls: int) -> list[int]:
        return [number % self._padded for number in range(calls * self.case.batch)]

    def _decode(self, number: int) -> Image:
        return load_image(self._contents[number % len(self._contents)])

    def _lender(self) -> Any:
        session, batch = self.predictor.session, self.case.batch
        if not isinstance(session, ImmediateLanes):
            return lambda: session.lane(batch)
        # A runtime that answers at once has read the arrays when it returns: one set serves every call.
        kept: Lane = session.lane(batch)
        return lambda: kept

    def _raw(self, session: Any, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every picture's outputs, run in batches of the case's size, the last one filled up with the first pictures."""
        batch, name = self.case.batch, session.inputs[0].name
        order = np.arange(self._padded) % len(array)
        parts = [session.run({name: np.ascontiguousarray(array[order[i : i + batch]])}) for i in range(0, len(order), batch)]
        return {key: np.concatenate([part[key] for part in parts])[: len(array)] for key in parts[0]}


def gpu_memory_mib() -> float | None:
    """What the whole GPU's memory holds; None where NVML does not say."""
    nvml = open_nvml(power=False)
    if nvml is None:
        return None
    try:
        return nvml.read().gpu_memory_used_mib
    finally:
        nvml.close()


def _thinned(raw: NDArray[Any]) -> NDArray[Any]:
    """At most so many values of each picture [N, values], evenly spread: the logits of a mask are a hundred times its size."""
    flat = raw.reshape(len(raw), -1)
    return np.ascontiguousarray(flat[:, :: -(-flat.shape[1] // _MOST_RAW)])


def _resized(spec: ModelSpec, size_hw: tuple[int, int] | None) -> ModelSpec:
    return spec if size_hw is None else replace(spec, preprocess=replace(spec.preprocess, size_hw=size_hw), inputs=(), outputs=())


def _draw(image: Image, prediction: Any) -> object:
    return overlay.draw(image, prediction, out=image)


def _readable(image: Image) -> Image:
    """The picture, enlarged where words would cover it."""
    factor = -(-_READABLE_WIDTH // image.shape[1])
    return np.asarray(PillowImage.fromarray(image).resize((image.shape[1] * factor, image.shape[0] * factor))) if factor > 1 else image


def _small_png(image: Image) -> str:
    picture = PillowImage.fromarray(image)
    picture.thumbnail((_OVERLAY_WIDTH, _OVERLAY_WIDTH))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
