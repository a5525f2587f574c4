"""`jetlens train`: a network from data to a checkpoint."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jetlens.cli import flags as from_flags
from jetlens.config import load_config
from jetlens.data.opening import ORANGE_LINE
from jetlens.errors import GateError, UsageError
from jetlens.registry import resolve
from jetlens.train import Progress as Event
from jetlens.train import TrainConfig, train
from jetlens.train.config import complete

__all__ = ["command", "train_and_show"]

Say = Callable[[Event], None]
_LINE_EVERY_S = 30.0
DATA, MODEL, LOOP, LESS, SEEN = "Data", "Network", "Loop", "Less memory", "Output"


def command(
    task: Annotated[str | None, typer.Option("--task", help="classification, detection or segmentation.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="orange-line (drawn as needed) or a folder.", rich_help_panel=DATA)] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="Of the folder, told if not given.", rich_help_panel=DATA)] = None,
    val_fraction: Annotated[
        float | None, typer.Option("--val-fraction", help="Held out where the data has no own part; 0.1.", rich_help_panel=DATA)
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", min=2, help="Pictures of the orange line, 200.", rich_help_panel=DATA)] = None,
    size: Annotated[str | None, typer.Option("--size", help="Height x width of the network's input.", rich_help_panel=DATA)] = None,
    resize: Annotated[str | None, typer.Option("--resize", help="stretch, letterbox or crop.", rich_help_panel=DATA)] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that draw or read pictures; 2.", rich_help_panel=DATA)
    ] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", rich_help_panel=DATA)] = None,
    crop: Annotated[bool | None, typer.Option("--crop/--no-crop", help="Shift and scale.", rich_help_panel=DATA)] = None,
    rotation: Annotated[bool | None, typer.Option("--rotation/--no-rotation", rich_help_panel=DATA)] = None,
    jitter: Annotated[bool | None, typer.Option("--jitter/--no-jitter", help="Light, colour, blur, noise.", rich_help_panel=DATA)] = None,
    mixup: Annotated[bool | None, typer.Option("--mixup/--no-mixup", rich_help_panel=DATA)] = None,
    cutout: Annotated[bool | None, typer.Option("--cutout/--no-cutout", rich_help_panel=DATA)] = None,
    transforms: Annotated[
        str | None, typer.Option("--transforms", help="batch (on the device) or sample (torchvision).", rich_help_panel=DATA)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="A network's name or module:factory.", rich_help_panel=MODEL)] = None,
    norm: Annotated[str | None, typer.Option("--norm", help="batch, group or layer.", rich_help_panel=MODEL)] = None,
    activation: Annotated[str | None, typer.Option("--activation", help="relu, leaky_relu or elu.", rich_help_panel=MODEL)] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="max or avg.", rich_help_panel=MODEL)] = None,
    pretrained: Annotated[bool | None, typer.Option("--pretrained", help="Fine-tune torchvision's weights.", rich_help_panel=MODEL)] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="A file of them.", rich_help_panel=MODEL)] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="20 if not given.", rich_help_panel=LOOP)] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Stop after so many steps.", rich_help_panel=LOOP)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Stop after so much time.", rich_help_panel=LOOP)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2, help="Pictures of one step.", rich_help_panel=LOOP)] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="adamw, adam or sgd.", rich_help_panel=LOOP)] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=0.0, help="Peak learning rate.", rich_help_panel=LOOP)] = None,
    momentum: Annotated[float | None, typer.Option("--momentum", min=0.0, help="Of sgd; 0.9.", rich_help_panel=LOOP)] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov", rich_help_panel=LOOP)] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", min=0.0, rich_help_panel=LOOP)] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="cosine, one-cycle, step, plateau or constant.", rich_help_panel=LOOP)
    ] = None,
    warm_up: Annotated[float | None, typer.Option("--warm-up", help="Share of the run.", rich_help_panel=LOOP)] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="cross-entropy, focal, dice or module:function.", rich_help_panel=LOOP)] = None,
    label_smoothing: Annotated[float | None, typer.Option("--label-smoothing", rich_help_panel=LOOP)] = None,
    class_weights: Annotated[str | None, typer.Option("--class-weights", help="One a class: 1,2,1.", rich_help_panel=LOOP)] = None,
    clip_norm: Annotated[
        float | None, typer.Option("--clip-norm", min=0.0, help="Of the gradient; 0 is off.", rich_help_panel=LOOP)
    ] = None,
    ema: Annotated[bool | None, typer.Option("--ema/--no-ema", help="Average the weights.", rich_help_panel=LOOP)] = None,
    early_stop: Annotated[int | None, typer.Option("--early-stop", min=1, help="Validations without a gain.", rich_help_panel=LOOP)] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of weights, data and order.", rich_help_panel=LOOP)] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=LOOP)] = None,
    amp: Annotated[str | None, typer.Option("--amp", help="auto, off, bf16 or fp16.", rich_help_panel=LOOP)] = None,
    compile_: Annotated[bool | None, typer.Option("--compile", help="With torch.compile.", rich_help_panel=LOOP)] = None,
    sync_bn: Annotated[bool | None, typer.Option("--sync-bn", help="Batch norm over all GPUs.", rich_help_panel=LOOP)] = None,
    accumulate: Annotated[int | None, typer.Option("--accumulate", min=1, help="Parts that a batch goes in.", rich_help_panel=LESS)] = None,
    activation_checkpointing: Annotated[bool | None, typer.Option("--activation-checkpointing", rich_help_panel=LESS)] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Go on where the run was cut off.", rich_help_panel=SEEN)] = None,
    save_steps: Annotated[
        int | None, typer.Option("--save-steps", min=1, help="Save the state so often too.", rich_help_panel=SEEN)
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write event files.", rich_help_panel=SEEN)] = None,
    pictures: Annotated[bool | None, typer.Option("--pictures/--no-pictures", rich_help_panel=SEEN)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the checkpoint, the model's if not given.", rich_help_panel=SEEN)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for the checkpoint, runs if not given.", rich_help_panel=SEEN)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with any of these; flags go over it.")] = None,
    overfit_one_batch: Annotated[bool, typer.Option("--overfit-one-batch", help="Only see whether one batch can be learned.")] = False,
    lr_range: Annotated[bool, typer.Option("--lr-range", help="Only look for a learning rate.")] = False,
) -> None:
    """Train a network to a checkpoint: the best weights on held-out data, their history, and the state from which to go on."""
    given = dict(locals())
    special = ("config", "size", "norm", "activation", "pool", "class_weights", "compile_", "overfit_one_batch", "lr_range")
    flags: dict[str, Any] = {key: value for key, value in given.items() if key not in special}
    style = {key: given[key] for key in ("norm", "activation", "pool") if given[key] is not None}
    flags |= {
        "compile": compile_,
        "size_hw": None if size is None else from_flags.size_hw(size, "64x64"),
        "model_arguments": style or None,
        "class_weights": None if class_weights is None else _numbers(class_weights),
        "command": shlex.join(["jetlens", *sys.argv[1:]]),
    }
    settings = complete(load_config(TrainConfig, config, flags))
    if overfit_one_batch:
        _overfit(settings)
    elif lr_range:
        _range(settings)
    else:
        train_and_show(settings)


def _first() -> bool:
    """Whether this is the process that speaks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def train_and_show(settings: TrainConfig) -> None:
    """Trains, shows how far it is, and prints the checkpoint's path.

    Raises:
        UsageError: a checkpoint of that name is there already.
    """
    kept = settings.output / f"{settings.run_name}.safetensors"
    if kept.exists() and not settings.resume:
        raise UsageError(f"{kept} is there from an earlier run; jetlens train --resume goes on with it, another --output begins anew")
    console = Console(stderr=True)
    if _first():
        what = f"{settings.samples} pictures of {settings.data}" if settings.data == ORANGE_LINE else settings.data
        typer.echo(f"{settings.model} on {what}, {settings.workers} processes for the data ...", err=True)
    checkpoint = _with_bar(settings, console) if console.is_terminal and _first() else train(settings, _printer())
    if _first():
        typer.echo(str(checkpoint))
        own = ["--network", settings.model] if settings.model and ":" in settings.model else []
        typer.echo(f"next: {shlex.join(['jetlens', 'export', str(checkpoint), *own])}", err=True)


def _overfit(settings: TrainConfig) -> None:
    found = resolve("jetlens.train.probe:overfit_one_batch")(settings, _printer())
    line = f"one batch of {settings.batch_size}: loss {found.first:.4f} -> {found.last:.4f} in {found.steps} steps"
    if not found.learned:
        raise GateError(f"{line}: not learned by heart; check labels, loss and --lr before a long run")
    typer.echo(f"{line}: learned by heart")


def _range(settings: TrainConfig) -> None:
    found = resolve("jetlens.train.probe:range_test")(settings, _printer())
    for rate, loss in list(zip(found.rates, found.losses, strict=True))[:: max(1, len(found.rates) // 20)]:
        typer.echo(f"lr {rate:.2e}  loss {loss:.4f}")
    typer.echo(f"suggested: --lr {found.suggested:.2g}  ({found.file})")


def _line(event: Event) -> str:
    figures = "  ".join(f"{key} {value:.4f}" for key, value in (event.metrics or {}).items())
    speed = f"  {event.images_per_s:.0f} images/s" if event.images_per_s else ""
    epoch = event.epoch + (event.metrics is None)  # while it runs, as the bar counts
    return f"epoch {epoch}  step {event.step}  loss {event.loss:.4f}  {figures}{speed}  {event.elapsed_s:.0f} s, {event.left_s:.0f} s left"


def _printer() -> Say:
    """Prints notes, validations, and a line on what lies between them now and then."""
    said_s = time.monotonic()

    def show(event: Event) -> None:
        nonlocal said_s
        if event.note:
            typer.echo(event.note, err=True)
        elif event.metrics is not None or time.monotonic() - said_s >= _LINE_EVERY_S:
            said_s = time.monotonic()
            typer.echo(_line(event), err=True)

    return show


def _with_bar(settings: TrainConfig, console: Console) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=1.0, left="")

        shown = ""

        def show(event: Event) -> None:
            nonlocal shown
            if event.note:
                console.print(escape(event.note), highlight=False)
                return
            if event.metrics:
                shown = "{} {:.4f}  ".format(*next(iter(event.metrics.items())))
            text = f"epoch {min(event.epoch + 1, settings.epochs)}  loss {event.loss:.4f}  {shown}{event.images_per_s:.0f} images/s"
            progress.update(bar, completed=event.done, description=text, left=f"{event.left_s:.0f} s left")
            if event.metrics is not None:
                console.print(_line(event), markup=False, highlight=False)

        return train(settings, show)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--class-weights {text!r}: give one number a class with commas between, such as 1,2,1") from None
