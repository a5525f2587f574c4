"""Renderer: results drawn into frames, with a HUD of rate, latency, classes and backend."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jetlens import overlay
from jetlens.backends.base import RunFacts
from jetlens.frame import Frame
from jetlens.results import Classification, Detections, Prediction

if TYPE_CHECKING:
    from jetlens.pipeline.stream import Result

__all__ = ["Renderer", "summary"]

_MOST_CLASSES = 4


class Renderer:
    """Draws a result into its own frame, in place, and writes the HUD over it.

    Args:
        facts: of the session, for the HUD's line on what runs.
        alpha: how much of a segmentation's colours covers the picture, 0 to 1.
        lines: to draw into each frame, two points each.
        zones: to draw into each frame, the corners of each.
        hud: False leaves the HUD out; its rate is the result's own, or else that of the frames drawn since the renderer was made.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        facts: RunFacts,
        *,
        alpha: float = 0.6,
        lines: overlay.Polygons = (),
        zones: overlay.Polygons = (),
        hud: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._alpha = alpha
        self._lines_drawn, self._zones_drawn = lines, zones
        self._hud = hud
        self._clock = clock
        self._start_s = clock()
        self._frames = 0
        self._runtime = f"{facts.backend} {facts.precision}, {facts.provider}"

    def __call__(self, result: Result) -> Frame:
        """The frame with the result in it; its array is the result's own."""
        image = result.frame.image_rgb
        hud = self._lines(result) if self._hud else []
        overlay.draw(image, result.prediction, alpha=self._alpha, out=image, hud=hud)
        overlay.draw_rules(image, self._lines_drawn, self._zones_drawn)
        overlay.draw_hud(image, hud)
        return replace(result.frame, image_rgb=image)

    def _lines(self, result: Result) -> list[str]:
        self._frames += 1
        fps = result.fps
        if fps is None:
            elapsed_s = self._clock() - self._start_s
            fps = self._frames / elapsed_s if elapsed_s > 0 else 0.0
        worked = f"{result.latency_ms:.1f} ms" if result.inferred else "carried over"
        return [f"{fps:.1f} FPS   {worked}", summary(result.prediction), self._runtime]


def summary(prediction: Prediction) -> str:
    """The classes of a prediction in a few words: counts of objects, shares of pixels, or the best class."""
    if isinstance(prediction, Classification):
        return f"{prediction.label} {float(prediction.confidence[0]):.2f}" if len(prediction.class_id) else "nothing"
    if isinstance(prediction, Detections):
        counts = Counter(prediction.names()).most_common()
        parts = [f"{count} {name}" for name, count in counts]
    else:
        pixels = prediction.pixels()
        order = [int(i) for i in np.argsort(-pixels, kind="stable") if i != 0 and pixels[i]]
        parts = [f"{prediction.labels[i] if i < len(prediction.labels) else i} {pixels[i] / prediction.mask.size:.1%}" for i in order]
    more = [f"+{len(parts) - _MOST_CLASSES} more"] if len(parts) > _MOST_CLASSES else []
    return ", ".join(parts[:_MOST_CLASSES] + more) or "nothing"
