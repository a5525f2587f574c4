"""What commands print: text that a terminal does not obey, lines on how it goes, tables of facts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["facts_table", "printable", "tell", "tensor_text", "wide_console"]


def printable(text: str, keep: str = "") -> str:
    """Text from files and models without what a terminal would obey."""
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def tell(line: str) -> None:
    """Prints a line on how it goes: to stderr, as stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def tensor_text(name: str, dtype: str, shape: Sequence[int | str]) -> str:
    """An input or output of a model in words."""
    return f"{name} {dtype} [{', '.join(map(str, shape))}]"


def facts_table(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names in bold and beside each what it is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)) if isinstance(value, str) else value)
    return table


def wide_console(least: int = 150) -> Console:
    """Standard output; where that is no terminal, wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=max(least, console.width))
