"""Frames that are already decoded, through the live pipeline, beside the rate of the model's engine alone; and four streams in one process.

    python benchmarks/decoded_frames.py --models orange-detect,ssd300.fp16.onnx [--batches 1,4] [--backend tensorrt] [--frame 720x1280]
                                        [--lanes N] [--profile 1:4:4|each] [--seconds 2] [--rounds 3] [--framed] [--four] [--candidates 25]
                                        [--output FILE]

A run counts everything from the frame in memory to the prediction in its pixels: resize, copies, model, postprocessing. The engine's own rate
is that of the same session with as many lanes, fed with what lies in its buffers and with nothing done to its answers; for information also
that of one lane, near what trtexec reports with its one stream. Both take turns, and the median of the ratios counts; goal 0.8. ``--framed`` puts
the resize into the graph. ``--profile each`` builds an engine for every batch: TensorRT 8.6 captures a graph that resizes frames for one batch
size alone. A detector without trained weights finds something everywhere: ``--candidates`` sets its threshold so that as many boxes a picture
pass it as of a trained one (NanoDet with its own weights and threshold: 24 on the 64 photos of COCO, 5.6 after non-maximum suppression); 0
leaves the model's own. ``--four`` compares four streams in one process with four processes of one stream that start together; goal 1.3. Exit
code 3 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jetlens.backends.immediate import ImmediateLanes
from jetlens.data.orange_line import still
from jetlens.engines.options import BuildOptions
from jetlens.export.frame_size import add_frame_size
from jetlens.frame import Frame, Image
from jetlens.media.base import StreamInfo
from jetlens.pipeline.inference import gpu_lanes
from jetlens.pipeline.live import LiveOptions, LivePipeline
from jetlens.predictor import Predictor, load, model_path
from jetlens.tasks.base import TaskOptions
from jetlens.tasks.detection import DetectionTask
from jetlens.tasks.heads import HEADS

GOALS = {"of_the_engine": 0.8, "of_four_processes": 1.3}
PICTURES, STREAMS = 8, 4


class Decoded:
    """A file whose frames lie in memory: as many as are read within the time."""

    def __init__(self, pictures: list[Image], seconds: float, number: int) -> None:
        self._pictures, self._seconds = pictures, seconds
        height, width = pictures[0].shape[:2]
        self.info = StreamInfo((height, width), 0.0, None, f"memory {number}", "none")

    def __iter__(self) -> Iterator[Frame]:
        end_s, index = time.monotonic() + self._seconds, 0
        while time.monotonic() < end_s:
            yield Frame(self._pictures[index % len(self._pictures)], index, 0.0, time.monotonic(), self.info.name)
            index += 1

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Decoded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pipeline_rate(predictor: Predictor, pictures: list[Image], streams: int, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Frames a second through all stages, and the share of the time that each stage worked."""
    answers: list[object] = []
    live = LivePipeline(
        [Decoded(pictures, arguments.seconds, number) for number in range(streams)],
        predictor,
        lambda result, _: answers.append(result.prediction),
        options=LiveOptions(batch, lanes=arguments.lanes),
    )
    begin_s = time.monotonic()
    live.run()
    wall_s = time.monotonic() - begin_s
    if live.failures or not answers:
        raise SystemExit(f"the pipeline answered {len(answers)} frames: {live.failures}")
    busy = {name: round(share, 3) for name, share in live.status().busy.items()}
    return {"fps": round(len(answers) / wall_s, 1), "busy": busy}


def engine_rate(predictor: Predictor, batch: int, lanes: int, arguments: argparse.Namespace) -> float:
    """Pictures a second of the session alone, with so many runs in flight where it can have them."""
    session, flight = predictor.session, deque[Any]()
    lanes = 1 if isinstance(session, ImmediateLanes) else lanes
    begin_s = time.monotonic()
    runs = 0
    while time.monotonic() < begin_s + arguments.seconds:
        if len(flight) == lanes:
            done = flight.popleft()
            done.view()
            done.release()
        flight.append(session.submit(session.lane(batch)))
        runs += 1
    for done in flight:
        done.view()
        done.release()
    return runs * batch / (time.monotonic() - begin_s)


def opened(model: Path, pictures: list[Image], batch: int, arguments: argparse.Namespace) -> Predictor:
    low, usual, most = (batch,) * 3 if arguments.profile == "each" else (int(part) for part in arguments.profile.split(":"))
    build = BuildOptions(batch=(low, usual, most), optimization_level=arguments.level)
    predictor = load(model, arguments.backend, lanes=arguments.lanes, build=build, threads=arguments.threads)
    if isinstance(predictor.task, DetectionTask) and arguments.candidates:
        predictor.task = DetectionTask(predictor.spec, TaskOptions(confidence=_threshold(predictor, pictures, arguments.candidates)))
    return predictor


def _threshold(predictor: Predictor, pictures: list[Image], candidates: int) -> float:
    """The confidence that so many boxes a picture have, but at least the model's own."""
    decode = HEADS.load(predictor.spec.decoder)
    found = [
        decode(predictor.infer(predictor.task.preprocess([picture])), predictor.spec, predictor.spec.confidence) for picture in pictures
    ]
    scores = np.sort(np.concatenate([one.confidence for (one,) in found]))[::-1]
    wanted = candidates * len(pictures)
    return float(scores[wanted - 1]) if len(scores) >= wanted else predictor.spec.confidence


def measure(model: Path, frame_hw: tuple[int, int], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each batch."""
    pictures = [still(seed, frame_hw)[0] for seed in range(PICTURES)]
    rows = []
    for batch in (int(part) for part in arguments.batches.split(",")):
        with opened(model, pictures, batch, arguments) as predictor:
            turns = []
            for _ in range(arguments.rounds + 1):
                engine, one = (engine_rate(predictor, batch, lanes, arguments) for lanes in (arguments.lanes, 1))
                turns.append((engine, pipeline_rate(predictor, pictures, 1, batch, arguments), one))
            turns = turns[1:]
            ratio, of_one = (statistics.median(turn[1]["fps"] / turn[index] for turn in turns) for index in (0, 2))
            rows.append(
                {
                    "model": model.stem,
                    "precision": predictor.facts.precision,
                    "backend": predictor.facts.backend,
                    "device": predictor.facts.device,
                    "frame_hw": frame_hw,
                    "batch": batch,
                    "lanes": arguments.lanes,
                    "confidence": round(predictor.task.options.confidence or predictor.spec.confidence, 4),
                    "engine_fps": round(statistics.median(turn[0] for turn in turns), 1),
                    "one_lane_fps": round(statistics.median(turn[2] for turn in turns), 1),
                    "pipeline_fps": round(statistics.median(turn[1]["fps"] for turn in turns), 1),
                    "of_the_engine": round(ratio, 4),
                    "of_one_lane": round(of_one, 4),
                    "busy": turns[-1][1]["busy"],
                    "rounds": [[round(engine, 1), piped["fps"], round(one, 1)] for engine, piped, one in turns],
                    "notes": [note for note in predictor.facts.notes if "CUDA graph" in note],
                }
            )
            row = rows[-1]
            print(
                f"{row['model']} batch {batch}: engine {row['engine_fps']}, one lane {row['one_lane_fps']}, pipeline {row['pipeline_fps']}, "
                f"ratio {ratio:.3f} (to one lane {of_one:.3f}) {row['busy']} {row['notes']}",
                flush=True,
            )
    return rows


def four(model: Path, frame_hw: tuple[int, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Four streams through one process, beside four processes of one stream; by turns."""
    turns = []
    for _ in range(arguments.rounds):
        found = {}
        for processes, streams in ((1, STREAMS), (STREAMS, 1)):
            command = [sys.executable, *sys.argv, "--child", str(model), str(streams)]
            children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            for child in children:
                assert child.stdout is not None
                child.stdout.readline()
            for child in children:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            found[processes] = sum(json.loads(child.communicate()[0].splitlines()[-1])["fps"] for child in children)
        turns.append((found[1], found[STREAMS]))
    ratio = statistics.median(one / many for one, many in turns)
    print(f"{model.stem}: four streams in one process {turns[-1][0]:.0f}, four processes {turns[-1][1]:.0f}, ratio {ratio:.3f}")
    return {"model": model.stem, "frame_hw": frame_hw, "of_four_processes": round(ratio, 4), "rounds": turns}


def child(frame_hw: tuple[int, int], arguments: argparse.Namespace) -> None:
    """One process of ``four``: says that it is ready, waits for a line, and says its rate."""
    model, streams = Path(arguments.child[0]), int(arguments.child[1])
    pictures = [still(seed, frame_hw)[0] for seed in range(PICTURES)]
    with opened(model, pictures, streams, arguments) as predictor:
        predictor(pictures[0])
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(pipeline_rate(predictor, pictures, streams, min(streams, predictor.facts.largest_batch or streams), arguments)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="orange-detect")
    parser.add_argument("--batches", default="1,4")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--frame", default="720x1280")
    parser.add_argument("--lanes", type=int, default=gpu_lanes())
    parser.add_argument("--threads", type=int)
    parser.add_argument("--profile", default="1:4:4", help="batches of the engine, or each: an engine for every batch")
    parser.add_argument("--level", type=int, help="TensorRT's optimization level")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--framed", action="store_true", help="put the resize of the frames into the graph")
    parser.add_argument(
        "--candidates", type=int, default=25, help="boxes a picture that pass a detector's threshold; 0 for its own threshold"
    )
    parser.add_argument("--four", action="store_true", help="also four streams beside four processes")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    height, _, width = arguments.frame.partition("x")
    frame_hw = (int(height), int(width))
    if arguments.child:
        child(frame_hw, arguments)
        return 0
    rows: list[dict[str, Any]] = []
    record = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "goals": GOALS, "rows": rows}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.models.split(","):
            model = model_path(name)
            if arguments.framed:
                model, source = Path(scratch) / f"{model.stem}.frames.onnx", model
                add_frame_size(source, frame_hw, model)
            rows += measure(model, frame_hw, arguments)
            if arguments.four:
                rows.append(four(model, frame_hw, arguments))
            if arguments.output:
                arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    missed = [f"{row['model']} {goal} {row[goal]}" for row in rows for goal, least in GOALS.items() if row.get(goal, np.inf) < least]
    print(f"missed: {'; '.join(missed)}" if missed else "all goals are met")
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
