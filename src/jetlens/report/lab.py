"""Lab: what a student hands in, from the records of a measurement: prediction, time and memory, deviation, real time, build log, answers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jetlens.bench.records import Run
from jetlens.bench.verdict import row_verdict, verdict
from jetlens.report import lab_answers
from jetlens.report.findings import SOURCES, THEORY
from jetlens.report.rows import NOT_KNOWN, Row, number, rows
from jetlens.report.view import Chart, Picture, RunView, data_uri, views

__all__ = ["BuildLog", "Section", "Table", "lab"]

_COLUMNS = ("case", "first call", "p50", "p99", "max", "images/s", "memory", "GPU memory", "loading")
_NO_LOG = (
    "No engine was built here, so there is no build log. On a machine with TensorRT the first command builds one and prints its layers and time; "
    "the second prints the command for trtexec, whose output, saved to a file, stands here with --trtexec-log FILE."
)
_NO_TENSORRT = "Not measured here. On a machine with TensorRT the same command adds its rows."


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its names above; the first cell of a row is its title."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class BuildLog:
    """A log of trtexec: what it reports, and its last lines."""

    facts: Mapping[str, str]
    tail: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report, shown from top to bottom in the order of its fields.

    Attributes:
        level: of its heading, 2 to 4.
        verdicts: whether something holds, and the line that says so.
        facts: name and value, or question and answer.
        log: lines to be shown as they are.
    """

    title: str
    level: int = 2
    verdicts: tuple[tuple[bool | None, str], ...] = ()
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    table: Table | None = None
    charts: tuple[Chart, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    log: str = ""


def lab(runs: Mapping[str, Run], logs: Mapping[str, BuildLog], fps: float) -> tuple[Section, ...]:
    """The report's five sections, with a model's five items in the third.

    Args:
        runs: by the name of their file.
        logs: of trtexec, by the name of their file.
        fps: what real time means.
    """
    seen = views(runs)
    found = {name: rows(run) for name, run in runs.items()}
    results = [section for name, run in runs.items() for section in _model(run, seen[name], found[name], fps)]
    return (
        _glance(runs, seen, fps),
        Section("1. Pointers to the theory", facts=tuple(THEORY.items())),
        *_system(runs, seen),
        Section("3. The results", paragraphs=("Everything here is computed from the raw values of the records named at the end.",)),
        *results,
        *(_trtexec(name, log) for name, log in logs.items()),
        Section("4. Conclusions"),
        *(Section(_models(run), 3, facts=tuple(lab_answers.answers(run, found[name], fps))) for name, run in runs.items()),
        Section("5. Sources", facts=tuple(SOURCES.items())),
        Section("To measure this again"),
        *(Section(_models(runs[name]), 3, facts=one.identity, log=one.command) for name, one in seen.items()),
    )


def _glance(runs: Mapping[str, Run], seen: Mapping[str, RunView], fps: float) -> Section:
    """The verdicts, and what a reader must know first."""
    lines: list[tuple[bool | None, str]] = []
    doubts: list[str] = []
    for name, run in runs.items():
        best = verdict(run, fps)
        lines.append((best.passed, f"{_models(run)}, {best.line}"))
        lines.append((None, f"{_models(run)}: {seen[name].headline}"))
        doubts += [f"{_models(run)}: {line}" for line in seen[name].warnings]
    return Section("At a glance", verdicts=tuple(lines), paragraphs=tuple(doubts))


def _system(runs: Mapping[str, Run], seen: Mapping[str, RunView]) -> list[Section]:
    """What is the same for all runs once, then what differs."""
    first, *others = [one.system for one in seen.values()]
    same = tuple(pair for pair in first if all(pair in other for other in others))
    apart = {name: tuple(pair for pair in one.system if pair not in same) for name, one in seen.items()}
    return [Section("2. The system", facts=same), *(Section(_models(runs[name]), 3, facts=facts) for name, facts in apart.items() if facts)]


def _model(run: Run, seen: RunView, found: Sequence[Row], fps: float) -> list[Section]:
    """The items of one run."""
    tensorrt = [row for row in found if lab_answers.is_tensorrt(row)]
    others = [row for row in found if row not in tensorrt]
    model = _models(run)
    return [
        Section(model, 3),
        _prediction(run, found),
        Section(
            "Time and memory without optimisation",
            4,
            paragraphs=(
                "PyTorch runs the network as it is; ONNX Runtime and OpenVINO join layers too and stand beside it.",
                *_refusals(others),
            ),
            table=_costs(others),
        ),
        Section(
            "Time and memory with TensorRT",
            4,
            paragraphs=(*_refusals(tensorrt), *([] if any(row.p50_ms for row in tensorrt) else [_NO_TENSORRT])),
            table=_costs(tensorrt, engines=True),
        ),
        _deviation(seen),
        _real_time(run, seen, found, fps),
        _build(run, seen),
    ]


def _prediction(run: Run, found: Sequence[Row]) -> Section:
    """What is in the picture, as each case says, and the drawings of one of them."""
    drawn = next((row for row in found if row.measurement.overlays), None)
    pictures: tuple[Picture, ...] = ()
    if drawn is not None:
        names = [name.rsplit("/", 1)[-1] for name in run.images]
        pictures = tuple(
            Picture(f"{name}, by {drawn.title}", data_uri(text)) for name, text in zip(names, drawn.measurement.overlays, strict=False)
        )
    content = tuple(
        (row.title, image.rsplit("/", 1)[-1], _answer(one))
        for row in found
        for image, one in zip(run.images, row.measurement.predictions, strict=False)
    )
    return Section(
        "Prediction", 4, pictures=pictures, table=Table(("case", "picture", "class and confidence"), content) if content else None
    )


def _answer(prediction: Mapping[str, Any]) -> str:
    """One prediction with its class ids."""
    if "classes" in prediction:
        shares = (f"{row['label']} ({row['class_id']}) {row['ratio']:.1%}" for row in prediction["classes"] if row["ratio"] > 0)
        return ", ".join(shares)
    ranked = prediction.get("top") or sorted(prediction.get("detections", ()), key=lambda row: -row["confidence"])
    parts = [f"{row['label']} (class {row['class_id']}) {row['confidence']:.3f}" for row in ranked[:3]]
    more = len(ranked) - len(parts) if "detections" in prediction else 0
    return ", ".join(parts + ([f"and {more} more"] if more > 0 else [])) or "nothing found"


def _costs(found: Sequence[Row], *, engines: bool = False) -> Table | None:
    """Time and memory of the rows that may be shown."""
    content = []
    for row in found:
        if row.p50_ms is None:
            continue
        f, memory = row.figures, row.measurement.memory
        times = (number(f[name], "ms") for name in ("first_ms", "p50", "p99", "max"))
        mib = (number(value, "MiB") for value in (memory.peak, memory.device))
        engine = (number(memory.engine, "MiB"),) if engines else ()
        content.append((row.title, *times, number(f["images_per_s"]), *mib, number(f["load_ms"], "ms"), *engine))
    return Table((*_COLUMNS, *(("engine",) if engines else ())), tuple(content)) if content else None


def _refusals(found: Sequence[Row]) -> list[str]:
    why = {row.title: row.refused or "it was not called often enough" for row in found if row.p50_ms is None}
    return [f"{title} has no figures: {reason}." for title, reason in why.items()]


def _deviation(seen: RunView) -> Section:
    title = "Change of the numeric outputs on identical input"
    if not seen.deviations:
        return Section(title, 4, paragraphs=("Nothing could be compared: there was no reference, or one case only.",))
    told = f"Every case was given the same uint8 batch, sha256 {seen.input_sha256}; compared with {seen.reference}."
    content = tuple((name, *cells) for name, cells in seen.deviations)
    return Section(title, 4, paragraphs=(told,), table=Table(("case", *seen.deviation_names), content))


def _real_time(run: Run, seen: RunView, found: Sequence[Row], fps: float) -> Section:
    """For each row that may be shown whether it keeps up, from pixels to answer."""
    judged = [row_verdict(run, row.measurement, fps) for row in found if row.p50_ms is not None]
    why = () if judged else ("Nothing ran that may be shown.",)
    return Section("Use in real time", 4, verdicts=tuple((one.passed, one.line) for one in judged), paragraphs=why, charts=seen.charts[:2])


def _build(run: Run, seen: RunView) -> Section:
    """What is known of the engines, or how to get a log."""
    if not seen.engines:
        model = next((row.case.model for row in run.measurements), "MODEL")
        plan = f"{model.rsplit('/', 1)[-1].removesuffix('.onnx')}.plan"
        commands = (f"jetlens build {shlex.quote(model)} --output {shlex.quote(plan)}", f"jetlens build {shlex.quote(model)} --dry-run")
        return Section("Build log", 4, paragraphs=(_NO_LOG,), log="\n".join(commands))
    facts = tuple(pair for engine in seen.engines for pair in (("engine", engine.title), *engine.facts))
    return Section("Build log", 4, facts=facts, log="\n".join(engine.log for engine in seen.engines if engine.log))


def _trtexec(name: str, log: BuildLog) -> Section:
    return Section(f"Build log of trtexec: {name}", 3, facts=tuple(log.facts.items()), log=log.tail)


def _models(run: Run) -> str:
    names = dict.fromkeys(row.case.model.rsplit("/", 1)[-1].removesuffix(".onnx") for row in run.measurements)
    return ", ".join(names) or NOT_KNOWN
