"""jetlens deepstream: a folder that NVIDIA DeepStream runs, made of a model and its sidecar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from jetlens.cli import flags
from jetlens.cli.terminal import tell
from jetlens.errors import UsageError
from jetlens.export.deepstream import CONFIG, LABELS, SCRIPT, write_deepstream
from jetlens.predictor import model_path

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Argument(metavar="FILE.onnx|NAME", help="An .onnx file or a model's name.")],
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write; NAME-deepstream if not given.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8; the model's own if not given.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=1024, help="Streams that are inferred together; 1.")] = None,
    frame_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the streams' frames: the graph then resizes them exactly as jetlens does.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write an nvinfer configuration, its graph, a label file and a pipeline script for DeepStream."""
    frame_hw = None if frame_size is None else flags.size_hw(frame_size, "720x1280", "--frame-size")
    base = model_path(model)
    path = _graph_of(base, precision)
    name = base.stem if path == base else f"{base.stem}.{precision}"
    folder = output or Path(f"{name}-deepstream")
    written = write_deepstream(path, folder, name=name, batch=batch, frame_hw=frame_hw, force=force)
    if as_json:
        record: dict[str, Any] = {
            "folder": str(folder),
            "model": str(path),
            "graph": str(written.graph),
            "settings": written.settings,
            "changes": written.changes,
            "differences": written.differences,
        }
        typer.echo(json.dumps(record))
        return
    typer.echo(f"{folder}: {CONFIG}, {LABELS}, {SCRIPT}, {written.graph.name}")
    for change in written.changes:
        typer.echo(f"  {change}")
    for difference in written.differences:
        typer.echo(f"  differs: {difference}")
    typer.echo(f"to run it: {folder / SCRIPT} VIDEO_OR_ADDRESS...")


def _graph_of(path: Path, precision: str | None) -> Path:
    """The file whose graph asks for the precision, made once where it is not there."""
    if precision not in (None, "fp32", "fp16", "int8"):
        raise UsageError(f"--precision {precision[:40]!r}; DeepStream has fp32, fp16 and int8")
    if precision in (None, "fp32"):
        return path
    from jetlens.precision import ensure

    return ensure(path, cast(Literal["fp16", "int8"], precision), report=tell)
