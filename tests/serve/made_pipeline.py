"""A pipeline that is none: it shows coded frames at a rate and counts what a real one counts."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np

from jetlens.backends.base import RunFacts
from jetlens.frame import Frame, Image
from jetlens.pipeline.status import LiveStatus, StreamStatus
from jetlens.results import Detections
from jetlens.serve import LivePage

COLOURS = ((200, 40, 40), (40, 160, 60), (50, 80, 220), (220, 180, 40))
FACTS = RunFacts(backend="onnxruntime", version="1.0", provider="CPUExecutionProvider", device="a processor", precision="fp32")


def coded_frame(index: int, stream: str, colour: tuple[int, int, int], size_hw: tuple[int, int] = (180, 320)) -> Frame:
    """One colour all over, with a white bar that moves."""
    image: Image = np.empty((*size_hw, 3), np.uint8)
    image[:] = colour
    left = index * 4 % (size_hw[1] - 20)
    image[:40, left : left + 20] = 255
    return Frame(image, index, index / 30, time.monotonic(), stream)


class MadePipeline:
    """Shows each stream's frames to a page in a thread of its own, while a ``with`` block runs."""

    def __init__(
        self, names: tuple[str, ...] = ("front",), fps: float = 30.0, size_hw: tuple[int, int] = (180, 320), label: str = "orange"
    ) -> None:
        self.names, self.fps, self.size_hw, self.label = names, fps, size_hw, label
        self.page: LivePage | None = None
        self.paused = False
        self.shown = dict.fromkeys(names, 0)
        self.slowest_show_s = 0.0
        self.states: dict[str, tuple[str, str]] = {}
        self._started_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def status(self) -> LiveStatus:
        return LiveStatus(
            streams=tuple(self._stream(name) for name in self.names),
            model="orange-detector",
            task="detection",
            facts=FACTS,
            started_unix_s=time.time(),
            uptime_s=time.monotonic() - self._started_s,
            state="paused" if self.paused else "running",
            busy={"decode": 0.12, "prepare": 0.05, "infer": 0.83, "draw": 0.21},
        )

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def __enter__(self) -> MadePipeline:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _stream(self, name: str) -> StreamStatus:
        state, reason = self.states.get(name, ("paused" if self.paused else "running", ""))
        shown = self.shown[name]
        found = Detections(
            np.array([[10, 10, 60, 60], [80, 20, 120, 90]], np.float32),
            np.array([0.97, 0.55], np.float32),
            np.array([0, 0], np.int64),
            self.size_hw,
            (self.label,),
        )
        return StreamStatus(
            name=name,
            live=True,
            state=state,
            reason=reason,
            size_hw=self.size_hw,
            fps=self.fps,
            captured_fps=self.fps + 2,
            captured=shown + 12,
            delivered=shown,
            dropped={"newer frame": 10, "paused": 2},
            corrupt=3,
            reconnects=1,
            age_p50_ms=41.2,
            age_p99_ms=87.6,
            index=shown,
            prediction=found,
        )

    def _feed(self) -> None:
        while not self._stop.wait(1 / self.fps):
            for number, name in enumerate(self.names):
                if self.paused or self.page is None or self.states.get(name, ("running", ""))[0] != "running":
                    continue
                self.shown[name] += 1
                if self.page.wanted(name):
                    frame = coded_frame(self.shown[name], name, COLOURS[number % len(COLOURS)], self.size_hw)
                    began_s = time.monotonic()
                    self.page.show(frame, self._stream(name).prediction)
                    self.slowest_show_s = max(self.slowest_show_s, time.monotonic() - began_s)
