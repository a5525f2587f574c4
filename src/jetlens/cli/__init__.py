"""The command line: a table of commands, each imported only when it is the one that runs."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from jetlens import __version__
from jetlens.errors import JetlensError, one_line
from jetlens.registry import Table

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("jetlens.cli.demo:command", "Detect, grade and segment oranges on a synthetic inspection line."),
    "predict": ("jetlens.cli.predict:command", "Run a model on images, folders and videos."),
    "run": ("jetlens.cli.run:command", "Run a model on cameras, streams and files in real time."),
    "streams": ("jetlens.cli.streams:command", "Find how many cameras this machine holds in real time with a model."),
    "adopt": ("jetlens.cli.adopt:command", "Describe an ONNX file made elsewhere, so that every command can run it."),
    "train": ("jetlens.cli.train:command", "Train a network to a checkpoint."),
    "export": ("jetlens.cli.export:command", "Turn a checkpoint or a named network into a deployable ONNX graph."),
    "evaluate": ("jetlens.cli.evaluate:command", "Measure the accuracy of a model on labelled data."),
    "bench": ("jetlens.cli.bench:command", "Measure the speed of a model on backends and precisions, beside the proof that it is right."),
    "compare": ("jetlens.cli.compare:command", "Tell whether two measurements differ, or why they cannot be compared."),
    "report": ("jetlens.cli.report:command", "Turn measurements into one page to read."),
    "build": ("jetlens.cli.build:command", "Build a TensorRT engine from an ONNX model."),
    "cache": ("jetlens.cli.cache:app", "List, explain and prune the TensorRT engines that are kept."),
    "inspect": ("jetlens.cli.inspect:command", "Show what a model file is, takes and answers."),
    "data": ("jetlens.cli.data:command", "Check a dataset, look at one, or write images of the orange line."),
    "deepstream": ("jetlens.cli.deepstream:command", "Write an nvinfer configuration, its graph and a pipeline for NVIDIA DeepStream."),
    "learn": ("jetlens.cli.learn:app", "See on a picture what convolutions, activations and the like do."),
    "monitor": ("jetlens.cli.monitor:command", "Show what this machine is doing: load, memory, power, temperatures."),
    "doctor": ("jetlens.cli.doctor:command", "Show what this machine can run and how to get what is missing."),
}
# Typer's errors of the command line, by a way that holds for every version: some bring click with them, some import it.
_WrongUsage: type[Any] = typer.BadParameter.__mro__[1]
_TARGETS = Table("command", {name: target for name, (target, _) in COMMANDS.items()})


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the user's input or environment, 2 wrong usage, 3 a gate failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Pillow warns of damaged metadata, which no answer depends on.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        raise SystemExit(_app(given)(args=given, prog_name="jetlens", standalone_mode=False) or 0)
    except _WrongUsage as error:
        _wrong_usage(error)
    except JetlensError as error:
        _fail(str(error), error.exit_code, error)
    except KeyboardInterrupt:
        _fail("interrupted", 130, None)
    except MemoryError as error:
        _fail("out of memory: give a smaller input or batch", 1, error)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 1, error)
    except Exception as error:
        _fail(f"internal error, please report it: {type(error).__name__}: {error} (JETLENS_DEBUG=1 shows where)", 1, error)


def _app(given: Sequence[str]) -> typer.Typer:
    app = typer.Typer(name="jetlens", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    asked = next((word for word in given if not word.startswith("-")), None)
    for name, (_, summary) in COMMANDS.items():
        chosen = name == asked
        target: Any = _TARGETS.load(name) if chosen else _unused
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=summary)
        else:
            app.command(name, help=None if chosen else summary, short_help=summary)(target)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jetlens {__version__}")
        raise typer.Exit


def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_version, is_eager=True)) -> None:
    """Train convolutional vision networks, export them to one deployable graph, run them in real time, prove the result."""


def _unused() -> None:
    """Stands for a command that was not asked for, so that listing commands imports none."""


def _wrong_usage(error: Any) -> None:
    """One line for a wrong option or command; the help where no command was given."""
    text = error.format_message()
    path = error.ctx.command_path if error.ctx else "jetlens"
    if type(error).__name__ == "NoArgsIsHelpError":
        if text:
            print(text, file=sys.stderr)
        raise SystemExit(2)
    _fail(f"{text.rstrip('.')}; see {path} --help", 2, error)


def _fail(message: str, code: int, error: BaseException | None) -> None:
    if error is not None and os.environ.get("JETLENS_DEBUG"):
        raise error
    print(f"jetlens: {one_line(message)}", file=sys.stderr)
    raise SystemExit(code)
