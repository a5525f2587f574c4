"""Lab pages: the sections of a laboratory report as one self-contained HTML file, or as Markdown with the same words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jetlens.bench.records import Run
from jetlens.errors import plain_line
from jetlens.report.lab import BuildLog, Section, lab
from jetlens.report.markdown import plain, table
from jetlens.report.page import render

__all__ = ["lab_html", "lab_markdown"]


def lab_html(runs: Mapping[str, Run], logs: Mapping[str, BuildLog], fps: float) -> str:
    """The report as a page that loads nothing from anywhere and runs no script; for the arguments see ``lab.lab``.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    return render("lab.html.j2", title=_title(runs), created=_created(runs), sections=lab(runs, logs, fps))


def lab_markdown(runs: Mapping[str, Run], logs: Mapping[str, BuildLog], fps: float) -> str:
    """The same in Markdown, without charts and pictures."""
    parts = [f"# {plain(_title(runs))}", plain(_created(runs))]
    for section in lab(runs, logs, fps):
        parts += _markdown(section)
    return "\n\n".join(parts) + "\n"


def _markdown(section: Section) -> Iterator[str]:
    yield f"{'#' * section.level} {plain(section.title)}"
    yield from (f"**{plain(line)}**" for _, line in section.verdicts)
    yield from (plain(line) for line in section.paragraphs)
    yield from (f"(picture: {plain(picture.title)})" for picture in section.pictures)
    if section.table:
        yield table(section.table.names, section.table.rows)
    if section.facts and section.log:  # lines after a list would belong to its last point
        yield table(("", ""), section.facts)
    elif section.facts:
        yield "\n".join(f"- {plain(name)}{'' if name.endswith('?') else ':'} {plain(value)}" for name, value in section.facts)
    if section.log:
        yield "\n".join(f"    {plain_line(line)}" for line in section.log.splitlines())


def _title(runs: Mapping[str, Run]) -> str:
    models = dict.fromkeys(row.case.model.rsplit("/", 1)[-1].removesuffix(".onnx") for run in runs.values() for row in run.measurements)
    return f"Laboratory report: {', '.join(models) or 'nothing'}"


def _created(runs: Mapping[str, Run]) -> str:
    return f"Measured {', '.join(dict.fromkeys(run.created for run in runs.values()))}."
