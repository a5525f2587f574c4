"""The embedded default job: three networks on the orange line, as a video, a contact sheet and a table with its proof."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jetlens.bench.files import write_run
from jetlens.bench.records import Measurement, Run
from jetlens.data.orange_line import OrangeLine
from jetlens.demo.runtimes import NETWORKS, measure_runtimes
from jetlens.demo.sheet import write_sheet
from jetlens.demo.video import write_video
from jetlens.errors import OutputError, UsageError
from jetlens.pipeline.cascade import Cascade
from jetlens.pipeline.statistics import StreamStats
from jetlens.predictor import load

__all__ = ["SEED", "Demo", "run_demo"]

SEED = 3_000_000
"""Beyond every seed that training, validation and the published figures use."""

SIZE_HW = (360, 640)
FPS = 30.0


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo made.

    Attributes:
        files: what was written, by what it is.
        stats: of the video's pipeline.
        objects: fruit seen in all frames together, and how many of their grades agree with the truth.
        run: a row for each network on each runtime and precision.
    """

    files: dict[str, Path]
    stats: StreamStats
    objects: tuple[int, int]
    run: Run
    elapsed_s: float

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The rows of the run."""
        return self.run.measurements


def run_demo(
    folder: Path,
    *,
    seed: int = SEED,
    frames: int = 180,
    pictures: int = 40,
    backend: str = "auto",
    said: Callable[[str], None] = lambda message: None,
) -> Demo:
    """Inspects a synthetic line and measures every runtime that is there.

    Args:
        folder: where the files go; it is made if need be.
        frames: length of the video, at 30 a second.
        pictures: held-out pictures for the table's accuracy.
        said: told what is going on, for a progress display.

    Raises:
        OutputError: the folder cannot be made.
        UsageError: a count is below 1.
    """
    if frames < 3 or pictures < 1:
        raise UsageError(f"the demo needs at least 3 frames and 1 picture, not {frames} and {pictures}")
    began = time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {folder}: the folder cannot be made: {error.strerror}") from None
    files = {
        "video": folder / "orange-line.mp4",
        "contact sheet": folder / "contact-sheet.png",
        "raw measurements": folder / "results.json",
    }
    line = OrangeLine(seed, SIZE_HW, frames, FPS)
    with ExitStack() as stack:
        detector, grader, segmenter = (stack.enter_context(load(name, backend)) for name in NETWORKS)
        cascade = Cascade(detector, grader, segmenter)
        made = write_video(line, cascade, files["video"], said)
    write_sheet(files["contact sheet"], made.kept)
    run = measure_runtimes(pictures, said)
    write_run(files["raw measurements"], run)
    return Demo(files, made.stats, made.objects, run, time.perf_counter() - began)
