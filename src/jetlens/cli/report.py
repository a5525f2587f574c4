"""jetlens report: records of jetlens bench to one page to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    records: Annotated[list[Path], typer.Argument(metavar="RUN.json...", help="Files that jetlens bench wrote.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The page to write: .html, or .md for Markdown.")] = Path("report.html"),
    target_fps: Annotated[float | None, typer.Option(min=0.1, help="Say whether so many frames/s are held.")] = None,
    target_p99: Annotated[float | None, typer.Option(min=0.001, help="With --target-fps: the p99 that is allowed, in ms.")] = None,
    trtexec_log: Annotated[list[Path] | None, typer.Option("--trtexec-log", help="A log of trtexec to summarise; repeatable.")] = None,
) -> None:
    """Turn measurements into one page: the verdict first, then tables, charts, pictures, and answers to a laboratory's five questions."""
    from jetlens.atomic import write_atomic
    from jetlens.bench.files import read_run
    from jetlens.bench.verdict import verdict
    from jetlens.errors import UsageError
    from jetlens.report.page import html_page, markdown_page
    from jetlens.report.trtexec import summary

    pages = {".html": html_page, ".htm": html_page, ".md": markdown_page}
    if output.suffix.lower() not in pages:
        raise UsageError(f"--output {output}: give a name that ends in .html or .md")
    if target_p99 is not None and target_fps is None:
        raise UsageError("--target-p99 goes with --target-fps")
    names = _names(records)
    runs = {names[path]: read_run(path) for path in records}
    verdicts = {}
    if target_fps is not None:
        for name, run in runs.items():
            answer = verdict(run, target_fps, target_p99)
            verdicts[name] = [(answer.passed, answer.line)]
    text = pages[output.suffix.lower()](runs, verdicts, {path.name: summary(path) for path in trtexec_log or ()})
    write_atomic(output, text.encode())
    incomplete = [name for name, run in runs.items() if not run.complete]
    typer.echo(f"{output}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {len(text.encode()) / 2**20:.1f} MiB")
    if incomplete:
        typer.echo(f"incomplete, and marked so on the page: {', '.join(incomplete)}", err=True)


def _names(paths: list[Path]) -> dict[Path, str]:
    """Each file's name; with its folder where two have one name."""
    plain = [path.name for path in paths]
    return {path: path.name if plain.count(path.name) == 1 else str(path) for path in paths}
