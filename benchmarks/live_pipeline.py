"""The live pipeline against what the machine could do, against a plain loop, and four streams in one process against four processes.

    python benchmarks/live_pipeline.py [--model orange-detect] [--frames 240] [--rounds 5] [--output benchmarks/results/live_pipeline.json]

1. A 720p file through the detector, overlay and H.264: the rate over min(the slowest stage alone, cores / the sum of the stages' CPU times);
   goal 0.9. Beside it, for information: the rate over a single-frame loop around the same session (read, resize, run, draw, write, one
   after the other, with OpenCV).
2. A 720p file through the segmentation network, overlay and H.264: the rate over that of source 004's single-frame loop around the same
   network; goal 2. Its graph gives class maps; the host takes their softmax, resizes each of them to the frame, takes the best class,
   colours, blends and writes. Both loops have the pipeline's H.264 encoder, which OpenCV's wheels lack, and sessions of one thread.
3. Four 360p files in one process: the total rate over that of four processes that start together (goal 1), and the memory of the one over
   the sum of theirs (goal 0.5; PSS, which counts what processes share once).

Every round measures all of it one after the other, so that all see the same machine; medians over the rounds of the ratios count. On a
machine that others use the ratios still say something, the rates do not, and what needs two cores does not get them: each row says how
many cores others used meanwhile. Exit code 3 where a goal is missed.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime

from jetlens.frame import Frame
from jetlens.media import open_sink, open_source
from jetlens.pipeline import Renderer, Result
from jetlens.pipeline.inference import usual_lanes
from jetlens.pipeline.live import LiveOptions, LivePipeline
from jetlens.predictor import Predictor, load, model_path

LARGE_HW, SMALL_HW = (720, 1280), (360, 640)
RENDERED = 30
STREAMS = 4
GOALS = {"of_the_bound": 0.9, "of_the_loop_of_source_004": 2.0, "rate_of_four_processes": 1.0, "memory_of_four_processes": 0.5}
SEGMENTER = "orange-segment"
COLOURS_BGR = np.array([(0, 0, 0), (0, 200, 255), (60, 20, 220), (180, 120, 40)], np.uint8)


def main() -> int:
    arguments = _arguments()
    if arguments.child:
        return _child(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make_clip(folder / "large.mp4", LARGE_HW, arguments.frames)
        _make_clip(folder / "small.mp4", SMALL_HW, arguments.frames)
        with load(arguments.model, threads=1) as predictor, load(SEGMENTER, threads=1) as segmenter:
            maps = _class_maps()
            rounds = [_round(folder, predictor, segmenter, maps, arguments) for _ in range(arguments.rounds + 1)][1:]
            facts = predictor.facts
    ratios = {name: statistics.median(row["ratios"][name] for row in rounds) for name in GOALS}
    detector = statistics.median(row["detector_of_its_single_frame_loop"] for row in rounds)
    own = statistics.median(row["stages_over_whole_cpu"] for row in rounds)
    met = {name: value <= GOALS[name] if name.startswith("memory") else value >= GOALS[name] for name, value in ratios.items()}
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load_1_min": os.getloadavg()[0],
        "cores_of_others": statistics.median(row["live"]["cores_of_others"] for row in rounds),
    }
    setup = {"model": arguments.model, "backend": facts.backend, "frames": arguments.frames, "rounds": arguments.rounds}
    report = {
        "goals": GOALS,
        "ratios": {k: round(v, 3) for k, v in ratios.items()},
        "detector_of_its_single_frame_loop": round(detector, 3),
        "stages_over_whole_cpu": round(own, 3),
        "met": met,
        "machine": machine,
        "setup": setup,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**report, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")
    print(f"CPU time of the stages alone over that of the whole: {own:.3f}")
    print(f"others used {machine['cores_of_others']:.2f} of {machine['cores']} cores meanwhile")
    print(f"detector over its own single-frame loop: {detector:.3f}")
    for name, value in ratios.items():
        print(f"{name}: {value:.3f} (goal {GOALS[name]}): {'met' if met[name] else 'missed'}")
    return 0 if all(met.values()) else 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="orange-detect")
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "live_pipeline.json")
    parser.add_argument("--child", nargs="*", default=[], help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_clip(path: Path, size_hw: tuple[int, int], count: int) -> None:
    """The orange line; its frames go to and fro, since rendering them is slow."""
    with open_source(f"test://orange-line?seed=5&frames={RENDERED}&size={size_hw[0]}x{size_hw[1]}") as source:
        rendered = [frame.image_rgb for frame in source]
        with open_sink(path, source.info) as sink:
            for index in range(count):
                place = index % (2 * RENDERED - 2)
                sink.write(Frame(rendered[min(place, 2 * RENDERED - 2 - place)], index, index / 30, 0.0, ""))


def _round(folder: Path, predictor: Predictor, segmenter: Predictor, maps: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    clip, out, count = folder / "large.mp4", folder / "out.mp4", arguments.frames
    with open_source(clip) as source:
        few = [frame for frame, _ in zip(source, range(24), strict=False)]
    alone = {
        "decode": _timed(lambda: _decode(clip)),
        "infer": _timed(lambda: _infer(predictor, few, count)),
        "draw": _timed(lambda: _draw(predictor, few, count)),
        "encode": _timed(lambda: _encode(out, clip, few, count)),
    }
    live = _timed(lambda: _live([clip], out, predictor))
    loop = _timed(lambda: _loop(clip, out, predictor))
    segmented = _timed(lambda: _live([clip], out, segmenter))
    loop_004 = _timed(lambda: _loop_004(clip, out, maps))
    # What a machine of that many cores cannot beat: its slowest stage, and all the work spread evenly.
    least_s = max(max(row["wall_s"] for row in alone.values()), sum(row["cpu_s"] for row in alone.values()) / (os.cpu_count() or 1))
    one = _children(folder / "small.mp4", 1, STREAMS, arguments)
    four = _children(folder / "small.mp4", STREAMS, 1, arguments)
    ratios = {
        "of_the_bound": least_s / live["wall_s"],
        "of_the_loop_of_source_004": loop_004["wall_s"] / segmented["wall_s"],
        "rate_of_four_processes": one["fps"] / four["fps"],
        "memory_of_four_processes": one["pss_mib"] / four["pss_mib"],
    }
    own = sum(row["cpu_s"] for row in alone.values()) / live["cpu_s"]
    return {
        "ratios": ratios,
        "detector_of_its_single_frame_loop": loop["wall_s"] / live["wall_s"],
        "stages_over_whole_cpu": own,
        "alone": alone,
        "live": live,
        "single_frame_loop": loop,
        "segmentation_live": segmented,
        "segmentation_loop_of_source_004": loop_004,
        "one_process": one,
        "four_processes": four,
    }


def _timed(run: Callable[[], object]) -> dict[str, float]:
    wall_s, cpu_s, busy_s = time.perf_counter(), time.process_time(), _machine_busy_s()
    run()
    wall_s, cpu_s, busy_s = time.perf_counter() - wall_s, time.process_time() - cpu_s, _machine_busy_s() - busy_s
    return {"wall_s": round(wall_s, 4), "cpu_s": round(cpu_s, 4), "cores_of_others": round(max(0.0, busy_s - cpu_s) / wall_s, 2)}


def _machine_busy_s() -> float:
    """Processor time of everything that runs here, all cores together."""
    times = [int(part) for part in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK")


def _decode(clip: Path) -> None:
    with open_source(clip) as source:
        for _ in source:
            pass


def _infer(predictor: Predictor, frames: list[Frame], count: int) -> None:
    for index in range(count):
        predictor(frames[index % len(frames)].image_rgb)


def _draw(predictor: Predictor, frames: list[Frame], count: int) -> None:
    render = Renderer(predictor.facts)
    results = [Result(frame, predictor(frame.image_rgb), 10.0) for frame in frames[:4]]
    for index in range(count):
        render(results[index % len(results)])


def _encode(out: Path, clip: Path, frames: list[Frame], count: int) -> None:
    with open_source(clip) as source:
        info = source.info
    with open_sink(out, info) as sink:
        for index in range(count):
            place = index % (2 * len(frames) - 2)
            picture = frames[min(place, 2 * len(frames) - 2 - place)].image_rgb
            sink.write(Frame(picture, index, index / 30, 0.0, ""))


def _live(clips: list[Path], out: Path, predictor: Predictor) -> None:
    """What `jetlens run CLIP --output OUT` does."""
    sources = [open_source(clip) for clip in clips]
    sinks = [open_sink(out.with_stem(f"{out.stem}{number}"), source.info) for number, source in enumerate(sources)]
    renders = [Renderer(predictor.facts) for _ in sources]
    options = LiveOptions(lanes=usual_lanes(predictor, 1, 0, len(sources)))
    pipeline = LivePipeline(
        sources, predictor, lambda result, drawn: sinks[result.stream].write(drawn), render=renders, draws=True, options=options
    )
    pipeline.run()
    for sink in sinks:
        sink.close()
    if pipeline.failures:
        raise SystemExit(f"{pipeline.failures}")


def _loop(clip: Path, out: Path, predictor: Predictor) -> None:
    """Read, convert, resize, run, draw, write: one frame after the other, as tutorials do."""
    reader = cv2.VideoCapture(str(clip))
    height, width = LARGE_HW
    with open_source(clip) as source:
        writer = open_sink(out, source.info)
    index = 0
    size_hw = predictor.spec.preprocess.size_hw
    name = predictor.session.inputs[0].name
    while True:
        more, frame_bgr = reader.read()
        if not more:
            break
        small = cv2.resize(cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB), size_hw[::-1])
        found = predictor.session.run({name: np.ascontiguousarray(small[None])})["detections"][0]
        found = found[found[:, 4] > 0.5]
        boxes = found[:, :4] * np.tile((width / size_hw[1], height / size_hw[0]), 2)
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        kept = cv2.dnn.NMSBoxes(xywh.tolist(), found[:, 4].tolist(), 0.5, 0.45) if len(found) else []
        for left, top, right, bottom in boxes[np.asarray(kept, int)].astype(int):
            cv2.rectangle(frame_bgr, (left, top), (right, bottom), (0, 0, 255), 2)
            cv2.putText(frame_bgr, "orange", (left, top), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 255), 2)
        writer.write(Frame(cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB), index, index / 30, 0.0, ""))
        index += 1
    reader.release()
    writer.close()


def _class_maps() -> Any:
    """The segmentation network without the argmax that is exported into its graph: a session that gives a map for each class."""
    model = onnx.load(model_path(SEGMENTER))
    last = next(node for node in model.graph.node if node.op_type == "ArgMax")
    kept = [node for node in model.graph.node if node.op_type != "ArgMax" and last.output[0] not in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _loop_004(clip: Path, out: Path, session: Any) -> None:
    """Read, resize, run, softmax, resize each class map, argmax, colour, blend, text, write: one frame after the other."""
    reader = cv2.VideoCapture(str(clip))
    with open_source(clip) as source:
        writer = open_sink(out, source.info)
    tensor = session.get_inputs()[0]
    height, width = LARGE_HW
    index, start_s = 0, time.perf_counter()
    while True:
        more, frame_bgr = reader.read()
        if not more:
            break
        small = cv2.resize(cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB), tensor.shape[2:0:-1])
        logits = session.run(None, {tensor.name: small[None]})[0][0]
        exponents = np.exp(logits - logits.max(axis=0, keepdims=True))
        probabilities = exponents / exponents.sum(axis=0, keepdims=True)
        mask = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in probabilities]).argmax(axis=0)
        blended = cv2.addWeighted(frame_bgr, 0.4, COLOURS_BGR[mask], 0.6, 0)
        fps = (index + 1) / (time.perf_counter() - start_s)
        cv2.putText(blended, f"FPS: {fps:.1f}", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 255, 0), 2)
        writer.write(Frame(cv2.cvtColor(blended, cv2.COLOR_BGR2RGB), index, index / 30, 0.0, ""))
        index += 1
    reader.release()
    writer.close()


def _children(clip: Path, processes: int, streams: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Processes that load, start together, and say when they ended and what they held."""
    command = [sys.executable, __file__, "--model", arguments.model, "--child", str(clip), str(streams)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    start_s = time.monotonic()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    rows = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    wall_s = max(row["end_s"] for row in rows) - start_s
    return {"fps": round(processes * streams * arguments.frames / wall_s, 2), "pss_mib": round(sum(row["pss_mib"] for row in rows), 1)}


def _child(arguments: argparse.Namespace) -> int:
    """One process: so many streams of one file into videos."""
    clip, streams = Path(arguments.child[0]), int(arguments.child[1])
    with tempfile.TemporaryDirectory() as scratch, load(arguments.model, threads=1) as predictor:
        print("loaded", flush=True)
        sys.stdin.readline()
        peak = _Peak()
        _live([clip] * streams, Path(scratch) / "out.mp4", predictor)
        end_s = time.monotonic()
        print(json.dumps({"end_s": end_s, "pss_mib": peak.stop()}))
    return 0


class _Peak:
    """The most memory of this process, with what it shares with others counted in parts."""

    def __init__(self) -> None:
        import threading

        self._ended = threading.Event()
        self._most = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self._most = max(self._most, _pss_mib())

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._most


def _pss_mib() -> float:
    rows = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
