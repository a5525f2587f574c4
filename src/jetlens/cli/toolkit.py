"""`jetlens-cnn`: the command line of the Jetson CNN Toolkit's tutorial, which trains through the same code as `jetlens train`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from jetlens.cli.train import train_and_show
from jetlens.data import LAYOUTS
from jetlens.data.layouts import Layout
from jetlens.data.layouts.cifar10 import download
from jetlens.data.opening import ORANGE_LINE
from jetlens.errors import DataError, JetlensError, UnknownNameError, UsageError
from jetlens.train import TrainConfig
from jetlens.train.config import complete

__all__ = ["main"]

MODES: Final = ("train",)
MODELS: Final[Mapping[str, str]] = {
    "AlexNet": "alexnet",
    "BasicCNN": "basic_cnn",
    "CustomResNet": "custom_resnet",
    "EfficientNetB0": "efficientnet_b0",
    "MobileNetV2": "mobilenet_v2",
    "ResNet18": "resnet18",
    "ResNet50": "resnet50",
}
"""The toolkit's names and ours."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset's layout, where it is looked for unless --data says so, and what a network needs to know of it."""

    layout: str
    folders: tuple[str, ...]
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


DATASETS: Final[Mapping[str, _Dataset]] = {
    "cifar10": _Dataset("cifar10", ("data/cifar10", "data")),
    # Full-size pictures: the stem for 32x32 would cost sixteen times the arithmetic.
    "imagenet": _Dataset("imagenet", ("data/imagenet", "data"), {"custom_resnet": {"stem": "imagenet"}}),
    "custom": _Dataset("image-folder", ("data/custom", "data")),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with the codes of `jetlens`."""
    app = typer.Typer(name="jetlens-cnn", add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command)
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments))
    except JetlensError as error:
        if os.environ.get("JETLENS_DEBUG"):
            raise
        print(f"jetlens-cnn: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("jetlens-cnn: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _command(
    model: Annotated[str, typer.Option("--model", help=f"{', '.join(MODELS)}.")] = "BasicCNN",
    dataset: Annotated[str, typer.Option("--dataset", help=f"{', '.join(DATASETS)} or {ORANGE_LINE}.")] = "cifar10",
    mode: Annotated[str, typer.Option("--mode", help=f"{', '.join(MODES)}.")] = "train",
    data: Annotated[Path | None, typer.Option("--data", help="The dataset's folder; ./data/DATASET or ./data if not given.")] = None,
    fetch: Annotated[bool, typer.Option("--download", help="Fetch cifar10 if it is not there.")] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 20,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2)] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that read pictures.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    output: Annotated[Path, typer.Option("--output", help="Folder for the checkpoint.")] = Path("runs"),
) -> None:
    """Train a classifier, as the Jetson CNN Toolkit's tutorial does; `jetlens train` has every other choice."""
    _known("mode", mode, MODES)
    network = MODELS[_known("model", model, MODELS)]
    arguments: Mapping[str, Any] = {}
    source, layout = ORANGE_LINE, None
    if _known("dataset", dataset, (*DATASETS, ORANGE_LINE)) != ORANGE_LINE:
        arguments = DATASETS[dataset].arguments.get(network, {})
        source, layout = str(_find(dataset, data, fetch)), DATASETS[dataset].layout
    config = TrainConfig(
        task="classification",
        model=network,
        model_arguments=arguments,
        data=source,
        layout=layout,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        device=cast(Any, device),  # complete checks it
        workers=workers,
        seed=seed,
        output=output,
        command=shlex.join(["jetlens-cnn", *sys.argv[1:]]),
    )
    train_and_show(complete(config))


def _known(kind: str, name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    if name not in names:
        raise UnknownNameError(kind, name, names)
    return name


def _find(dataset: str, given: Path | None, fetch: bool) -> Path:
    """The folder of a dataset, fetched first if that is asked for.

    Raises:
        DataError: it is in none of the places looked at.
    """
    row = DATASETS[dataset]
    layout: Layout = LAYOUTS.load(row.layout)
    places = [given] if given is not None else [Path(folder) for folder in row.folders]
    for place in places:
        if place.exists() and layout.fits(place):
            return place
    if fetch and dataset != "cifar10":
        raise UsageError(f"--download fetches cifar10 only; get {dataset} yourself and give its folder: --data DIR")
    if fetch:
        return download(places[0])
    hint = "--data DIR, or --download to fetch it" if dataset == "cifar10" else "--data DIR"
    looked = " and ".join(str(place)[-80:] for place in places)
    raise DataError(f"{dataset}: not found in {looked} (looked for {layout.expects}); give {hint}")


if __name__ == "__main__":
    main()
