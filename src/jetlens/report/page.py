"""Pages: one self-contained HTML file, or Markdown, from runs; both show the same words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetlens import __version__
from jetlens.bench.records import Run
from jetlens.registry import require
from jetlens.report.findings import SOURCES, THEORY
from jetlens.report.view import RunView, view

__all__ = ["html_page", "markdown_page"]

_TEMPLATE = Path(__file__).parents[1] / "assets" / "report" / "report.html.j2"

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C8C")
"""After Okabe and Ito: told apart by colour-blind eyes, on a light ground and on a dark one."""

_COLUMNS = ("case", "rank", "p50", "95 % of it", "p99", "max", "images/s", "first call")
Verdicts = Sequence[tuple[bool, str]]


def html_page(runs: Mapping[str, Run], verdicts: Mapping[str, Verdicts], trtexec: Mapping[str, Mapping[str, str]]) -> str:
    """The runs, by the name of their file, as one HTML page that loads nothing from anywhere and runs no script.

    Args:
        verdicts: for each run whether a target was met, and the line that says so with its evidence.
        trtexec: for each log of trtexec what it reports.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    jinja2 = require("jinja2", extra="report", why="the HTML page")
    markupsafe = require("markupsafe", extra="report", why="the HTML page")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    shown = []
    for name, run in runs.items():
        seen = view(run, name)
        content = {key: getattr(seen, key) for key in RunView.__slots__}
        content["charts"] = [{"title": one.title, "svg": markupsafe.Markup(one.svg), "about": one.about} for one in seen.charts]
        content["verdicts"] = [{"css": "yes" if passed else "no", "line": line} for passed, line in verdicts.get(name, ())]
        content["verdicts"].append({"css": "", "line": seen.headline})
        shown.append(content)
    text: str = template.render(
        title=_title(runs),
        runs=shown,
        version=__version__,
        colours=COLOURS,
        theory=tuple(THEORY.items()),
        sources=tuple(SOURCES.items()),
        trtexec=[{"name": name, "facts": tuple(facts.items())} for name, facts in trtexec.items()],
    )
    return text


def markdown_page(runs: Mapping[str, Run], verdicts: Mapping[str, Verdicts], trtexec: Mapping[str, Mapping[str, str]]) -> str:
    """The same in Markdown, without charts and pictures; for the arguments see ``html_page``."""
    parts = [f"# {_plain(_title(runs))}"]
    for name, run in runs.items():
        seen = view(run, name)
        parts.append(f"## {_plain(name)}")
        parts += [f"**{_plain(line)}**" for _, line in verdicts.get(name, ())] + [_plain(seen.headline)]
        parts += [f"- {_plain(line)}" for line in seen.warnings]
        parts.append(
            _table(
                (*_COLUMNS, seen.score_name, "agreement", "memory", "GPU memory", "energy", "what really ran"),
                [_cells(row) for row in seen.rows],
            )
        )
        parts.append(_plain(seen.caption))
        if seen.deviations:
            parts.append(f"### Deviation on identical input (sha256 {seen.input_sha256}, reference {_plain(seen.reference)})")
            parts.append(_table(("case", *seen.deviation_names), [(title, *cells) for title, cells in seen.deviations]))
        if seen.answers:
            parts.append("### Predicted")
            parts.append(_table(("case", *seen.answer_names), [(title, *cells) for title, cells in seen.answers]))
        for engine in seen.engines:
            parts.append(f"### Engine: {_plain(engine.title)}")
            parts.append(_table(("fact", "value"), engine.facts))
    parts += [f"## trtexec: {_plain(name)}\n\n{_table(('fact', 'value'), list(facts.items()))}" for name, facts in trtexec.items()]
    parts += _questions({name: view(run, name) for name, run in runs.items()})
    return "\n\n".join(parts) + "\n"


def _questions(shown: Mapping[str, RunView]) -> list[str]:
    """The five questions of a laboratory report, answered from the runs."""
    parts = ["## 1. Pointers to the theory", "\n".join(f"- {name}: {text}" for name, text in THEORY.items())]
    sections = {
        "2. The system": "system",
        "3. The results": "results",
        "4. Conclusions: what TensorRT helped with, and what not": "conclusions",
    }
    for title, key in sections.items():
        parts.append(f"## {title}")
        for seen in shown.values():
            lines = [": ".join(line) if isinstance(line, tuple) else line for line in getattr(seen, key)]
            parts.append("\n".join(f"- {_plain(line)}" for line in lines))
    parts += ["## 5. Sources", "\n".join(f"- {name}: {text}" for name, text in SOURCES.items()), "## To measure this again"]
    for seen in shown.values():
        parts.append(
            f"    {_printable(seen.command)}\n\n" + "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in seen.identity)
        )
    return parts


def _cells(row: Any) -> tuple[str, ...]:
    speed = (row.refused, *[""] * 6) if row.refused else row.speed
    return (row.title, *speed, *row.rest, row.runs_on)


def _title(runs: Mapping[str, Run]) -> str:
    models = dict.fromkeys(row.case.model.rsplit("/", 1)[-1] for run in runs.values() for row in run.measurements)
    return f"{', '.join(models) or 'nothing'}: speed with its proof"


def _table(names: Sequence[str], content: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *content]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """A text in which Markdown and HTML find nothing to obey."""
    line = _printable(text)
    for mark, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("*", "\\*"), ("_", "\\_")):
        line = line.replace(mark, safe)
    return line


def _printable(text: str) -> str:
    """One line that no terminal obeys."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
