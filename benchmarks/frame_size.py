"""Measures what baking a camera's resizing into the graph is worth: the host's resize and the graph beside the graph that takes raw frames.

    python benchmarks/frame_size.py [--models orange-detect,orange-segment] [--frame 720x1280] [--backend onnxruntime] [--precision fp16]
                                    [--threads N] [--blocks 12] [--output FILE]

Both take turns, block by block, on the same frames; a call is everything from the frame in memory to the prediction. Of the blocks' medians the
median is given, and the interval of the ratio over the pairs of neighbouring blocks. ``--backend tensorrt`` on a GPU builds both engines first.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jetlens.data.orange_line import still
from jetlens.export.frame_size import add_frame_size
from jetlens.predictor import Predictor, load, model_path, precision_path

FRAMES, CALLS, WARM_UP = 8, 24, 30


def block(predictor: Predictor, frames: list[np.ndarray]) -> dict[str, float]:
    """Medians of one block of calls, in milliseconds."""
    rows = [predictor.timed(frames[index % len(frames)])[1] for index in range(CALLS)]
    keys = ("preprocess_ms", "infer_ms", "postprocess_ms", "total_ms")
    return {key: float(np.median([getattr(row, key) for row in rows])) for key in keys}


def measure(model: str, frame_hw: tuple[int, int], arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    source = precision_path(model_path(model), arguments.precision)
    framed = scratch / f"{Path(model).stem}.frames.onnx"
    _, check = add_frame_size(source, frame_hw, framed)
    frames = [still(seed, frame_hw)[0] for seed in range(FRAMES)]
    options: dict[str, Any] = {"backend": arguments.backend, "threads": arguments.threads}
    with load(source, **options) as host, load(framed, **options) as graph:
        for index in range(WARM_UP):
            host(frames[index % FRAMES]), graph(frames[index % FRAMES])
        pairs = []
        for turn in range(arguments.blocks):
            order = (host, graph) if turn % 2 == 0 else (graph, host)
            found = {id(one): block(one, frames) for one in order}
            pairs.append((found[id(host)], found[id(graph)]))
        facts = graph.facts
    ratios = np.sort([two["total_ms"] / one["total_ms"] for one, two in pairs])
    ends = ratios[[round(0.1 * (len(ratios) - 1)), round(0.9 * (len(ratios) - 1))]]
    return {
        "model": Path(model).stem,
        "frame_hw": frame_hw,
        "backend": facts.backend,
        "device": facts.device,
        "precision": facts.precision,
        "host": {key: round(float(np.median([one[key] for one, _ in pairs])), 4) for key in pairs[0][0]},
        "frames": {key: round(float(np.median([two[key] for _, two in pairs])), 4) for key in pairs[0][0]},
        "ratio": round(float(np.median(ratios)), 4),
        "ratio_p10_p90": [round(float(value), 4) for value in ends],
        "levels_apart": check.levels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="orange-detect,orange-segment")
    parser.add_argument("--frame", default="720x1280")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", choices=("fp16", "int8"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    height, _, width = arguments.frame.partition("x")
    with tempfile.TemporaryDirectory() as scratch:
        rows = [measure(name, (int(height), int(width)), arguments, Path(scratch)) for name in arguments.models.split(",")]
    print(f"{'model':16} {'host resize + graph':>34} {'frames into the graph':>34}  ratio of the calls (p10 to p90)")
    for row in rows:
        words = [f"{row[k]['preprocess_ms']:.2f} + {row[k]['infer_ms']:.2f} = {row[k]['total_ms']:.2f} ms" for k in ("host", "frames")]
        low, high = row["ratio_p10_p90"]
        print(f"{row['model']:16} {words[0]:>34} {words[1]:>34}  {row['ratio']:.2f} ({low:.2f} to {high:.2f})")
    if arguments.output:
        arguments.output.write_text(json.dumps({"processor": platform.processor() or platform.machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
