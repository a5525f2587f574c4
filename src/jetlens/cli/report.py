"""jetlens report: records of jetlens bench to one page to read, or to a laboratory report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jetlens.errors import UsageError

if TYPE_CHECKING:
    from jetlens.bench.records import Run

__all__ = ["command"]

_RECORD = ".json"
_REAL_TIME_FPS = 30.0
_LAB_BACKENDS = ("pytorch", "onnxruntime", "tensorrt")
"""What a laboratory compares; one that is not installed is a row that says so."""


def command(
    records: Annotated[
        list[str], typer.Argument(metavar="RUN.json...", help="Files that jetlens bench wrote; with --lab also models, which it measures.")
    ],
    output: Annotated[Path | None, typer.Option(help="The page to write, .html or .md: report.html, or lab.html with --lab.")] = None,
    lab: Annotated[bool, typer.Option("--lab", help="A laboratory report: what a student hands in.")] = False,
    images: Annotated[
        Path | None, typer.Option("--images", "--image", help="With --lab: a picture or a folder to measure models on.")
    ] = None,
    backends: Annotated[str | None, typer.Option(help=f"With --lab: what to compare; {','.join(_LAB_BACKENDS)} if not given.")] = None,
    blocks: Annotated[int, typer.Option(min=1, help="With --lab: turns of each case.")] = 10,
    target_fps: Annotated[float | None, typer.Option(min=0.1, help="Say whether so many frames/s are held; 30 with --lab.")] = None,
    target_p99: Annotated[float | None, typer.Option(min=0.001, help="With --target-fps: the p99 that is allowed, in ms.")] = None,
    trtexec_log: Annotated[list[Path] | None, typer.Option("--trtexec-log", help="A log of trtexec to show; repeatable.")] = None,
) -> None:
    """Turn measurements into one page: the verdict first, then tables, charts, pictures, and answers to a laboratory's five questions."""
    from jetlens.atomic import write_atomic
    from jetlens.bench.files import read_run
    from jetlens.predictor import model_path

    output = output or Path("lab.html" if lab else "report.html")
    if output.suffix.lower() not in (".html", ".htm", ".md"):
        raise UsageError(f"--output {output}: give a name that ends in .html or .md")
    if target_p99 is not None and (lab or target_fps is None):
        raise UsageError("--target-p99 goes with --target-fps" + (", and not with --lab" if lab else ""))
    models = [text for text in records if Path(text).suffix.lower() != _RECORD]
    _check_measuring(models, lab, {"--images": images, "--backends": backends})
    for text in models:  # before anything is measured for a minute
        model_path(text)
    paths = [_measured(text, output, images, backends, blocks) if text in models else Path(text) for text in records]
    names = _names(paths)
    runs = {names[path]: read_run(path) for path in paths}
    markdown = output.suffix.lower() == ".md"
    logs = trtexec_log or ()
    text = _lab(runs, logs, target_fps, markdown) if lab else _report(runs, logs, target_fps, target_p99, markdown)
    write_atomic(output, text.encode())
    incomplete = [name for name, run in runs.items() if not run.complete]
    typer.echo(f"{output}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {len(text.encode()) / 2**20:.1f} MiB")
    if incomplete:
        typer.echo(f"incomplete, and marked so on the page: {', '.join(incomplete)}", err=True)


def _check_measuring(models: Sequence[str], lab: bool, given: Mapping[str, object]) -> None:
    """Refuses models without --lab, and what goes with models only."""
    if models and not lab:
        raise UsageError(f"{models[0]} is no record: measure it with jetlens bench {models[0]} --output run.json, or add --lab")
    if not models:
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"{flag} goes with --lab and a model to measure; records are measured already")


def _measured(model: str, output: Path, images: Path | None, backends: str | None, blocks: int) -> Path:
    """Measures a model as `jetlens bench` does; its record stays beside the page, also where no row may be shown."""
    from jetlens.cli import bench
    from jetlens.errors import BackendError, GateError

    record = output.with_name(f"{output.stem}-{Path(model).stem}{_RECORD}")
    before = _written(record)
    try:
        bench.command(model, backends=backends or ",".join(_LAB_BACKENDS), images=images, output=record, blocks=blocks)
    except (BackendError, GateError):
        if _written(record) == before:
            raise
    return record


def _written(path: Path) -> int:
    """When a file was written, in ns; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _report(runs: Mapping[str, Run], logs: Sequence[Path], fps: float | None, p99_ms: float | None, markdown: bool) -> str:
    from jetlens.bench.verdict import verdict
    from jetlens.report.page import html_page, markdown_page
    from jetlens.report.trtexec import summary

    verdicts = {}
    if fps is not None:
        for name, run in runs.items():
            answer = verdict(run, fps, p99_ms)
            verdicts[name] = [(answer.passed, answer.line)]
    return (markdown_page if markdown else html_page)(runs, verdicts, {path.name: summary(path) for path in logs})


def _lab(runs: Mapping[str, Run], logs: Sequence[Path], fps: float | None, markdown: bool) -> str:
    from jetlens.report.lab import BuildLog
    from jetlens.report.lab_page import lab_html, lab_markdown
    from jetlens.report.trtexec import summary, tail

    shown = {path.name: BuildLog(summary(path), tail(path)) for path in logs}
    return (lab_markdown if markdown else lab_html)(runs, shown, fps or _REAL_TIME_FPS)


def _names(paths: list[Path]) -> dict[Path, str]:
    """Each file's name; with its folder where two have one name."""
    plain = [path.name for path in paths]
    return {path: path.name if plain.count(path.name) == 1 else str(path) for path in paths}
