"""A view of a picture or of every frame of a stream, written as a picture, a video or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jetlens.errors import OutputError
from jetlens.frame import Frame, Image
from jetlens.learn.lesson import Lesson
from jetlens.learn.pictures import reduced
from jetlens.learn.views import Look, View, mosaic
from jetlens.media import Sink, Source, open_sink
from jetlens.media.images import WRITTEN_SUFFIXES, write_image
from jetlens.pipeline import Stage, run_stages

__all__ = ["default_output", "show_picture", "show_stream"]

STILL_WIDTH = 1600
FRAME_WIDTH = 1280


def default_output(name: str, source: Image | Source) -> Path:
    """Where a view goes if the user does not say: NAME.png, NAME.mp4, or the folder NAME for a folder of pictures."""
    if isinstance(source, np.ndarray):
        return Path(f"{name}.png")
    return Path(f"{name}.mp4") if source.info.fps > 0 else Path(name)


def show_picture(view: View, image: Image, output: Path) -> Lesson:
    """One picture.

    Raises:
        OutputError: it cannot be written.
    """
    if output.suffix.lower() not in WRITTEN_SUFFIXES:
        raise OutputError(f"--output {output}: a picture is written as {', '.join(WRITTEN_SUFFIXES)}")
    look = view(reduced(image))
    write_image(output, mosaic(look, STILL_WIDTH))
    return Lesson(view.name, view.text, tuple(look.lines), dict(look.numbers), (output,))


def show_stream(
    view: View, source: Source, output: Path, *, frames: int | None = None, advance: Callable[[], None] = lambda: None
) -> Lesson:
    """Every frame, or the first so many; the numbers are of the last one, with the average of those that are plain.

    Raises:
        InputError: the stream broke off; what came before is written.
        OutputError: it cannot be written.
    """
    looks: list[Look] = []
    averages: dict[str, list[float]] = {}

    def look_at(frame: Frame) -> Frame:
        look = view(reduced(frame.image_rgb))
        looks[:] = [look]
        for key, value in look.numbers.items():
            if isinstance(value, (int, float)):
                averages.setdefault(key, []).append(float(value))
        # A video's width and height are even.
        picture = mosaic(look, FRAME_WIDTH)
        even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        return replace(frame, image_rgb=np.ascontiguousarray(even))

    with ExitStack() as stack:
        opened: list[Sink] = []

        def write(frame: Frame) -> None:
            if not opened:  # its size is known now
                opened.append(stack.enter_context(open_sink(output, replace(source.info, size_hw=frame.size_hw))))
            opened[0].write(frame)
            advance()

        stats = run_stages(islice(iter(source), frames), (Stage("look", look_at), Stage("encode", write)))
    if stats.ended_by is not None:
        raise stats.ended_by
    last: dict[str, Any] = dict(looks[0].numbers) if looks else {}
    means = {key: sum(values) / len(values) for key, values in averages.items()}
    lines = [f"{stats.frames} frames, {stats.fps:.1f} a second, decoding, looking and encoding together"]
    lines += [f"average of {key.replace('_', ' ')}: {value:.4g}" for key, value in means.items()]
    numbers = {"frames": stats.frames, "frames_per_s": stats.fps, "average": means, "last_frame": last}
    return Lesson(view.name, view.text, tuple(lines), numbers, (output,))
