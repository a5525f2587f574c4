"""Reading videos with each decoder of this machine, by turns: what opening costs, then wall and processor time of every further frame.

    python benchmarks/video_decoders.py [--sizes 720x1280,1080x1920,2160x3840] [--encoders libx264,libx265] [--frames 300] [--rounds 3]
                                        [--decoders av,nvdec] [--output FILE]

The videos are moving blocks of noise that x264 and x265 'veryfast' code. Opening goes up to the first frame: a GPU's decoder makes a CUDA
context in it, which would weigh on a short video's frames. Frames are handed out as RGB, and each decoder's are compared with software's to
the last bit; exit code 3 where they differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import av
import numpy as np

from jetlens.device import machine
from jetlens.errors import JetlensError
from jetlens.media.hardware import HARDWARE, SOFTWARE
from jetlens.media.sources import open_video

BLOCK = 8


def make(path: Path, size_hw: tuple[int, int], encoder: str, frames: int) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (size_hw[0] // BLOCK, size_hw[1] // BLOCK, 3), np.uint8)
    picture = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=30, options={"preset": "veryfast", "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * index, 1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def reading(path: Path, decoder: str) -> dict[str, float]:
    """Milliseconds of opening, and of every frame after the first."""
    marks = [(time.perf_counter(), time.process_time())]
    with open_video(path, decoder=decoder) as source:
        frames = iter(source)
        next(frames)
        marks.append((time.perf_counter(), time.process_time()))
        count = sum(1 for _ in frames)
        marks.append((time.perf_counter(), time.process_time()))
    (begun, begun_cpu), (opened, opened_cpu), (ended, ended_cpu) = marks
    return {
        "open_ms": 1e3 * (opened - begun),
        "open_cpu_ms": 1e3 * (opened_cpu - begun_cpu),
        "frame_ms": 1e3 * (ended - opened) / count,
        "frame_cpu_ms": 1e3 * (ended_cpu - opened_cpu) / count,
    }


def unlike(path: Path, decoder: str) -> int:
    """How many pictures are missing or not software's to the last bit."""
    with open_video(path, decoder=decoder) as source, open_video(path, decoder=SOFTWARE) as software:
        pairs = zip_longest(source, software)
        return sum(one is None or other is None or not np.array_equal(one.image_rgb, other.image_rgb) for one, other in pairs)


def measure(path: Path, decoders: list[str], rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for decoder in decoders:
        try:
            rows.append({"decoder": decoder, "unlike": unlike(path, decoder), "rounds": []})
        except JetlensError as error:
            print(error)
    for _ in range(rounds):
        for row in rows:
            row["rounds"].append(reading(path, row["decoder"]))
    for row in rows:
        row["median"] = {name: round(statistics.median(turn[name] for turn in row["rounds"]), 3) for name in row["rounds"][0]}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="720x1280,1080x1920,2160x3840")
    parser.add_argument("--encoders", default="libx264,libx265")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decoders", default=",".join((SOFTWARE, *HARDWARE)))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.frames < 2 or arguments.rounds < 1:
        parser.error("at least 2 frames and 1 round")
    found: list[dict[str, Any]] = []
    for encoder in arguments.encoders.split(","):
        for size in arguments.sizes.split(","):
            height, width = (int(part) for part in size.split("x"))
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "video.mp4"
                make(path, (height, width), encoder, arguments.frames)
                rows = measure(path, arguments.decoders.split(","), arguments.rounds)
            for row in rows:
                found.append({"encoder": encoder, "size_hw": [height, width], "frames": arguments.frames, **row})
                print(f"{size} {encoder} {row['decoder']}: {row['median']}, {row['unlike']} pictures unlike software's", flush=True)
            if arguments.output:
                facts = machine()
                gpus = [f"{gpu.name}, driver {gpu.driver}" for gpu in facts.gpus]
                here = {"processor": facts.cpu, "cores": facts.cores, "gpus": gpus, "python": facts.python}
                record = {"machine": here, "av": version("av"), "rows": found}
                arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 3 if any(row["unlike"] for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
