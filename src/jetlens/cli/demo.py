"""`jetlens demo`: the embedded default, from pixels to a table with its proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.bench.figures import calls_ms, images_per_s
from jetlens.bench.records import Measurement
from jetlens.demo import SEED, Demo, run_demo

__all__ = ["command"]

_DEVIATIONS: Mapping[str, Callable[[float], str]] = {
    "max_abs": lambda value: "equal" if value == 0 else f"off by {value:.1g}",
    "max_box_pixels": lambda value: "equal" if value == 0 else f"off by {value:.2g} px",
    "mask_agreement": lambda value: "equal" if value == 1 else f"{value:.3%} of pixels",
}
_ACCURACIES: Mapping[str, str] = {"map50": "mAP50", "top1": "grade accuracy", "miou_foreground": "defect mIoU"}


def command(
    output: Annotated[Path, typer.Option("--output", help="Folder for the video, the contact sheet and the raw values.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another line.")] = SEED,
    frames: Annotated[int, typer.Option("--frames", min=3, help="Length of the video, 30 frames a second.")] = 180,
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Held-out pictures for the accuracy in the table.")] = 40,
    backend: Annotated[str, typer.Option("--backend", help="Runtime of the video; the table has all.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row of the table.")] = False,
) -> None:
    """Detect, grade and segment oranges on a synthetic inspection line, and measure every runtime that is there."""
    console = Console(stderr=True)
    with console.status("opening three networks") as status:
        say = status.update if console.is_terminal else lambda message: print(f"jetlens: {message}", file=console.file, flush=True)
        demo = run_demo(output, seed=seed, frames=frames, pictures=pictures, backend=backend, said=say)
    if as_json:
        for row in demo.measurements:
            typer.echo(json.dumps(_record(row)))
        return
    _show(demo)


def _show(demo: Demo) -> None:
    console = Console()
    console.print("\nOne picture at a time, from pixels to answer: preprocess, network, postprocess.")
    for network in dict.fromkeys(row.case.model for row in demo.measurements):
        rows = [row for row in demo.measurements if row.case.model == network]
        console.print(_table(network, rows))
    found, right = demo.objects
    stats = demo.stats
    lines = [
        f"{found} fruit in the video matched to the truth, {right} graded right ({right / max(1, found):.2%})",
        f"{stats.frames} frames in {stats.wall_s:.1f} s = {stats.fps:.1f} FPS, rendering the line, three networks, drawing and encoding together",
        *(f"{what}: {path}" for what, path in demo.files.items()),
        f"done in {demo.elapsed_s:.0f} s; next: jetlens adopt YOUR_MODEL.onnx, jetlens predict YOUR_PHOTO.jpg --model YOUR_MODEL.onnx, jetlens doctor",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _table(network: str, rows: Sequence[Measurement]) -> Table:
    scored = next((row.accuracy for row in rows if row.accuracy), {"pictures": 0})
    metric = next((key for key in _ACCURACIES if key in scored), "")
    title = f"\n{network}: {_ACCURACIES.get(metric, 'accuracy')} on {scored['pictures']:.0f} pictures with exact truth"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("runtime", "p50 ms", "p99 ms", "images/s", "beside reference", "accuracy"):
        table.add_column(heading, justify="left" if heading in ("runtime", "beside reference") else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, metric)))
    return table


def _cells(row: Measurement, metric: str) -> list[str]:
    """A row of the table; what failed shows its failure where its speed would be."""
    runtime = f"{row.case.backend} {row.precision}"
    if row.refused:
        return [runtime, "-", "-", "-", row.refused, "-"]
    speed = [f"{value:.2f}" for value in _latencies(row)] + [f"{images_per_s(row, 'answer') or 0:.0f}"]
    deviation = ", ".join(show(row.deviation[key]) for key, show in _DEVIATIONS.items() if key in row.deviation)
    return [runtime, *speed, deviation, f"{row.accuracy[metric]:.4f}"]


def _latencies(row: Measurement) -> tuple[float, float]:
    """p50 and p99 in ms; of few calls the latter is nearly the slowest."""
    p50, p99 = np.percentile(calls_ms(row, "answer"), (50, 99))
    return float(p50), float(p99)


def _record(row: Measurement) -> dict[str, object]:
    head = {"network": row.case.model, "backend": row.case.backend, "precision": row.precision}
    if row.refused:
        return {**head, "failed": row.refused}
    p50, p99 = _latencies(row)
    speed = {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "images_per_s": round(images_per_s(row, "answer") or 0, 2)}
    return {**head, **speed, "first_ms": round(row.first_ms, 3), "deviation": dict(row.deviation), "accuracy": dict(row.accuracy)}
