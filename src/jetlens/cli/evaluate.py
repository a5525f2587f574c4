"""`jetlens evaluate`: the accuracy of a model on labelled data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.cli import flags
from jetlens.cli.progress import counting_bar
from jetlens.cli.terminal import printable
from jetlens.data import LAYOUTS
from jetlens.data.opening import ORANGE_LINE
from jetlens.evaluate import Evaluation, dataset, evaluate
from jetlens.predictor import Predictor, load, model_path
from jetlens.spec import write_sidecar
from jetlens.tasks.base import TaskOptions

__all__ = ["command"]

_SEEN_CONFIDENCE = 0.01
_MOST_ROWS = 20
_HEADS = {"class_id": "id"}
_RATES = ("f1", "ap50", "iou")


def command(
    model: Annotated[str, typer.Argument(help="An .onnx file or a model's name.")],
    data: Annotated[str, typer.Option("--data", help="orange-line, or a folder in any layout that `jetlens data` knows.")] = ORANGE_LINE,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Pictures; all of a folder, 100 of the orange line if not given.")
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", help=f"One of {', '.join(LAYOUTS)}; told from the folder if not given.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="train, val, test or all; if not given the folder's own test or val part, else all.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="Height x width of the orange line's pictures, 360x640 if not given.")] = None,
    backend: flags.BackendFlag = "auto",
    device: flags.DeviceFlag = "auto",
    precision: flags.PrecisionFlag = None,
    threads: flags.ThreadsFlag = None,
    weights: flags.WeightsFlag = None,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the model's sidecar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the accuracy of a model on labelled data: top-1, mAP or mIoU, with the number of pictures."""
    size_hw = None if size is None else flags.size_hw(size)
    # Average precision looks at the whole curve, so boxes of low confidence must be seen.
    options = TaskOptions(confidence=_SEEN_CONFIDENCE)
    with load(
        model, backend, flags.device(device), precision=flags.precision(precision), threads=threads, options=options, weights=weights
    ) as predictor:
        samples = dataset(data, predictor.spec, count, size_hw, layout=layout, split=None if split is None else flags.split(split))
        about = getattr(samples, "origin", data)
        with counting_bar("pictures", quiet=as_json) as advance:
            result = evaluate(predictor, samples, on_sample=advance)
        for line in result.skipped:
            typer.echo(f"skipped: {line}", err=True)
        if record:
            _record(model_path(model, weights), predictor, about, result)
        if as_json:
            asked = {"model": predictor.spec.name, "task": predictor.spec.task, "data": data, "origin": about}
            typer.echo(json.dumps({**asked, **result.to_dict(), **dataclasses.asdict(predictor.facts)}))
        else:
            _show(predictor, about, result)
    if result.skipped:
        raise typer.Exit(1)


def _record(path: Path, predictor: Predictor, data: str, result: Evaluation) -> None:
    """Puts the scores, and what they were measured on, into the sidecar."""
    facts = predictor.facts
    scores = {name: round(value, 5) for name, value in result.metrics.items()}
    measured = {"data": data, "pictures": result.count, "backend": f"{facts.backend} {facts.precision}"}
    write_sidecar(path, dataclasses.replace(predictor.spec, accuracy={**scores, **measured}))


def _show(predictor: Predictor, data: str, result: Evaluation) -> None:
    facts = predictor.facts
    console = Console()
    table = Table(title=Text(f"{predictor.spec.name} on {data}"), title_justify="left")
    keys = [key for key in (result.classes[0] if result.classes else ()) if key != "intervals"]
    for number, key in enumerate(keys):
        table.add_column(_HEADS.get(key, key), justify="left" if number == 1 else "right")
    rows = result.classes
    if len(rows) > _MOST_ROWS:
        table.caption = f"the {_MOST_ROWS} worst of {len(rows)} classes; --json gives all"
        rows = tuple(sorted(rows, key=lambda row: next(row[key] for key in _RATES if key in row))[:_MOST_ROWS])
    for row in rows:
        table.add_row(*(Text(_cell(row[key], row["intervals"].get(key))) for key in keys))
    console.print(table)
    others = ", ".join(_cell_named(name, result) for name in result.metrics if name != result.metric)
    skipped = f", {len(result.skipped)} could not be read" if result.skipped else ""
    lines = (
        f"{_cell_named(result.metric, result)} on {result.count} pictures{skipped}; {others}; brackets: 95 % over pictures",
        f"backend {predictor.chosen}, {facts.provider} {facts.precision} on {facts.device}",
    )
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _cell_named(name: str, result: Evaluation) -> str:
    return f"{name} {_cell(result.metrics[name], result.intervals.get(name))}"


def _cell(value: Any, interval: tuple[float, float] | None = None) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    within = "" if interval is None else f" ({interval[0]:.4f}-{interval[1]:.4f})"
    return printable(text) + within
