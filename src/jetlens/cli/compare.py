"""`jetlens compare`: whether two measurements differ, or why they cannot be compared."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from jetlens.bench.compare import Comparison, compare
from jetlens.bench.files import read_run
from jetlens.cli.terminal import wide_console
from jetlens.errors import DataError, GateError

__all__ = ["command"]


def command(
    first: Annotated[Path, typer.Argument(help="A run that jetlens bench kept.")],
    second: Annotated[Path, typer.Argument(help="Another, to be held against it.")],
    force: Annotated[bool, typer.Option("--force", help="Compare runs that do not compare; the reasons are printed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
) -> None:
    """Tell change from noise: the ratio of each case's latency with its 95 % interval; exit code 3 if a case became slower."""
    found = compare(read_run(first), read_run(second), force=force)
    if not found.rows:
        raise DataError(f"the two runs do not compare: {'; '.join(found.refused)} (--force compares them all the same)")
    if as_json:
        for row in found.rows:
            typer.echo(json.dumps({**asdict(row), "change": row.change, "forced_in_spite_of": list(found.refused)}))
    else:
        _show(found)
    if all(row.refused for row in found.rows):
        raise DataError(f"no case of the two runs compares: {found.rows[0].refused} (--force compares them all the same)")
    slower = [row for row in found.rows if row.change == "slower"]
    if slower:
        worst = max(slower, key=lambda row: row.ratio)
        raise GateError(f"{worst.title} is {worst.ratio - 1:.1%} slower (95 %: {worst.interval[0]:.3f} to {worst.interval[1]:.3f})")


def _show(found: Comparison) -> None:
    console = wide_console(120)
    for reason in found.refused:
        console.print(Text(f"in spite of: {reason}"), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("case", "first p50 ms", "second p50 ms", "undisturbed ratio", "95 %", "change"):
        table.add_column(heading, justify="left" if heading in ("case", "change") else "right")
    for row in found.rows:
        if row.refused:
            table.add_row(Text(row.title), "-", "-", "-", "-", Text(row.change))
            continue
        medians = [f"{value:.3f}" for value in row.median_ms]
        table.add_row(Text(row.title), *medians, f"{row.ratio:.3f}", f"{row.interval[0]:.3f}-{row.interval[1]:.3f}", Text(row.change))
    console.print(table)
    for row in found.rows:
        for line in (row.refused, *row.notes):
            if line:
                console.print(Text(f"{row.title}: {line}"), soft_wrap=True)
