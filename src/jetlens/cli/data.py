"""`jetlens data`: check and describe datasets, and write images of the orange line with their exact truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from jetlens.cli import flags
from jetlens.cli.progress import counting_bar
from jetlens.cli.terminal import printable
from jetlens.data import LAYOUTS, Dataset, compute_mean_std, open_dataset
from jetlens.data.base import Listed, MeanStd
from jetlens.data.check import Report, check_dataset
from jetlens.data.layouts.cifar10 import download as download_cifar10
from jetlens.data.opening import ORANGE_LINE
from jetlens.data.orange_line import write_dataset
from jetlens.errors import DataError, GateError, ImageError, UsageError
from jetlens.imagefile import image_size
from jetlens.results import Detections
from jetlens.spec import TaskName

__all__ = ["command"]

command = typer.Typer(no_args_is_help=True, help="Check and describe datasets; write images of the orange line.")

_LAYOUT_HELP = f"One of {', '.join(LAYOUTS)}; told from the folder if not given."
_MOST_ROWS = 50
_MEASURED = 500
_SIZE = (224, 224)


@command.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="A dataset in any known layout.")],
    layout: Annotated[str | None, typer.Option("--layout", help=_LAYOUT_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a problem, and one with the counts.")] = False,
) -> None:
    """Read every picture and label; name what is broken, mislabelled, doubled or missing. Exit code 3 if anything is."""
    with counting_bar("pictures", quiet=as_json) as advance:
        report = check_dataset(folder, layout=layout, on_picture=advance)
    if as_json:
        for problem in report.problems:
            typer.echo(json.dumps({"code": problem.code, "file": problem.file, "why": problem.why}))
        typer.echo(json.dumps({"layout": report.layout, "tasks": report.tasks, **_counts(report)}))
    else:
        _show_problems(report)
    if report.problems:
        raise GateError(f"{folder}: {len(report.problems)} problems in {report.pictures} pictures")


def _counts(report: Report) -> dict[str, Any]:
    codes = Counter(problem.code for problem in report.problems)
    return {"pictures": report.pictures, "problems": len(report.problems), "codes": dict(sorted(codes.items()))}


def _show_problems(report: Report) -> None:
    console = Console(highlight=False)
    for problem in report.problems[:_MOST_ROWS]:
        console.print(Text(f"{problem.code:<16} {printable(problem.file)}: {printable(problem.why)}"), soft_wrap=True)
    if len(report.problems) > _MOST_ROWS:
        typer.echo(f"... the first {_MOST_ROWS} of {len(report.problems)}; --json gives all")
    codes = ", ".join(f"{number} {code}" for code, number in _counts(report)["codes"].items())
    typer.echo(
        f"layout {report.layout} ({', '.join(report.tasks)}): {report.pictures} pictures, {len(report.labels)} classes; {codes or 'no problem'}"
    )


@command.command("info")
def info(
    source: Annotated[str, typer.Argument(help=f"{ORANGE_LINE}, or a folder in any known layout.")],
    layout: Annotated[str | None, typer.Option("--layout", help=_LAYOUT_HELP)] = None,
    task: Annotated[str | None, typer.Option("--task", help="classification, detection or segmentation; the layout's usual one.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, val, test or all.")] = "all",
    download: Annotated[bool, typer.Option("--download", help="With --layout cifar10: fetch it into the folder first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the number of pictures, the classes, the sizes, and mean and std of the pixels in grey levels."""
    if download:
        if layout != "cifar10":
            raise UsageError("--download goes with --layout cifar10; other datasets are fetched by their own means")
        download_cifar10(Path(source))
    chosen: TaskName | None = None if task is None else flags.one_of("--task", task, get_args(TaskName))
    dataset = open_dataset(source, chosen, flags.split(split), layout=layout)
    known = dataset.mean_std()
    facts = {
        "source": source,
        "task": dataset.task,
        "origin": dataset.origin,
        "pictures": len(dataset),
        "parts": dict(sorted(Counter(part or "undivided" for part in dataset.parts).items())) if isinstance(dataset, Listed) else {},
        "labels": list(dataset.labels),
        **_measured(dataset, known),
        "mean_std": "published" if known else f"of {min(_MEASURED, len(dataset))} pictures at {_SIZE[1]}x{_SIZE[0]}",
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        shown = ", ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
        Console().print(Text(f"{key:<10} {printable(shown)}"), soft_wrap=True)


def _measured(dataset: Dataset, known: MeanStd | None) -> dict[str, Any]:
    """Sizes and objects of some pictures, evenly spread, and mean and std."""
    sizes: list[tuple[int, int]] = []
    count = min(_MEASURED, len(dataset))
    objects, unreadable = 0, 0
    for number in range(count):
        try:
            sample = dataset[number * len(dataset) // count]
            sizes.append(image_size(sample.image) if isinstance(sample.image, Path) else (sample.image.shape[0], sample.image.shape[1]))
        except (ImageError, DataError):
            unreadable += 1
            continue
        objects += len(sample.truth) if isinstance(sample.truth, Detections) else 0
    if not sizes:
        raise DataError(f"{dataset.origin}: none of the {count} pictures that were tried can be read; jetlens data check names the reasons")
    mean, std = known or compute_mean_std(dataset, _SIZE, _MEASURED)
    least, most = np.min(sizes, axis=0).tolist(), np.max(sizes, axis=0).tolist()
    boxes = {"boxes_per_picture": round(objects / len(sizes), 2)} if dataset.task == "detection" else {}
    return {"least_hw": least, "most_hw": most, **boxes, "unreadable": unreadable, "looked_at": count, "mean": mean, "std": std}


@command.command("orange-line")
def orange_line(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder to write into.")],
    count: int = typer.Option(100, "--count", min=1, help="How many images."),
    seed: int = typer.Option(0, "--seed", min=0, help="One seed, one dataset, bit for bit."),
    size: str = typer.Option("360x640", "--size", help="Height x width in pixels."),
    video: bool = typer.Option(False, "--video", help="Consecutive frames of one line, not independent scenes."),
    image_format: str = typer.Option("png", "--format", help="png or jpeg (quality 95)."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Write images of the orange line with their exact truth: masks, boxes with track ids, grades."""
    size_hw = flags.size_hw(size)
    with counting_bar("images", count, quiet=as_json) as advance:
        written = write_dataset(folder, seed, count, size_hw, video=video, image_format=image_format, on_image=advance)
    if as_json:
        facts = {"folder": str(written.folder), "images": written.images, "fruits": written.fruits, "grades": written.grades}
        typer.echo(json.dumps(facts))
        return
    grades = ", ".join(f"{number} {name}" for name, number in written.grades.items())
    typer.echo(f"{written.folder}: {written.images} images of {size_hw[1]}x{size_hw[0]}, {written.fruits} fruits ({grades})")
