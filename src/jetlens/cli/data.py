"""`jetlens data`: images of the orange line with their exact truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from jetlens.data.orange_line import write_dataset
from jetlens.errors import UsageError

__all__ = ["command"]


def command(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder to write into.")],
    count: int = typer.Option(100, "--count", min=1, help="How many images."),
    seed: int = typer.Option(0, "--seed", min=0, help="One seed, one dataset, bit for bit."),
    size: str = typer.Option("360x640", "--size", help="Height x width in pixels."),
    video: bool = typer.Option(False, "--video", help="Consecutive frames of one line, not independent scenes."),
    image_format: str = typer.Option("png", "--format", help="png or jpeg (quality 95)."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Write images of the orange line with their exact truth: masks, boxes with track ids, grades."""
    size_hw = _size_hw(size)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        bar = progress.add_task("images", total=count)
        written = write_dataset(
            folder,
            seed,
            count,
            size_hw,
            video=video,
            image_format=image_format,
            on_image=lambda done: progress.update(bar, completed=done),
        )
    if as_json:
        facts = {"folder": str(written.folder), "images": written.images, "fruits": written.fruits, "grades": written.grades}
        typer.echo(json.dumps(facts))
        return
    grades = ", ".join(f"{number} {name}" for name, number in written.grades.items())
    typer.echo(f"{written.folder}: {written.images} images of {size_hw[1]}x{size_hw[0]}, {written.fruits} fruits ({grades})")


def _size_hw(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(f"--size {text!r}: give height x width in pixels, such as 360x640")
    return int(height), int(width)
