"""`jetlens doctor`: what this machine can run and how to get what is missing."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.doctor import Ability, Check, abilities, diagnose
from jetlens.doctor.cameras import describe, find_cameras

__all__ = ["command"]

_COLORS = {"ready": "green", "limited": "yellow", "not": "red"}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a check, then one a command.")] = False,
    cameras: Annotated[bool, typer.Option("--cameras", help="List the cameras alone, with formats, sizes, rates and controls.")] = False,
) -> None:
    """Show what this machine can run, what each command can do here, and the next step for what is missing."""
    if cameras:
        _list_cameras(as_json)
        return
    if as_json:
        checks = []
        for check in diagnose():
            checks.append(check)
            print(json.dumps(dataclasses.asdict(check)), flush=True)
        for ability in abilities(checks):
            print(json.dumps(dataclasses.asdict(ability)))
        return
    console = Console()
    checks = list(_watched(console))
    console.print(_checks(checks))
    console.print()
    console.print(_abilities(abilities(checks)))
    console.print("\nyes: there and works   no: missing or broken   -: this machine has no use for it or nothing needs it", style="dim")


def _list_cameras(as_json: bool) -> None:
    found = list(find_cameras())
    for camera in found:
        print(json.dumps(dataclasses.asdict(camera)) if as_json else "\n".join(describe(camera)))
    if not found:
        print(
            "no camera: this machine has no /dev/video* that gives pictures (is it plugged in, and in a container passed with --device?)",
            file=sys.stderr if as_json else sys.stdout,
        )


def _watched(console: Console) -> Iterable[Check]:
    """The checks, on a terminal with the one that is under way."""
    if not console.is_terminal:
        yield from diagnose()
        return
    with Console(file=sys.stderr).status("looking at this machine ...") as status:
        for check in diagnose():
            status.update(f"looked at {check.name} ...")
            yield check


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _checks(checks: Iterable[Check]) -> Table:
    table = _grid()
    for check in checks:
        mark = Text("yes", "green") if check.ok else Text("no", "yellow") if check.applies else Text("-", "dim")
        facts = Text(check.found, "" if check.ok or check.applies else "dim")
        facts.append(f"\n{check.means}", "dim")
        if check.remedy:
            facts.append(f"; {check.remedy}", "dim" if check.ok or not check.applies else "bold")
        table.add_row(mark, Text(check.name), facts)
    return table


def _abilities(rows: Iterable[Ability]) -> Table:
    table = _grid()
    for row in rows:
        facts = Text(row.why)
        if row.remedy:
            facts.append(f"; {row.remedy}" if row.why else row.remedy, "bold")
        table.add_row(Text(row.status, _COLORS[row.status]), Text(f"jetlens {row.command}"), facts)
    return table
