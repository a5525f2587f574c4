"""Pages: one self-contained HTML file, or Markdown, from runs; both show the same words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetlens import __version__
from jetlens.bench.records import Run
from jetlens.errors import BackendError, plain_line
from jetlens.registry import require
from jetlens.report.findings import SOURCES, THEORY
from jetlens.report.markdown import plain, table
from jetlens.report.view import RunView, views

__all__ = ["html_page", "markdown_page", "render"]

_ASSETS = Path(__file__).parents[1] / "assets" / "report"

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
        BackendError: every row failed.
        MissingDependencyError: Jinja is not installed.
    """
    _check_measured(runs)
    shown = []
    for name, seen in views(runs).items():
        content = {key: getattr(seen, key) for key in RunView.__slots__}
        content["verdicts"] = [{"css": "yes" if passed else "no", "line": line} for passed, line in verdicts.get(name, ())]
        content["verdicts"].append({"css": "", "line": seen.headline})
        shown.append(content)
    return render(
        "report.html.j2",
        title=_title(runs),
        runs=shown,
        theory=tuple(THEORY.items()),
        sources=tuple(SOURCES.items()),
        trtexec=[{"name": name, "facts": tuple(facts.items())} for name, facts in trtexec.items()],
    )


def render(template: str, **values: Any) -> str:
    """A template of the package filled in: it has the pages' style and colours, and a filter ``drawn`` for our own SVG; all else is escaped.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    jinja2 = require("jinja2", extra="report", why="the HTML page")
    markupsafe = require("markupsafe", extra="report", why="the HTML page")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["drawn"] = markupsafe.Markup
    rules = (f".c{i} {{ background: {c}; fill: {c}; }} svg .l{i} {{ stroke: {c}; }}" for i, c in enumerate(COLOURS))
    style = markupsafe.Markup((_ASSETS / "report.css").read_text("utf-8") + "\n".join(rules))
    text: str = environment.from_string((_ASSETS / template).read_text("utf-8")).render(style=style, version=__version__, **values)
    return text


def markdown_page(runs: Mapping[str, Run], verdicts: Mapping[str, Verdicts], trtexec: Mapping[str, Mapping[str, str]]) -> str:
    """The same in Markdown, without charts and pictures; for the arguments and errors see ``html_page``."""
    _check_measured(runs)
    parts = [f"# {plain(_title(runs))}"]
    shown = views(runs)
    for name, seen in shown.items():
        parts.append(f"## {plain(name)}")
        parts += [f"**{plain(line)}**" for _, line in verdicts.get(name, ())] + [plain(seen.headline)]
        parts += [f"- {plain(line)}" for line in seen.warnings]
        parts.append(
            table(
                (*_COLUMNS, seen.score_name, "agreement", "memory", "GPU memory", "energy", "what really ran"),
                [_cells(row) for row in seen.rows],
            )
        )
        parts.append(plain(seen.caption))
        if seen.deviations:
            parts.append(f"### Deviation on identical input (sha256 {seen.input_sha256}, reference {plain(seen.reference)})")
            parts.append(table(("case", *seen.deviation_names), [(title, *cells) for title, cells in seen.deviations]))
        if seen.answers:
            parts.append("### Predicted")
            parts.append(table(("case", *seen.answer_names), [(title, *cells) for title, cells in seen.answers]))
        for engine in seen.engines:
            parts.append(f"### Engine: {plain(engine.title)}")
            parts.append(table(("fact", "value"), engine.facts))
    parts += [f"## trtexec: {plain(name)}\n\n{table(('fact', 'value'), list(facts.items()))}" for name, facts in trtexec.items()]
    parts += _questions(shown)
    return "\n\n".join(parts) + "\n"


def _check_measured(runs: Mapping[str, Run]) -> None:
    """Refuses runs, by the name of their file, of which no row ran.

    Raises:
        BackendError: why the first row failed.
    """
    found = [(name, row) for name, run in runs.items() for row in run.measurements]
    if found and all(row.failed for _, row in found):
        (name, first), more = found[0], len(found) - 1
        others = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        raise BackendError(f"nothing to report, every row failed: {name}: {first.case.title}: {first.failed}{others}")


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
            if lines:
                parts.append("\n".join(f"- {plain(line)}" for line in lines))
    parts += ["## 5. Sources", "\n".join(f"- {name}: {text}" for name, text in SOURCES.items()), "## To measure this again"]
    for seen in shown.values():
        parts.append(f"    {plain_line(seen.command)}\n\n" + "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in seen.identity))
    return parts


def _cells(row: Any) -> tuple[str, ...]:
    speed = (row.refused, *[""] * 6) if row.refused else row.speed
    return (row.title, *speed, *row.rest, row.runs_on)


def _title(runs: Mapping[str, Run]) -> str:
    models = dict.fromkeys(row.case.model.rsplit("/", 1)[-1] for run in runs.values() for row in run.measurements)
    return f"{', '.join(models) or 'nothing'}: speed with its proof"
