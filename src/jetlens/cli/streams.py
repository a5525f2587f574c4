"""`jetlens streams`: how many cameras this machine holds in real time with a model."""

from __future__ import annotations

import json
import sys
from typing import Annotated, TextIO

import typer

from jetlens.cli import flags
from jetlens.errors import GateError
from jetlens.pipeline.inference import gpu_lanes, usual_lanes
from jetlens.pipeline.live import LiveOptions
from jetlens.pipeline.streams import WARM_S, Trial, measure, search, trials_at_most
from jetlens.predictor import load

__all__ = ["command"]


def command(
    model: Annotated[str, typer.Option("--model", help="An .onnx file or a model's name.")] = "orange-detect",
    fps: Annotated[float, typer.Option("--fps", min=0.5, max=1000, help="Frames a second of each camera.")] = 30.0,
    size: Annotated[str, typer.Option("--size", help="Height x width of the cameras' pictures.")] = "360x640",
    backend: flags.BackendFlag = "auto",
    device: flags.DeviceFlag = "auto",
    precision: flags.PrecisionFlag = None,
    threads: flags.ThreadsFlag = None,
    max_batch: Annotated[int | None, typer.Option("--max-batch", min=1, help="Frames in one run; on a GPU one of each camera.")] = None,
    batch_wait: flags.BatchWaitFlag = 10.0,
    lanes: flags.LanesFlag = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="Of each trial, after one second of warming up.")] = 4.0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=256, help="Try no more cameras.")] = 64,
    least: Annotated[int, typer.Option("--least", min=0, help="Exit with 3 if fewer are held.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Find how many cameras this machine answers in real time without losing a frame, and what limits it.

    The cameras are synthetic and cost a copy a frame: decoding and drawing come on top.
    """
    size_hw = flags.size_hw(size)
    on, arithmetic = flags.device(device), flags.precision(precision)
    stream = sys.stderr if as_json else sys.stdout
    with load(model, backend, on, precision=arithmetic, threads=threads, lanes=lanes or gpu_lanes()) as predictor:
        facts = predictor.facts
        print(f"{predictor.spec.name}: {facts.backend}, {facts.provider} {facts.precision}, {facts.device}", file=stream)
        most_s = trials_at_most(limit) * (seconds + WARM_S + 0.5)
        print(
            f"trials of {seconds:g} s with cameras of {size_hw[1]}x{size_hw[0]} at {fps:g} frames a second; {most_s:.0f} s at most",
            file=stream,
        )

        def trial(cameras: int) -> Trial:
            options = LiveOptions(max_batch, batch_wait / 1e3, lanes or usual_lanes(predictor, threads, cameras, 0))
            return measure(predictor, cameras, fps, size_hw, seconds, options)

        found = search(trial, limit, lambda one: _show(one, stream))
    if as_json:
        print(json.dumps({"model": predictor.spec.name, "fps": fps, "size_hw": list(size_hw), "backend": facts.backend, **found.to_dict()}))
    else:
        print(f"holds {found.cameras} cameras at {fps:g} frames a second; found in {found.seconds:.0f} s")
        print(f"limit: {found.limit}")
    if found.cameras < least:
        raise GateError(f"{found.cameras} cameras are held, and --least asks for {least}: {found.limit}")


def _show(trial: Trial, stream: TextIO) -> None:
    busy = ", ".join(f"{name} {share:.0%}" for name, share in trial.busy.items())
    verdict = "held" if trial.held else f"not held, {trial.dropped} frames dropped"
    print(
        f"{trial.cameras} cameras: {verdict}; {trial.least_fps:.1f} FPS at least, age p99 {trial.age_p99_ms:.0f} ms; busy: {busy}; "
        f"processor {trial.cpu_share:.0%}",
        file=stream,
        flush=True,
    )
