"""Measures how well ids stay with the fruit of the orange line: IDF1 with true boxes, with disturbed ones, and with the shipped detector.

    python benchmarks/tracking_idf1.py [--seeds 3] [--frames 240] [--size 360x640] [--output benchmarks/results/tracking_idf1.json]

IDF1 = 2 IDTP / (2 IDTP + IDFP + IDFN) at IoU 0.5 (Ristani et al. 2016), over all seeds together. ``bound`` is what no tracker can pass that
gives ids to the boxes it gets: a true box that is not among them counts as IDFN, and a false one as IDFP. Half of the frames are also
skipped in one row each, as on a board that keeps up with every second frame only.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import jetlens
from jetlens.data.orange_line import OrangeLine
from jetlens.frame import Image
from jetlens.ops.boxes import iou_matrix
from jetlens.predictor import load
from jetlens.results import Detections
from jetlens.tasks.base import TaskOptions
from jetlens.tracking import Tracker, TrackerOptions, identity_score
from jetlens.tracking.assignment import best_pairs

FPS = 30.0
OUTPUT = Path(__file__).resolve().parent / "results" / "tracking_idf1.json"
Frames = list[Detections]


def disturbed(truth: Frames, seed: int, *, noise: float, drop: float, false: float) -> Frames:
    """The true boxes, trembling by a share of their size, gone for stretches of up to 8 frames, with false ones among them."""
    rng = np.random.default_rng(seed)
    gone: dict[int, int] = {}
    frames = []
    for index, frame in enumerate(truth):
        height, width = frame.size_hw
        sides = np.tile(frame.xyxy[:, 2:] - frame.xyxy[:, :2], 2)
        xyxy = frame.xyxy + (rng.normal(0, noise, frame.xyxy.shape) * sides).astype(np.float32)
        for number in frame.tracker_id.tolist():
            if rng.uniform() < drop:
                gone[number] = index + int(rng.integers(1, 9))
        kept = np.array([gone.get(number, -1) < index for number in frame.tracker_id.tolist()], bool)
        count = int(rng.uniform() < false)
        corner = rng.uniform((0, 0), (width * 0.8, height * 0.8), (count, 2))
        extra = np.concatenate([corner, corner + height * 0.2], axis=1).astype(np.float32)
        boxes = np.concatenate([xyxy[kept], extra])
        scores = np.concatenate([rng.uniform(0.3, 1, int(kept.sum())), rng.uniform(0.3, 0.8, count)]).astype(np.float32)
        frames.append(Detections(boxes, scores, np.zeros(len(boxes), np.int64), frame.size_hw, frame.labels))
    return frames


def bound(given: Frames, truth: Frames) -> float:
    """IDF1 of the given boxes under perfect ids and with the false ones left out."""
    matched = sum(len(best_pairs(np.where((o := iou_matrix(t.xyxy, g.xyxy)) >= 0.5, o, 0))) for g, t in zip(given, truth, strict=True))
    return 2 * matched / (sum(map(len, truth)) + matched)


def scored(given: Sequence[Frames], truths: Sequence[Frames], options: TrackerOptions, fps: float) -> dict[str, Any]:
    matched = true = seen = changes = ids = objects = 0
    spent, frames = 0.0, 0
    for boxes, truth in zip(given, truths, strict=True):
        tracker, tracked = Tracker(options), []
        for index, frame in enumerate(boxes):
            start = time.perf_counter()
            tracked.append(tracker.update(replace(frame, tracker_id=None), index / fps))
            spent += time.perf_counter() - start
        score = identity_score(tracked, truth)
        matched, true, seen = matched + score.matched, true + score.true_boxes, seen + score.tracked_boxes
        changes, ids, objects, frames = changes + score.changes, ids + score.tracked_ids, objects + score.true_ids, frames + len(boxes)
    limit = float(np.mean([bound(boxes, truth) for boxes, truth in zip(given, truths, strict=True)]))
    return {
        "idf1": round(2 * matched / (true + seen), 4),
        "idp": round(matched / seen, 4),
        "idr": round(matched / true, 4),
        "bound": round(limit, 4),
        "id_changes": changes,
        "objects": objects,
        "ids": ids,
        "true_boxes": true,
        "frames": frames,
        "ms_per_frame": round(1e3 * spent / frames, 3),
    }


def detected(images: Sequence[Sequence[Image]]) -> list[Frames]:
    with load("orange-detect", threads=1, options=TaskOptions(confidence=0.1)) as detector:
        return [[detector(image) for image in line] for line in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=3_000_000, help="far from those that the detector was trained and tested on")
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--size", default="360x640")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    size_hw = tuple(int(side) for side in arguments.size.split("x"))
    images: list[list[Image]] = []
    truths: list[Frames] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        images.append([])
        truths.append([])
        for frame, truth in OrangeLine(seed, size_hw, arguments.frames, FPS):
            count = len(truth)
            images[-1].append(frame.image_rgb)
            truths[-1].append(
                Detections(
                    truth.xyxy, np.ones(count, np.float32), np.zeros(count, np.int64), size_hw, ("orange",), tracker_id=truth.tracker_id
                )
            )
    makers: dict[str, tuple[Callable[[], list[Frames]], TrackerOptions]] = {
        "true boxes": (lambda: truths, TrackerOptions()),
        "boxes off by 3 %": (lambda: [disturbed(t, s, noise=0.03, drop=0, false=0) for s, t in enumerate(truths)], TrackerOptions()),
        "15 % of the boxes dropped, 3 % off, false ones": (
            lambda: [disturbed(t, s, noise=0.03, drop=0.04, false=0.1) for s, t in enumerate(truths)],
            TrackerOptions(confirm=2),
        ),
        "orange-detect": (lambda: detected(images), TrackerOptions()),
        "orange-detect, ids after 2 frames": (lambda: detected(images), TrackerOptions(confirm=2)),
    }
    rows = []
    for name, (make, options) in makers.items():
        given = make()
        for step in (1, 2):
            kept = [line[::step] for line in given]
            row = {"boxes": name, "fps": FPS / step, **scored(kept, [line[::step] for line in truths], options, FPS / step)}
            row["given_per_true_box"] = round(sum(len(frame) for line in kept for frame in line) / row["true_boxes"], 4)
            rows.append(row)
            print(json.dumps(row), flush=True)
    record = {
        "definition": "IDF1 = 2 IDTP / (2 IDTP + IDFP + IDFN), IoU >= 0.5, ids matched one to one over a video (Ristani et al. 2016)",
        "videos": [f"test://orange-line?seed={arguments.first_seed + k}" for k in range(arguments.seeds)],
        "size_hw": size_hw,
        "jetlens": jetlens.__version__,
        "machine": platform.processor() or platform.machine(),
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
