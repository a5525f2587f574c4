"""View: a run as the plain words and numbers that a page or a text shows, in their order."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from jetlens.bench import figures
from jetlens.bench.records import SCOPES, Run
from jetlens.device.sampling import Samples
from jetlens.report import charts, findings
from jetlens.report.rows import NOT_KNOWN, Row, number, rows

__all__ = ["Chart", "Engine", "Picture", "RunView", "TableRow", "data_uri", "views"]

_MOST_POINTS = 400
_LOG_LINES = 40
_UNITS = {"mib": "MiB", "mhz": "MHz", "w": "W", "c": "°C", "1m": "in the last minute"}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart with its caption."""

    title: str
    svg: str
    about: str


@dataclass(frozen=True, slots=True)
class Engine:
    """What is known of an engine that a runtime built."""

    title: str
    facts: tuple[tuple[str, str], ...]
    slowest: tuple[tuple[str, str], ...]
    log: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture inside the page."""

    title: str
    src: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the main table; ``refused`` stands in place of the seven cells of ``speed``."""

    title: str
    refused: str
    speed: tuple[str, ...]
    rest: tuple[str, ...]
    runs_on: str


@dataclass(frozen=True, slots=True)
class RunView:
    """All that is shown of one run."""

    name: str
    created: str
    caption: str
    score_name: str
    headline: str
    warnings: tuple[str, ...]
    rows: tuple[TableRow, ...]
    charts: tuple[Chart, ...]
    input_sha256: str
    reference: str
    deviation_names: tuple[str, ...]
    deviations: tuple[tuple[str, tuple[str, ...]], ...]
    pictures: tuple[tuple[str, tuple[Picture, ...]], ...]
    answer_names: tuple[str, ...]
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    engines: tuple[Engine, ...]
    system: tuple[tuple[str, str], ...]
    results: tuple[str, ...]
    conclusions: tuple[str, ...]
    command: str
    identity: tuple[tuple[str, str], ...]


def views(runs: Mapping[str, Run]) -> dict[str, RunView]:
    """What is shown of each run, by the name of its file."""
    found = {name: (run, rows(run)) for name, run in runs.items()}
    return {
        name: _view(run, name, own, {other: pair for other, pair in found.items() if other != name}) for name, (run, own) in found.items()
    }


def _view(run: Run, name: str, found: Sequence[Row], elsewhere: findings.Elsewhere) -> RunView:
    names = tuple(dict.fromkeys(key for row in found for key in row.measurement.deviation))
    deviations = tuple(
        (row.title, tuple(_deviation(key, row.measurement.deviation.get(key)) for key in names))
        for row in found
        if row.measurement.deviation
    )
    most = max((len(row.measurement.predictions) for row in found), default=0)
    score = next((row.score[0] for row in found if row.score), "accuracy")
    hashes = sorted({row.measurement.input_sha256 for row in found if row.measurement.input_sha256})
    return RunView(
        name=name,
        created=run.created,
        caption=_caption(run),
        score_name=score,
        headline=findings.headline(run, found),
        warnings=tuple(findings.warnings(run, found)),
        rows=tuple(_table_row(row, "not measured" if run.unscored else NOT_KNOWN) for row in found),
        charts=tuple(chart for chart in _charts(run, found) if chart.svg),
        input_sha256=", ".join(digest[:16] for digest in hashes) or NOT_KNOWN,
        reference=run.reference or "no reference",
        deviation_names=tuple(key.replace("_", " ") for key in names),
        deviations=deviations,
        pictures=tuple(_pictures(run, found)),
        answer_names=tuple(run.images[:most]),
        answers=tuple(
            (row.title, tuple(_answer(one) for one in row.measurement.predictions)) for row in found if row.measurement.predictions
        ),
        engines=tuple(_engine(row) for row in found if row.measurement.engine),
        system=tuple(_system(run)),
        results=tuple(findings.results(run, found)),
        conclusions=tuple(findings.tensorrt(run, found, elsewhere)),
        command=shlex.join(run.command) if run.command else "measured through the Python API",
        identity=tuple(_identity(run, name)),
    )


def _caption(run: Run) -> str:
    scenario = {
        "single": "one picture at a time",
        "offline": "batches",
        "camera": f"a camera of {number(run.fps)} frames/s",
        "multi": "several lanes in flight",
    }
    return (
        f"{scenario[run.scenario]}; times cover {', '.join(SCOPES[run.scope])}; {len(run.images)} pictures; "
        "ranked by the best latency: of every picture's calls the fastest, less what disturbance leaves in it; "
        "ranks are shared where its intervals overlap; n/a: this machine cannot say"
    )


def _table_row(row: Row, score: str) -> TableRow:
    """``score``: what stands where the row has none."""
    f, memory = row.figures, row.measurement.memory
    interval = f["interval"]
    speed = (
        NOT_KNOWN if row.rank is None else f"{row.rank}{' tie' if row.tied else ''} (best {number(f['undisturbed_ms'], 'ms')})",
        number(f["p50"], "ms"),
        NOT_KNOWN if interval is None else f"{number(interval[0])} to {number(interval[1])}",
        number(f["p99"], "ms"),
        number(f["max"], "ms"),
        number(f["images_per_s"]),
        number(f["first_ms"], "ms"),
    )
    if row.score:
        _, value, within = row.score
        pictures = row.measurement.accuracy.get("pictures")
        score = f"{value:.4f}" + (f" ({within[0]:.4f} to {within[1]:.4f})" if within else "") + (f" on {pictures:.0f}" if pictures else "")
    agreement = f"{row.agreement[1]:.2%} {row.agreement[0]}" if row.agreement else NOT_KNOWN
    joules = f["joules_per_image"]
    energy = "below the noise" if joules is not None and joules <= 0 else number(joules, "J/image")
    rest = (score, agreement, number(memory.peak, "MiB"), number(memory.device, "MiB"), energy)
    return TableRow(row.title, row.refused, speed, rest, row.runs_on)


def _charts(run: Run, found: Sequence[Row]) -> list[Chart]:
    shown = [row for row in found if not row.refused]
    times = {row.title: figures.calls_ms(row.measurement, run.scope, run.scenario) for row in shown}
    stages = {row.title: dict(row.figures["stages_ms"]) for row in shown}
    memory = {row.title: _memory(row) for row in shown}
    return [
        Chart(
            "Latency of every call",
            charts.distributions(times, "ms", "Distribution of latencies, one shape a case"),
            "Logarithmic. Full mark: p50, dashed: p99 where 100 calls or more tell it; the height is the square root of the count, so that rare slow calls are seen.",
        ),
        Chart(
            "Where the time goes",
            charts.bars(stages, "ms", "Median time of each stage, one bar a case"),
            "The median of each stage of a call, end to end"
            + (f"; the latencies cover {', '.join(SCOPES[run.scope])} only." if run.scenario == "single" and run.scope != "full" else "."),
        ),
        _accuracy_chart(shown),
        Chart(
            "Memory",
            charts.bars(memory, "MiB", "Memory of each case's process"),
            "Resident before the runtime was imported, what it added at its peak, and what it took of the GPU's.",
        ),
        _load_chart(run),
    ]


def _accuracy_chart(shown: Sequence[Row]) -> Chart:
    scored = [row for row in shown if row.score]
    name = scored[0].score[0] if scored and scored[0].score else "agreement with the reference"
    points, within = {}, {}
    for row in scored or shown:
        value = row.score[1] if row.score else row.agreement[1] if row.agreement else None
        if value is not None and row.figures["images_per_s"]:
            points[row.title] = (row.figures["images_per_s"], value)
            if row.score and row.score[2]:
                within[row.title] = row.score[2]
    front = [one for one, (x, y) in points.items() if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())]
    svg = charts.scatter(points, front, "images/s", name, "Accuracy against speed", within) if len(points) > 1 else ""
    about = "To the right is faster, above is better; the line joins the cases that no other beats in both"
    return Chart("Accuracy against speed", svg, about + ("; a bar is 95 % of the accuracy." if within else "."))


def _memory(row: Row) -> dict[str, float]:
    memory = row.measurement.memory
    parts = {
        "before": memory.before,
        "added at the peak": None if memory.peak is None else memory.peak - (memory.before or 0.0),
        "on the GPU": memory.device,
    }
    return {name: value for name, value in parts.items() if value}


def _load_chart(run: Run) -> Chart:
    if not run.samples:
        return Chart("Power over time", "", "")
    samples = Samples.from_dict(run.samples)
    readings = samples.readings[:: max(1, len(samples.readings) // _MOST_POINTS)]
    start = readings[0].at_s if readings else 0.0
    power = [(one.at_s - start, one.power_w) for one in readings if one.power_w is not None]
    if power:
        return Chart("Power over time", charts.lines({samples.power_rail: power}, "W", "Power over time"), f"Source: {samples.source}.")
    load = {
        "processor": [(one.at_s - start, one.cpu_percent) for one in readings if one.cpu_percent is not None],
        "GPU": [(one.at_s - start, one.gpu_percent) for one in readings if one.gpu_percent is not None],
    }
    why = samples.why_no_power or "this machine does not tell its power"
    return Chart("Load over time", charts.lines(load, "%", "Load over time"), f"No power: {why}. Source of the load: {samples.source}.")


def _deviation(name: str, value: float | None) -> str:
    if value is None:
        return NOT_KNOWN
    return (
        f"{value:.4%}"
        if name.endswith(("agreement", "boxes")) and "pixels" not in name
        else f"{value:.6f}"
        if name == "cosine"
        else f"{value:.2e}"
    )


def _pictures(run: Run, found: Sequence[Row]) -> list[tuple[str, tuple[Picture, ...]]]:
    """By picture what each case drew into it, and where its drawing differs from the reference's."""
    shown = []
    for index in range(max((len(row.measurement.overlays) for row in found), default=0)):
        drawn: list[Picture] = []
        for row in found:
            overlays, differences = row.measurement.overlays, row.measurement.differences
            if index >= len(overlays):
                continue
            same = index < len(differences) and _is_black(differences[index])
            drawn.append(Picture(f"{row.title}{', the same drawing as the reference' if same else ''}", data_uri(overlays[index])))
            if index < len(differences) and not same:
                drawn.append(Picture(f"{row.title}: difference from the reference's drawing, 8 times", data_uri(differences[index])))
        shown.append((run.images[index] if index < len(run.images) else f"picture {index + 1}", tuple(drawn)))
    return shown


def _is_black(text: str) -> bool:
    """Whether a picture, base64 of PNG or JPEG, is all zeros."""
    try:
        return not np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(text)))).any()
    except (OSError, ValueError):
        return False


def data_uri(text: str) -> str:
    """A picture in base64, of PNG or JPEG, as an address that holds it whole."""
    kind = "png" if text.startswith("iVBOR") else "jpeg"
    return f"data:image/{kind};base64,{text}"


def _answer(prediction: Mapping[str, Any]) -> str:
    """One prediction in a few words."""
    if "top" in prediction:
        return ", ".join(f"{row['label']} {row['confidence']:.2f}" for row in prediction["top"][:3])
    if "detections" in prediction:
        counts: dict[str, int] = {}
        for row in prediction["detections"]:
            counts[row["label"]] = counts.get(row["label"], 0) + 1
        return ", ".join(f"{count} {label}" for label, count in counts.items()) or "nothing"
    return ", ".join(f"{row['label']} {row['ratio']:.1%}" for row in prediction.get("classes", ()) if row["ratio"] > 0)


def _engine(row: Row) -> Engine:
    facts = dict(row.measurement.engine)
    slowest = tuple((str(one["name"]), number(float(one["ms"]))) for one in facts.pop("slowest", ()) or ())
    log = "\n".join(str(facts.pop("log", "") or "").splitlines()[-_LOG_LINES:])
    return Engine(
        row.title,
        tuple((key.replace("_", " "), _words(value)) for key, value in facts.items() if value not in (None, "", [], {})),
        slowest,
        log,
    )


def _fact(key: str, value: Any) -> tuple[str, str]:
    """A field of a record in words: ``memory_mib`` 512 is memory, 512 MiB."""
    name, _, unit = key.rpartition("_")
    if not name or unit not in _UNITS:
        name, unit = key, ""
    return name.replace("_", " ").replace("cpu", "CPU").replace("gpu", "GPU"), f"{_words(value)} {_UNITS.get(unit, '')}".strip()


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(" ".join(_fact(name, part)) for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return "; ".join(_words(part) for part in value)
    return number(value) if isinstance(value, float) else str(value)


def _system(run: Run) -> list[tuple[str, str]]:
    machine = {key: value for key, value in run.machine.items() if value not in (None, "", (), [])}
    told = [_fact(key, value) for key, value in machine.items()]
    told += [(name, str(text)) for name, text in run.versions.items() if name not in machine]
    for when, state in (("before", run.state_before), ("after", run.state_after)):
        known = {key: value for key, value in state.items() if value not in (None, "", (), [], {})}
        told.append((f"state {when}", _words(known) or "this machine does not tell its clocks and temperatures"))
    return told


def _identity(run: Run, name: str) -> list[tuple[str, str]]:
    files: dict[str, dict[str, list[str]]] = {}
    for row in run.measurements:
        if row.model_sha256:
            files.setdefault(row.case.model, {}).setdefault(row.model_sha256, []).append(row.precision or NOT_KNOWN)
    models = [
        (f"model {model}{', ' + ' and '.join(dict.fromkeys(precisions)) if len(digests) > 1 else ''}", f"sha256 {digest}")
        for model, digests in files.items()
        for digest, precisions in digests.items()
    ]
    return [
        ("record", name),
        *models,
        ("pictures", f"{len(run.images)}, sha256 {run.images_sha256}"),
        ("overhead of measuring", number(run.overhead_ms * 1000, "µs a call")),
    ]
