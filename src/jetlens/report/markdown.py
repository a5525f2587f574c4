"""Texts as Markdown in which nothing is obeyed, neither by Markdown nor by HTML nor by a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plain", "printable", "table"]

_MARKS = (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("*", "\\*"), ("_", "\\_"))


def table(names: Sequence[str], content: Sequence[Sequence[str]]) -> str:
    """A table with its names above."""
    lines = [names, ["---"] * len(names), *content]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """A text in which Markdown and HTML find nothing to obey."""
    line = printable(text)
    for mark, safe in _MARKS:
        line = line.replace(mark, safe)
    return line


def printable(text: str) -> str:
    """One line that no terminal obeys."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
