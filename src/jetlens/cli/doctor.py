"""`jetlens doctor`: what this machine can run and how to get what is missing."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.doctor import diagnose

__all__ = ["command"]


def command(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a check.")] = False) -> None:
    """Show what this machine can run, what is missing, what that means and how to get it."""
    if as_json:
        for check in diagnose():
            typer.echo(json.dumps(dataclasses.asdict(check)))
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for check in diagnose():
        mark = Text("yes", "green") if check.ok else Text("no", "yellow")
        facts = Text(check.found)
        facts.append(f"\n{check.means}", "dim")
        if check.remedy:
            facts.append(f"; {check.remedy}", "bold")
        table.add_row(mark, Text(check.name), facts)
    Console().print(table)
