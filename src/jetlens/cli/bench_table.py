"""The tables of a run: speed with its proof, stages, and what a reader must know before believing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.bench import figures
from jetlens.bench.records import STAGES, Measurement, Run
from jetlens.cli.terminal import printable

__all__ = ["fitted", "number", "show"]

_SCOPES = {
    "answer": "from pixels to answer: preprocess, copies, compute, postprocess",
    "full": "from the picture's file to the drawn picture",
    "network": "the network and its copies alone",
}
_SCENARIOS = {
    "single": "one call at a time",
    "offline": "batches, as fast as they go",
    "camera": "frames from a camera at {fps:g} a second, latency from their arrival",
    "multi": "several calls in flight",
}
_DEVIATIONS = {
    "relative": "raw {:.1e}",
    "top1_agreement": "first class {:.2%}",
    "matched_boxes": "boxes {:.2%}",
    "max_box_pixels": "off {:.2g} px",
    "mask_agreement": "pixels {:.3%}",
}
_SCORES = ("top1", "map50", "miou")
WIDE = ("case", "runtime")
_LEFT = (*WIDE, "ran", "(95 %)", "task", "mode", "busiest")
_NO_VALUES = ("", "-", "n/a")


def show(run: Run, console: Console) -> None:
    """Prints a run for people."""
    about = _SCENARIOS[run.scenario].format(fps=run.fps or 0)
    names = {row.case.model for row in run.measurements}
    console.print(Text(f"\n{', '.join(sorted(names))}: {about}; latency {_SCOPES[run.scope]}; {len(run.images)} pictures", style="bold"))
    for part in _speed(run, console.width):
        console.print(part)
    for row in run.measurements:
        if row.refused:
            console.print(Text(printable(f"{_word(row)} {row.case.title}: {row.refused}")), soft_wrap=True)
    if any(row.deviation or row.accuracy for row in run.measurements):
        console.print(_proof(run))
    if run.scenario == "single" and any(row.blocks and not row.refused for row in run.measurements):
        for part in _stages(run, console.width):
            console.print(part)
    for line in _notes(run):
        console.print(Text(line), soft_wrap=True)


def _speed(run: Run, width: int) -> Iterator[Table | Text]:
    ranks = figures.ties(run)
    shared = list(ranks.values())
    order = sorted(range(len(run.measurements)), key=lambda index: (ranks.get(index, len(ranks) + 1), index))
    rows = []
    for index in order:
        rank = ranks.get(index)
        place = "" if rank is None else f"{rank}=" if shared.count(rank) > 1 else str(rank)
        rows.append(_cells(run, run.measurements[index], place))
    heads = ("#", "case", "ran", "best ms", "p50", "(95 %)", "p90", "p95", "p99", "p99.9", "max", "images/s", "RSS MiB", "W", "J/image")
    yield from fitted(heads, rows, width, ("p95", "p90", "p99.9", "max", "RSS MiB", "(95 %)", "J/image", "W", "ran"), "")


def fitted(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, spare: Sequence[str], title: str = ""
) -> Iterator[Table | Text]:
    """A table no wider than so many characters: of its spare columns those without a value go first, then the others in their order.

    The first column of ``WIDE`` that it has takes several lines where it must.
    """
    columns = {head: [printable(row[index]) for row in rows] for index, head in enumerate(heads)}
    wide = next(head for head in WIDE if head in columns)
    room = {head: _room(head, cells) + 2 for head, cells in columns.items()}
    empty = [head for head in spare if all(cell in _NO_VALUES for cell in columns[head])]
    gone: list[str] = []
    for head in dict.fromkeys((*empty, *spare)):
        if sum(room.values()) <= width:
            break
        del room[head]
        gone.append(head)
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    room[wide] += min(max(map(len, columns[wide])) + 2 - room[wide], max(0, width - sum(room.values())))
    for head, size in room.items():
        table.add_column(head, justify="left" if head in _LEFT else "right", overflow="fold", width=size - 2)
    for index in range(len(rows)):
        table.add_row(*(Text(columns[head][index]) for head in room))
    yield table
    for about, found in (("n/a here", empty), ("no room here, see --json", set(gone) - set(empty))):
        if named := [head for head in heads if head in gone and head in found]:
            yield Text(f"{about}: {', '.join(named)}", style="dim")


def _room(head: str, cells: Sequence[str]) -> int:
    """The characters that a column needs: a case and a heading may take several lines, one for each word."""
    words = [*head.split(), *(" ".join(cells).split() if head in WIDE else cells)]
    return max(len(word) for word in words)


def _cells(run: Run, row: Measurement, place: str) -> list[str]:
    ran = f"{row.facts.precision} {row.facts.provider}".replace("ExecutionProvider", "") if row.facts else "-"
    if row.refused:
        # The failure stands where the speed would be.
        return ["-", row.case.title, ran, _word(row), *["-"] * 11]
    if not row.blocks:
        return ["-", row.case.title, ran, "not run", *["-"] * 11]
    found = figures.summary(run, row)
    interval = found["interval"]
    numbers = [found[name] for name in figures.PERCENTILES]
    return [
        place,
        row.case.title + ("" if row.complete else f" (incomplete: {len(row.blocks)} of {row.planned} blocks)"),
        ran,
        number(found["undisturbed_ms"], "{:.2f}"),
        number(numbers[0], "{:.2f}"),
        "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}",
        *(number(value, "{:.2f}") for value in numbers[1:]),
        number(found["images_per_s"], "{:.1f}"),
        number(row.memory.peak, "{:.0f}"),
        number(found["mean_power_w"], "{:.1f}"),
        number(found["joules_per_image"], "{:.3g}"),
    ]


def _word(row: Measurement) -> str:
    return "FAILED" if row.failed else "REFUSED"


def _proof(run: Run) -> Table:
    table = Table(title=f"\nbeside the reference, {run.reference or 'none'}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("case", "outputs", "accuracy (95 %)", "gates"):
        table.add_column(heading, overflow="fold")
    for row in run.measurements:
        if row.deviation or row.accuracy:
            gates = ", ".join(f"{gate.name} {'passed' if gate.passed else 'FAILED'}" for gate in row.gates)
            cells = (
                row.case.title,
                ", ".join(_deviation(row.deviation)),
                ", ".join(_accuracy(row)) or ("not measured" if run.unscored else ""),
                gates,
            )
            table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _stages(run: Run, width: int) -> Iterator[Table | Text]:
    names = [stage.replace("_", " ") for stage in STAGES]
    rows = []
    for row in run.measurements:
        if row.refused or not row.blocks:
            continue
        stages = figures.stage_medians(row)
        use = figures.gpu_percent(run, row)
        rows.append(
            [
                row.case.title,
                *(number(stages.get(stage), "{:.3f}", "-") for stage in STAGES),
                f"{row.first_ms:.1f}",
                f"{row.load_ms:.0f}",
                number(row.memory.device, "{:.0f}"),
                number(row.memory.engine, "{:.1f}"),
                "n/a" if use is None else f"{use[0]:.0f} % (max {use[1]:.0f})",
            ]
        )
    others = ("first call", "loading", "GPU MiB", "engine MiB", "GPU use")
    spare = ("copy in", "copy out", "GPU use", "engine MiB", "GPU MiB", "loading", "first call")
    yield from fitted(("case", *names, *others), rows, width, spare, "\nstages, median ms (first call and loading apart)")


def _notes(run: Run) -> Iterator[str]:
    yield ""
    done, planned = run.counts
    if not run.complete:
        yield f"INCOMPLETE: {done} of {planned} blocks ran ({run.ended or 'not ended'})"
    hashes = sorted({row.input_sha256 for row in run.measurements if row.input_sha256})
    if hashes:
        yield f"identical input for all: uint8 batch sha256 {', '.join(digest[:16] for digest in hashes)}"
    pictures = max((int(row.accuracy.get("pictures", 0)) for row in run.measurements), default=0)
    if pictures:
        yield f"accuracy on {pictures} pictures, with 95 % intervals"
    if run.unscored:
        yield f"accuracy not measured: {run.unscored}"
    if any(row.blocks and not row.gates for row in run.measurements):
        yield "answers not checked: no reference ran and no labelled pictures were scored"
    ranks = figures.ties(run)
    if len(set(ranks.values())) < len(ranks):
        yield "rows that share a number (=) are ties: the intervals of their best latency overlap"
    shown = [row for row in run.measurements if row.blocks and not row.refused]
    spreads = {row.case.title: figures.noise(row, run.scope, run.scenario) for row in shown}
    noisy = [f"{title} {spread:.0%}" for title, spread in spreads.items() if spread > figures.NOISY]
    if noisy:
        yield f"noisy: block medians spread by much: {', '.join(noisy)}; a quieter machine or more --blocks would tell more"
    unsettled = [row.case.title for row in shown if not row.warm_up.settled]
    if unsettled:
        yield f"did not settle: {', '.join(unsettled)}: three windows of the warm-up never agreed within 10 %"
    if run.scenario == "camera":
        yield from (f"{row.case.title}: {figures.drop_rate(row):.1%} of the frames dropped" for row in shown)
    yield "ranked by the best latency: of every picture's calls the fastest, less what disturbance leaves in it; it repeats where p50 does not"
    yield f"the bench itself adds {1000 * run.overhead_ms:.1f} us to a call ({run.overhead_ms:.2%} of a call of 1 ms)"


def _deviation(values: Mapping[str, float]) -> Iterator[str]:
    for name, text in _DEVIATIONS.items():
        if name in values:
            yield text.format(values[name])


def _accuracy(row: Measurement) -> Iterator[str]:
    for name in _SCORES:
        if name in row.accuracy:
            interval = row.intervals.get(name)
            within = "" if interval is None else f" ({interval[0]:.4f}-{interval[1]:.4f})"
            yield f"{name} {row.accuracy[name]:.4f}{within}"


def number(value: float | None, text: str, absent: str = "n/a") -> str:
    """A cell of the table; what was not measured is said so."""
    return absent if value is None else text.format(value)
