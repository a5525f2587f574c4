"""Texts as Markdown in which nothing is obeyed, neither by Markdown nor by HTML nor by a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from jetlens.errors import plain_line

__all__ = ["plain", "table"]

_MARKS = (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("*", "\\*"), ("_", "\\_"))


def table(names: Sequence[str], content: Sequence[Sequence[str]]) -> str:
    """A table with its names above."""
    lines = [names, ["---"] * len(names), *content]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """A text in which Markdown and HTML find nothing to obey."""
    line = plain_line(text)
    for mark, safe in _MARKS:
        line = line.replace(mark, safe)
    return line
