"""Cameras whose pictures tell who took them and when, models that read it, and what compares both."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import RunFacts
from jetlens.frame import Frame
from jetlens.media import StreamInfo
from jetlens.media.live.status import SourceStatus
from jetlens.pipeline.live import LiveResult
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

SIZE_HW = (8, 8)
LONG = 1 << 18


def coded(camera: int, index: int) -> NDArray[np.uint8]:
    """Camera and number in the first five pixels."""
    image = np.zeros((*SIZE_HW, 3), np.uint8)
    image[0, :5, 0] = (camera, index & 255, index >> 8 & 255, index >> 16 & 255, 7)
    return image


class CodedFile:
    """Ends by itself after ``count`` frames."""

    def __init__(self, camera: int, count: int) -> None:
        self.camera, self.count, self.closed = camera, count, False
        self.info = StreamInfo(SIZE_HW, 30.0, count, f"file {camera}", "coded")

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            yield Frame(coded(self.camera, index), index, index / 30, time.monotonic(), self.info.name)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> CodedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CodedCamera(CodedFile):
    """Gives frames at a rate until it is closed, or ``count`` of them; ``fps`` 0 is a dead one."""

    def __init__(self, camera: int, fps: float, count: int = LONG) -> None:
        super().__init__(camera, count)
        self.info = StreamInfo(SIZE_HW, fps, None, f"camera {camera}", "coded")
        self.fps = fps
        self._closing = threading.Event()

    def status(self) -> SourceStatus:
        return SourceStatus(self.info.name, "running" if self.fps else "opening", 0.0)

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        for index in range(self.count):
            due = start + index / self.fps if self.fps else float("inf")
            if self._closing.wait(min(1e6, max(0.0, due - time.monotonic()))):
                return
            yield Frame(coded(self.camera, index), index, index / self.fps, time.monotonic(), self.info.name)

    def close(self) -> None:
        self._closing.set()
        self.closed = True


class ReadingSession:
    """Answers a picture with a box whose sides are the camera and the number that stand in it."""

    inputs = (TensorSpec("images", "uint8", ("N", *SIZE_HW, 3)),)
    outputs = (TensorSpec("detections", "float32", ("N", 1, 6)),)
    facts = RunFacts("fake", "1", "GPU", "none", "fp32")

    def __init__(self, work_s: float = 0.0) -> None:
        self.work_s = work_s
        self.batches: list[int] = []
        self.block: threading.Event | None = None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        self.batches.append(len(pixels))
        if self.block is not None:
            self.block.wait()
        if self.work_s:
            time.sleep(self.work_s)
        code = pixels[:, 0, :5, 0].astype(np.int64)
        out = np.zeros((len(pixels), 1, 6), np.float32)
        # Confidence cannot be clipped to the picture as a box is: it carries the number, exactly below 2 ** 24.
        out[:, 0] = np.stack([code[:, 0] * 0, code[:, 0] * 0, code[:, 0] * 0 + 8, code[:, 0] * 0 + 8, code[:, 0] * 0, code[:, 0]], axis=1)
        out[:, 0, 4] = 1 + code[:, 1] + 256 * code[:, 2] + 65536 * code[:, 3]
        return {"detections": out}

    def close(self) -> None: ...

    def __enter__(self) -> ReadingSession:
        return self

    def __exit__(self, *_: object) -> None: ...


class PooledSession(ReadingSession):
    """Answers at once, in several threads; every third answer is slow, so that they overtake each other."""

    facts = replace(ReadingSession.facts, provider="CPU")
    at_once = 1

    def __init__(self) -> None:
        super().__init__()
        self.running, self.most = 0, 0
        self._lock = threading.Lock()

    def run(self, inputs: Any) -> Any:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            slow = len(self.batches) % 3 == 0
        time.sleep(0.002 if slow else 0.0005)
        try:
            return super().run(inputs)
        finally:
            with self._lock:
                self.running -= 1


def reading_predictor(session: Any) -> Predictor:
    spec = ModelSpec("coded", "detection", tuple(f"c{i}" for i in range(256)), PreprocessSpec(SIZE_HW, filter="linear"), "detections")
    return Predictor(TASKS.load("detection")(spec, TaskOptions()), session)


def read(prediction: Any) -> tuple[int, int]:
    """Camera and number that the model saw."""
    return int(prediction.class_id[0]), int(prediction.confidence[0]) - 1


class LanedSession(ReadingSession):
    """Runs in flight in a thread each; a lane's arrays are overwritten when it is lent again."""

    def __init__(self, lanes: int) -> None:
        super().__init__()
        self.lanes, self.lent, self.most = lanes, 0, 0
        self._arrays = [np.zeros((8, *self.inputs[0].shape[1:]), np.uint8) for _ in range(lanes)]  # type: ignore[arg-type]
        self._lock = threading.Lock()

    def lane(self, batch: int = 1) -> Any:
        with self._lock:
            assert self._arrays, "more lanes are asked for than there are"
            self.lent += 1
            self.most = max(self.most, self.lent)
            return Lane(self, self._arrays.pop(), batch)

    def give_back(self, array: Any) -> None:
        with self._lock:
            self.lent -= 1
            self._arrays.append(array)

    def submit(self, lane: Any) -> Any:
        lane.start()
        return lane


class Lane:
    def __init__(self, session: LanedSession, array: Any, batch: int) -> None:
        self.session, self.array, self.inputs = session, array, {"images": array[:batch]}
        self.answer: Any = None

    def borrow(self, name: str, pictures: Any) -> None:
        for row, picture in zip(self.inputs[name], pictures, strict=False):
            row[...] = picture

    def start(self) -> None:
        def work() -> None:
            time.sleep(0.001)
            self.answer = self.session.run(self.inputs)

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def result(self) -> Any:
        self.thread.join()
        self.release()
        return self.answer

    def release(self) -> None:
        if self.array is not None:
            self.session.give_back(self.array)
            self.array = None


class Pairs:
    """Compares what the model saw with the frame that its answer came with."""

    def __init__(self) -> None:
        self.wrong = 0
        self.numbers: dict[int, list[int]] = {}

    def __call__(self, result: LiveResult, drawn: Frame) -> None:
        camera, number = read(result.prediction)
        self.wrong += (
            (camera, number) != (result.stream, result.frame.index) or drawn.index != number or drawn.stream != result.frame.stream
        )
        self.numbers.setdefault(result.stream, []).append(result.frame.index)
