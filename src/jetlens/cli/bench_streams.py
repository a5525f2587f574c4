"""`jetlens bench --scenario video|live`: a whole video or camera through each runtime, frame by frame, in threads and through DeepStream."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import typer
from rich.console import Console
from rich.text import Text

from jetlens.backends.base import Precision
from jetlens.bench.cases import case_paths
from jetlens.bench.inputs import Pictures
from jetlens.bench.modes import CAMERA, find_stream, orange_video, stream_cases, stream_figures
from jetlens.bench.records import MODES, Measurement, Run, Scenario
from jetlens.bench.runner import Plan, measure
from jetlens.cli.bench_table import fitted, number
from jetlens.cli.terminal import printable, wide_console
from jetlens.data.samples import is_orange_line_model
from jetlens.errors import BackendError, GateError, UsageError
from jetlens.spec import ModelSpec

__all__ = ["StreamRequest", "measure_streams", "scenario_of", "show_streams"]

_BLOCKS = 3
_LIVE_S = 5.0
_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "tensorrt": "TensorRT",
    "deepstream": "DeepStream",
}
_SPARE = ("RSS MiB", "turns", "p50 ms", "busiest", "network", "task", "stream", "p99 ms")


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What was asked for; None where the flag was not given."""

    model: str
    path: Path
    spec: ModelSpec
    scenario: Scenario
    source: str | None
    backends: Sequence[str] | None
    precisions: Sequence[Precision | None]
    modes: Sequence[str]
    frames: int | None
    blocks: int | None
    block_s: float | None
    threads: int | None
    target_fps: float | None


def measure_streams(request: StreamRequest, save: Callable[[Run], None], said: Callable[[str], None], as_json: bool) -> Run:
    """Measures, prints the table and says whether the target is held.

    Raises:
        UsageError: no video is given and the model has none of its own.
        BackendError: nothing could run.
        GateError: no row reaches the target.
    """
    cases = stream_cases(request.model, request.backends, request.precisions, request.modes)
    live = request.scenario == "live"
    with ExitStack() as stack:
        uri = request.source or (CAMERA if live else _own_video(request.spec, stack, said))
        stream = find_stream(uri, live=live, frames=request.frames)
        if request.source is None and not live:
            stream = replace(stream, name="orange-line (synthetic)")
        plan = Plan(
            cases=cases,
            paths=case_paths(cases, request.path, said),
            pictures=Pictures((), ()),
            scenario=request.scenario,
            fps=stream.fps or None,
            stream=stream.plan(request.spec),
            scope="full",
            blocks=request.blocks or _BLOCKS,
            block_s=request.block_s or (_LIVE_S if live else 0.5),
            threads=request.threads,
            command=("jetlens", *(stream.name if word == uri else word.replace(uri, stream.name) for word in sys.argv[1:])),
        )
        run = measure(plan, save=save, said=said)
    if as_json:
        _print_json(run)
    else:
        show_streams(run, wide_console())
    _conclude(run, request.target_fps, as_json)
    return run


def _own_video(spec: ModelSpec, stack: ExitStack, said: Callable[[str], None]) -> str:
    if not is_orange_line_model(spec):
        raise UsageError(f"{spec.name} has no video of its own: give --video FILE")
    said("encodes the synthetic conveyor, 90 frames of 512x512")
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="jetlens-video-")))
    return str(stack.enter_context(orange_video(folder)))


def show_streams(run: Run, console: Console) -> None:
    """Prints a run of streams for people."""
    stream = run.stream
    height, width = stream["size_hw"]
    frames = f", {stream['frames']} frames" if stream["frames"] else ""
    about = "a camera" if stream["live"] else "a video"
    model = ", ".join(sorted({row.case.model for row in run.measurements}))
    turns = max(row.planned for row in run.measurements)
    title = (
        f"\n{model}: {about} of {width}x{height} at {stream['fps']:g} frames a second{frames} ({stream['name']}), {turns} turns of each row"
    )
    console.print(Text(printable(title, keep="\n"), style="bold"), soft_wrap=True)
    heads = ("task", "stream", "network", "runtime", "GPU TFLOPS", "precision", "mode", "average FPS", "turns", "p50 ms", "p99 ms")
    reasons: dict[str, int] = {}
    rows = [_cells(run, row, reasons) for row in run.measurements]
    for part in fitted((*heads, "busiest", "RSS MiB"), rows, console.width, _SPARE):
        console.print(part)
    for reason, place in reasons.items():
        console.print(Text(printable(f"({place}) {reason}")), soft_wrap=True)
    for line in _notes(run):
        console.print(Text(printable(line)), soft_wrap=True)


def _cells(run: Run, row: Measurement, reasons: dict[str, int]) -> list[str]:
    case, facts, found = row.case, row.facts, stream_figures(run, row)
    size, network = run.stream["size_hw"], run.stream["network_hw"]
    provider = f" {facts.provider}".replace("ExecutionProvider", "") if facts and case.mode != "deepstream" else ""
    head = [
        run.stream["task"],
        f"{size[1]}x{size[0]}",
        f"{network[1]}x{network[0]}",
        f"{_RUNTIMES.get(case.backend, case.backend)}{provider}",
        "n/a" if found is None or found.tflops is None else f"{found.tflops:.4g}",
        row.precision or "-",
        MODES[case.mode] if case.mode else "-",
    ]
    if found is None:
        reason = row.refused or "it was not reached"
        return [*head, f"cannot run ({reasons.setdefault(reason, len(reasons) + 1)})", *["-"] * 5]
    complete = "" if row.complete else f" ({len(row.blocks)} of {row.planned} turns)"
    return [
        *head,
        f"{found.fps:.1f}{complete}",
        f"{found.lowest_fps:.1f}-{found.highest_fps:.1f}",
        number(found.p50_ms, "{:.1f}"),
        number(found.p99_ms, "{:.1f}"),
        "n/a" if found.busiest is None else f"{found.busiest[0]} {found.busiest[1]:.0%}",
        number(row.memory.peak, "{:.0f}"),
    ]


def _notes(run: Run) -> list[str]:
    """What a reader must know before believing the table."""
    lines = [
        "average FPS: frames over wall time, with reading, drawing and encoding; turns: the slowest and the fastest turn; "
        "ms: the age of a frame from its being read to its being encoded; busiest: the stage's work over wall time, above 100% where it has several threads"
    ]
    gpu = run.stream.get("gpu") or {}
    if gpu:
        lines.append(
            f"GPU TFLOPS on paper: {gpu['cores']} cores of {gpu['name']} at {gpu['highest_mhz']:.0f} MHz, two operations a cycle; tensor cores not counted"
        )
    if run.stream["live"]:
        lines.append(f"the camera gives {run.stream['fps']:g} frames a second, and no mode can answer more")
        shares = [(row.case.title, found.dropped) for row in run.measurements if (found := stream_figures(run, row))]
        lines += [f"{title}: {share:.1%} of the frames dropped for newer ones" for title, share in shares if share > 0.005]
    if not run.complete:
        done, planned = run.counts
        lines.append(f"INCOMPLETE: {done} of {planned} turns ran ({run.ended or 'not ended'})")
    return lines


def _print_json(run: Run) -> None:
    for row in run.measurements:
        found = stream_figures(run, row)
        head = {"case": row.case.title, "backend": row.case.backend, "mode": row.case.mode, "model": row.case.model}
        head |= {
            "precision": row.precision,
            "provider": row.facts.provider if row.facts else None,
        }
        about = {name: run.stream[name] for name in ("task", "size_hw", "network_hw", "name")}
        body = {"cannot_run": row.refused or "it was not reached"} if found is None else found.to_dict()
        typer.echo(json.dumps({**head, **about, "complete": row.complete, **body, "peak_rss_mib": row.memory.peak}))


def _conclude(run: Run, target_fps: float | None, as_json: bool) -> None:
    found = {row.case.title: figures for row in run.measurements if (figures := stream_figures(run, row))}
    if not found:
        first = run.measurements[0]
        raise BackendError(f"{first.case.title}: {first.refused or 'it was not reached'}")
    if target_fps is None:
        return
    title, best = max(found.items(), key=lambda pair: pair[1].fps)
    # A camera of 30 frames a second answers a few hundredths less over a short turn.
    passed = best.fps >= (0.99 if run.stream["live"] else 1.0) * target_fps
    limit = "" if best.busiest is None else f", busiest stage {best.busiest[0]}: {best.busiest[1]:.0%} of the time"
    line = f"{target_fps:g} fps: {'YES' if passed else 'NO'}, {title} gives {best.fps:.1f}{limit}"
    typer.echo(json.dumps({"verdict": passed, "why": line}) if as_json else line)
    if not passed:
        raise GateError(f"the target of {target_fps:g} fps is missed")


def scenario_of(text: str, video: str | None, camera: str | None, modes: str | None) -> Scenario | None:
    """The stream's scenario that a text names, ``camera`` with an address too; None for a scenario of calls.

    Raises:
        UsageError: a flag of streams goes with another scenario.
    """
    named = {"video": "video", "live": "live", **({"camera": "live"} if camera is not None else {})}.get(text)
    needs = {"--video": ("video", video), "--camera": ("live", camera)}
    for flag, (scenario, value) in needs.items():
        if value is not None and named != scenario:
            raise UsageError(f"{flag} goes with --scenario {scenario}, not with {text}")
    if modes is not None and named is None:
        raise UsageError(f"--modes goes with --scenario video or live, not with {text}")
    return cast("Scenario | None", named)
