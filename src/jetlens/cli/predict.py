"""`jetlens predict`: a model on images, folders, patterns, addresses and videos."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens import overlay
from jetlens.cli import flags
from jetlens.cli.progress import StreamProgress
from jetlens.engines.options import BuildOptions
from jetlens.errors import InputError, OutputError, UsageError, escaped, one_line
from jetlens.frame import Frame, Image
from jetlens.media import StreamInfo, open_sink
from jetlens.media.images import write_image
from jetlens.media.jsonlines import JsonLines
from jetlens.pipeline import Renderer, Result, StreamStats, predict_stream
from jetlens.pipeline.inputs import Input, OutputNames, expand
from jetlens.pipeline.totals import ClassTotals
from jetlens.predictor import Predictor, Timings, load
from jetlens.results import Classification, Detections, Prediction, Segmentation
from jetlens.tasks.base import TaskOptions

__all__ = ["command"]

DEFAULT_MODEL = "orange-detect"
DEFAULT_FOLDER = Path("predictions")
_MOST_ROWS = 30


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Image, folder, pattern, image URL, video, test://orange-line")],
    model: Annotated[str, typer.Option("--model", help="An .onnx file or a model's name.")] = DEFAULT_MODEL,
    backend: flags.BackendFlag = "auto",
    device: flags.DeviceFlag = "auto",
    output: Annotated[Path | None, typer.Option("--output", help="Folder for overlays; 'predictions', and with --json none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture or frame.")] = False,
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Drop detections below it; the model's own if not given.")] = None,
    iou: Annotated[float | None, typer.Option(min=0, max=1, help="Overlap for non-maximum suppression; the model's own.")] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How much the colours of a segmentation cover.")] = 0.6,
    top: Annotated[int, typer.Option(min=1, help="How many classes a classification lists.")] = 5,
    weights: flags.WeightsFlag = None,
    repeat: Annotated[int, typer.Option(min=1, help="Predict each picture so often and print every time.")] = 1,
    threads: flags.ThreadsFlag = None,
    precision: flags.PrecisionFlag = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="With TensorRT: build the engine in memory and keep no file of it.")] = False,
) -> None:
    """Run a model on images and videos: prints what it sees and writes pictures and videos with it drawn in."""
    found = list(expand(inputs))
    first = next((entry for entry in found if isinstance(entry, InputError)), None)
    if first is not None and len(found) == 1:
        raise first
    on, arithmetic = flags.device(device), flags.precision(precision)
    if repeat > 1 and any(isinstance(entry, Input) and entry.kind == "stream" for entry in found):
        raise UsageError("--repeat times single pictures; leave it away for a video, whose last line gives its average rate")
    with ExitStack() as stack:
        predictor = stack.enter_context(
            load(
                model,
                backend,
                on,
                precision=arithmetic,
                threads=threads,
                options=TaskOptions(confidence, iou, top),
                weights=weights,
                build=BuildOptions(save=not no_save),
            )
        )
        job = _Job(predictor, _names(found, output, as_json), alpha, repeat, JsonLines(sys.stdout) if as_json else None)
        job.announce(inputs)
        failures = [error for entry in found if (error := job.run(entry, alone=len(found) == 1)) is not None]
    if failures:
        raise InputError(f"{len(failures)} of {len(found)} inputs could not be used or were incomplete, named above; the others are done")


def _names(found: Sequence[Input | InputError], output: Path | None, as_json: bool) -> OutputNames | None:
    """Where overlays go: nowhere if only JSON is asked for."""
    if as_json and output is None:
        return None
    folder = output or DEFAULT_FOLDER
    if folder.is_file():
        raise OutputError(f"--output {folder}: that is a file; give a folder, and each result gets its input's name in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {folder}: the folder cannot be made: {error.strerror}") from None
    return OutputNames(folder, [entry for entry in found if isinstance(entry, Input)])


@dataclass(frozen=True, slots=True)
class _Job:
    """One model, and what is to be done with its answers."""

    predictor: Predictor
    names: OutputNames | None
    alpha: float
    repeat: int
    lines: JsonLines | None

    def announce(self, inputs: Sequence[str]) -> None:
        """Says what runs, and what it cannot know."""
        spec, facts = self.predictor.spec, self.predictor.facts
        self.say(f"{spec.name}: {spec.task}, on {self.predictor.chosen}, {facts.provider} {facts.precision}, {facts.device}")
        if doubt := flags.guesses(spec, inputs):
            self.say(doubt)

    def run(self, entry: Input | InputError, *, alone: bool) -> InputError | None:
        """Handles one input; an input's own failure is printed and returned so that others go on, and raised if there are no others."""
        try:
            if isinstance(entry, InputError):
                raise entry
            if entry.kind == "stream":
                self.video(entry)
            else:
                self.picture(entry)
        except InputError as error:
            if alone:
                raise
            print(f"jetlens: {one_line(str(error))}", file=sys.stderr)
            return error
        return None

    def picture(self, entry: Input) -> None:
        """Predicts one picture."""
        image = entry.image()
        timings: list[Timings] = []
        for _ in range(self.repeat):
            prediction, timing = self.predictor.timed(image)
            timings.append(timing)
        if self.lines is not None:
            extra = {"times_ms": [round(timing.total_ms, 3) for timing in timings]} if self.repeat > 1 else {}
            self.lines.write({**self.record(entry, prediction), **extra})
        written = self.write_overlay(entry, image, prediction)
        if self.lines is None:
            self.show(entry, prediction, timings, written)

    def write_overlay(self, entry: Input, image: Image, prediction: Prediction) -> list[Path]:
        """Writes the picture with its result, and beside it the colours of a segmentation alone."""
        if self.names is None:
            return []
        written = [self.names.image(entry)]
        if isinstance(prediction, Segmentation):
            written.append(self.names.mask(written[0]))
            write_image(written[1], overlay.colour_mask(prediction.mask))
        write_image(written[0], overlay.draw(image, prediction, alpha=self.alpha, out=image))
        return written

    def record(self, entry: Input, prediction: Prediction) -> dict[str, Any]:
        """One picture's or frame's JSON object."""
        return {
            "path": entry.name,
            "size_hw": list(prediction.size_hw),
            "task": self.predictor.spec.task,
            "backend": self.predictor.facts.backend,
            "precision": self.predictor.facts.precision,
            **prediction.to_dict(),
        }

    def show(self, entry: Input, prediction: Prediction, timings: Sequence[Timings], written: Sequence[Path]) -> None:
        """Prints one picture's result as a table."""
        height, width = prediction.size_hw
        self.say(f"\n{entry.name}  {width}x{height}")
        if isinstance(prediction, Classification):
            best = prediction.to_dict()["top"][0]
            self.say(f"class {best['class_id']} {best['label']}  {best['confidence']:.4f}")
        rows = _rows(prediction)
        if rows:
            Console(soft_wrap=False).print(_table(rows[:_MOST_ROWS]))
        if len(rows) > _MOST_ROWS:
            self.say(f"and {len(rows) - _MOST_ROWS} more (--json prints all)")
        if not rows:
            self.say("nothing found")
        self.say(_times(timings))
        for path in written:
            self.say(f"-> {path}")

    def video(self, entry: Input) -> None:
        """Predicts a stream frame by frame; N frames in, N frames out."""
        with ExitStack() as stack:
            source = stack.enter_context(entry.stream())
            info = source.info
            path = self.names.video(entry) if self.names else None
            sink = stack.enter_context(open_sink(path, info)) if path else None
            progress = stack.enter_context(StreamProgress(escaped(entry.name.rpartition("/")[2] or entry.name), info.frames))
            totals = ClassTotals()

            def deliver(result: Result, drawn: Frame) -> None:
                totals.add(result.prediction)
                if sink is not None:
                    sink.write(drawn)
                if self.lines is not None:
                    place = {"index": drawn.index, "pts_s": round(drawn.pts_s, 6)}
                    self.lines.write({**self.record(entry, result.prediction), **place})
                progress.advance()

            render = Renderer(self.predictor.facts, alpha=self.alpha) if sink is not None else _undrawn
            try:
                stats = predict_stream(source, self.predictor, render, deliver)
                if sink is not None:
                    sink.close()
            except KeyboardInterrupt:
                if path is not None:
                    print(f"jetlens: stopped; {path} holds the {progress.done} frames until then", file=sys.stderr)
                raise
        self.show_totals(totals)
        self.report(entry, info, stats, path, sink.note if sink is not None else "")
        if stats.ended_by is not None:
            raise stats.ended_by

    def show_totals(self, totals: ClassTotals) -> None:
        """Prints a segmentation's classes over all frames of a stream together."""
        rows = totals.rows()
        if rows and self.lines is None:
            self.say(f"\nclasses over {totals.frames} frames")
            Console(soft_wrap=False).print(_table([_class_row(row) | {"frames": str(row["frames"])} for row in rows]))

    def report(self, entry: Input, info: StreamInfo, stats: StreamStats, path: Path | None, note: str) -> None:
        """Prints what a stream came to; the average rate is the last line."""
        height, width = info.size_hw
        stream = sys.stderr if self.lines is not None else sys.stdout
        if path is not None:
            self.say(f"-> {path}  {width}x{height}, {info.fps:.4g} frames a second" + (f", {note}" if note else ""), stream)
        if info.frames is not None and info.frames != stats.frames:
            self.say(f"the header promises {info.frames} frames, {stats.frames} can be decoded", stream)
        wall = f"{stats.wall_s:.1f}" if stats.wall_s >= 10 else f"{stats.wall_s:.3f}"
        busy = ", ".join(f"{name} {times.busy_s / stats.wall_s:.0%}" for name, times in stats.stages.items())
        if info.decoder and not info.name.startswith("test://"):
            self.say(f"decoded by {info.decoder}", stream)
        self.say(f"stages busy: {busy}", stream)
        self.say(f"{entry.name}: {stats.frames} frames in {wall} s = {stats.fps:.1f} FPS on average (frames / wall time)", stream)

    def say(self, text: str, stream: TextIO | None = None) -> None:
        """Prints a line for people: not among JSON."""
        if self.lines is None or stream is sys.stderr:
            print(escaped(text, keep="\n"), file=stream or sys.stdout, flush=True)


def _undrawn(result: Result) -> Frame:
    return result.frame


def _rows(prediction: Prediction) -> list[dict[str, str]]:
    """A prediction as rows of text."""
    fields = prediction.to_dict()
    if isinstance(prediction, Classification):
        return [
            {"rank": str(rank), "class": str(row["class_id"]), "name": row["label"], "confidence": f"{row['confidence']:.4f}"}
            for rank, row in enumerate(fields["top"], 1)
        ]
    if isinstance(prediction, Detections):
        return [
            {
                "class": str(row["class_id"]),
                "name": row["label"],
                "confidence": f"{row['confidence']:.3f}",
                "left, top, right, bottom": ", ".join(f"{value:.0f}" for value in row["xyxy"]),
            }
            for row in fields["detections"]
        ]
    return [_class_row(row) for row in fields["classes"]]


def _class_row(row: Mapping[str, Any]) -> dict[str, str]:
    return {"class": str(row["class_id"]), "name": row["label"], "pixels": f"{row['pixels']:,}", "ratio": f"{row['ratio']:.4%}"}


def _table(rows: Sequence[dict[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for key in rows[0]:
        table.add_column(key, justify="left" if key == "name" else "right")
    for row in rows:
        table.add_row(*(Text(escaped(cell)) for cell in row.values()))
    return table


def _times(timings: Sequence[Timings]) -> str:
    """The time of one call in its parts, or of every call."""
    if len(timings) == 1:
        only = timings[0]
        parts = f"preprocess {only.preprocess_ms:.2f}, model {only.infer_ms:.2f}, postprocess {only.postprocess_ms:.2f}"
        return f"{only.total_ms:.2f} ms ({parts})"
    later = [timing.total_ms for timing in timings[1:]]
    each = ", ".join(f"{value:.2f}" for value in later)
    return f"first call {timings[0].total_ms:.2f} ms; then {each} ms; median of these {median(later):.2f} ms"
