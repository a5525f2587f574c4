"""`jetlens train`: a network from data to a checkpoint."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jetlens.config import load_config
from jetlens.errors import UsageError
from jetlens.train import Progress as Step
from jetlens.train import TrainConfig, train
from jetlens.train.config import complete

__all__ = ["command"]


def command(
    task: Annotated[str | None, typer.Option("--task", help="classification, detection or segmentation.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="basic_cnn, small_det or small_seg; the task's own if not given.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="orange-line, which is drawn as it is needed.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="20 if not given.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Stop after so much time.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2)] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=0.0, help="Peak learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", min=0.0)] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of the weights, the data and its order.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=2, help="Pictures to train on, 1000 if not given.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Height x width of the network's input.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that draw the pictures.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the checkpoint, the model's if not given.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder for the checkpoint, runs if not given.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with any of these; flags go over it.")] = None,
) -> None:
    """Train a network to a checkpoint: the best weights on held-out data, and a JSON list of the epochs."""
    given = {key: value for key, value in locals().items() if key not in ("config", "size")}
    flags: dict[str, Any] = {
        **given,
        "size_hw": None if size is None else _size_hw(size),
        "command": shlex.join(["jetlens", *sys.argv[1:]]),
    }
    settings = complete(load_config(TrainConfig, config, flags))
    console = Console(stderr=True)
    typer.echo(f"{settings.model} on {settings.samples} pictures of {settings.data}, drawn by {settings.workers} processes ...", err=True)
    checkpoint = _with_bar(settings, console) if console.is_terminal else train(settings, _print_step)
    typer.echo(str(checkpoint))


def _line(step: Step) -> str:
    figures = "  ".join(f"{key} {value:.4f}" for key, value in (step.metrics or {}).items())
    return f"epoch {step.epoch}  step {step.step}  loss {step.loss:.4f}  {figures}  {step.elapsed_s:.0f} s"


def _print_step(step: Step) -> None:
    if step.metrics is not None:
        typer.echo(_line(step), err=True)


def _with_bar(settings: TrainConfig, console: Console) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=1.0)

        def show(step: Step) -> None:
            progress.update(bar, completed=step.done, description=f"epoch {step.epoch + 1}  loss {step.loss:.4f}")
            if step.metrics is not None:
                console.print(_line(step), markup=False, highlight=False)

        return train(settings, show)


def _size_hw(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--size {text!r}: give height x width in pixels, such as 64x64")
    return int(height), int(width)
