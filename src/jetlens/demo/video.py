"""The annotated video: every frame of the line through the cascade, drawn and encoded, with the truth at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jetlens import overlay
from jetlens.data.orange_line import CLASSES, GRADES, LineTruth, OrangeLine
from jetlens.frame import Frame, Image
from jetlens.media import StreamInfo, open_sink
from jetlens.ops.boxes import iou_matrix
from jetlens.pipeline import Stage, StreamStats, run_stages
from jetlens.pipeline.cascade import Cascade, Inspection
from jetlens.results import Detections, Segmentation

__all__ = ["Kept", "Made", "draw_inspection", "write_video"]

# The hues of the mask's palette, so that a box and its defect go together; sound fruit are blue.
GRADE_COLOURS = ((64, 150, 255), (225, 60, 60), (50, 185, 60), (205, 195, 40))
MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Kept:
    """One frame for the contact sheet: as the camera saw it, as the networks see it, and the truth drawn the same way."""

    index: int
    camera: Image
    answer: Image
    truth: Image


@dataclass(frozen=True, slots=True)
class Made:
    """What writing the video gave: its statistics, the frames kept, and of how many fruit how many grades are right."""

    stats: StreamStats
    kept: list[Kept]
    objects: tuple[int, int]


def write_video(line: OrangeLine, cascade: Cascade, path: Path, said: Callable[[str], None]) -> Made:
    """Runs the line through the cascade into a video file."""
    info = StreamInfo(line.size_hw, line.fps, line.frames, "orange-line", "generator orange-line")
    wanted = set(np.linspace(line.frames // 6, line.frames - 1 - line.frames // 6, 3).astype(int).tolist())
    hud = _Hud(cascade)
    kept: list[Kept] = []
    found = right = 0

    def inspect(item: tuple[Frame, LineTruth]) -> tuple[Frame, LineTruth, Inspection]:
        frame, truth = item
        return frame, truth, cascade(frame.image_rgb)

    def draw(item: tuple[Frame, LineTruth, Inspection]) -> Frame:
        nonlocal found, right
        frame, truth, inspection = item
        matched, agreed = graded(inspection.objects, truth)
        found, right = found + matched, right + agreed
        if frame.index in wanted:
            camera = frame.image_rgb.copy()
            answers = (inspection, as_inspection(truth, camera))
            kept.append(Kept(frame.index, camera, *(draw_inspection(camera.copy(), answer) for answer in answers)))
        lines = hud.lines(inspection)
        return replace(frame, image_rgb=overlay.draw_hud(draw_inspection(frame.image_rgb, inspection, lines), lines))

    with open_sink(path, info) as sink:

        def encode(frame: Frame) -> None:
            sink.write(frame)
            if (frame.index + 1) % 30 == 0 or frame.index + 1 == line.frames:
                said(f"video: {frame.index + 1} of {line.frames} frames")

        stats = run_stages(line, (Stage("inspect", inspect), Stage("draw", draw), Stage("encode", encode)), name="render")
    return Made(stats, kept, (found, right))


class _Hud:
    """The lines in the corner: rate since the start, what is seen, what runs."""

    def __init__(self, cascade: Cascade) -> None:
        facts = cascade.detector.facts
        self._runtime = f"{facts.backend} {facts.precision}, three networks a frame"
        self._start = time.perf_counter()
        self._frames = 0

    def lines(self, inspection: Inspection) -> list[str]:
        self._frames += 1
        counts = np.bincount(inspection.objects.class_id, minlength=len(GRADES))
        seen = ", ".join(f"{count} {name}" for count, name in zip(counts, GRADES, strict=True) if count)
        return [f"{self._frames / (time.perf_counter() - self._start):.1f} FPS", seen or "no fruit", self._runtime]


def draw_inspection(image_rgb: Image, inspection: Inspection, hud: Sequence[str] = ()) -> Image:
    """Defects coloured, and a box with grade and defect share around every fruit, with room for a HUD; in place."""
    objects = inspection.objects
    captions = [
        name if name == GRADES[0] else f"{name} {ratio:.1%}" for name, ratio in zip(objects.names(), inspection.defect_ratio, strict=True)
    ]
    overlay.draw(image_rgb, inspection.segmentation, out=image_rgb, legend=False)
    return overlay.draw(image_rgb, objects, out=image_rgb, captions=captions, colours=GRADE_COLOURS, hud=hud)


def as_inspection(truth: LineTruth, image_rgb: Image) -> Inspection:
    """The truth in the form of an answer."""
    height, width = image_rgb.shape[:2]
    count = len(truth)
    objects = Detections(truth.xyxy, np.ones(count, np.float32), truth.grade, (height, width), GRADES, tracker_id=None)
    return Inspection(objects, Segmentation(truth.mask, CLASSES), truth.defect_ratio)


def graded(objects: Detections, truth: LineTruth) -> tuple[int, int]:
    """How many true fruit were found, and how many of those got their true grade."""
    if not len(objects) or not len(truth):
        return 0, 0
    iou = iou_matrix(truth.xyxy, objects.xyxy)
    best = iou.argmax(axis=1)
    found = iou[np.arange(len(truth)), best] >= MATCH_IOU
    return int(found.sum()), int((objects.class_id[best[found]] == truth.grade[found]).sum())
