"""`jetlens bench`: the speed of a model on backends and precisions, beside the proof that it is right."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import typer

from jetlens.backends.base import Precision
from jetlens.bench.cases import case_paths, installed_backends, make_cases, own_precision, reference_case
from jetlens.bench.checks import Checks, Labelled
from jetlens.bench.choose import choose
from jetlens.bench.figures import doubt, summary
from jetlens.bench.files import write_run
from jetlens.bench.inputs import find_pictures
from jetlens.bench.records import SCOPES, Case, Mode, Run, Scenario, Scope
from jetlens.bench.runner import Plan, measure
from jetlens.bench.sweep import sweep
from jetlens.bench.verdict import verdict
from jetlens.choice import write_choice
from jetlens.cli import flags
from jetlens.cli.bench_streams import StreamRequest, measure_streams, scenario_of
from jetlens.cli.bench_table import show
from jetlens.cli.terminal import tell, wide_console
from jetlens.data.samples import is_orange_line_model
from jetlens.errors import BackendError, GateError, JetlensError, MissingDependencyError, OutputError, UsageError
from jetlens.evaluate import ORANGE_LINE, dataset
from jetlens.graph import read_graph
from jetlens.predictor import model_path
from jetlens.spec import ModelSpec, read_model

__all__ = ["command"]

_PICTURES = 40
_TIMED = 16


def command(
    model: Annotated[str, typer.Argument(help="An .onnx file or a model's name.")],
    backends: Annotated[str | None, typer.Option("--backends", help="Comma-separated; all that are installed if not given.")] = None,
    precisions: Annotated[str | None, typer.Option("--precisions", help="fp32,bf16,fp16,int8; the model's own if not given.")] = None,
    devices: Annotated[str | None, typer.Option("--devices", help="cpu,cuda; where each backend runs if not given.")] = None,
    scenario: Annotated[
        str, typer.Option("--scenario", help="Calls: single, offline (batches), camera@FPS, multi (lanes). Streams: video, live.")
    ] = "single",
    video: Annotated[str | None, typer.Option("--video", help="For --scenario video; the synthetic conveyor for models of it.")] = None,
    camera: Annotated[
        str | None, typer.Option("--camera", help="For --scenario live: 0, csi://0, rtsp://...; a synthetic 1280x720.")
    ] = None,
    modes: Annotated[
        str | None, typer.Option("--modes", help="Of a stream: single (one thread), threads, deepstream; all if not given.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", help="answer (pixels to answer; the default), full (with decoding and drawing) or network.")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Pictures a call; several are compared: 1,8.")] = "1",
    lanes: Annotated[str, typer.Option("--lanes", help="Calls in flight; several are compared: 1,2,3.")] = "1",
    images: Annotated[Path | None, typer.Option("--images", help="A picture or a folder; the orange line for models of it.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Pictures to time, 16; frames of a video, all.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Labelled pictures for the accuracy gate: orange-line or a folder.")] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Labelled pictures to score; 0 for no accuracy.")] = _PICTURES,
    layout: Annotated[str | None, typer.Option("--layout", help="Of --data; told from the folder if not given.")] = None,
    budget: Annotated[float, typer.Option("--budget", min=0, help="Points of accuracy that a row may lose.")] = 1.0,
    target_fps: Annotated[float | None, typer.Option("--target-fps", help="Say whether it keeps up; exit code 3 if not.")] = None,
    target_p99: Annotated[float | None, typer.Option("--target-p99", help="Milliseconds that 99 of 100 calls must keep; 1000/fps.")] = None,
    chosen: Annotated[bool, typer.Option("--choose", help="Keep the best row beside the model, for the commands that run it.")] = False,
    limits: Annotated[str | None, typer.Option("--sweep", help="batch or size: find the largest that fits.")] = None,
    blocks: Annotated[int | None, typer.Option("--blocks", min=1, help="Turns of each case: 10, of streams 3.")] = None,
    block_seconds: Annotated[float | None, typer.Option("--block-seconds", min=0.01, help="Length of a turn: 0.5, of a camera 5.")] = None,
    threads: flags.ThreadsFlag = None,
    weights: flags.WeightsFlag = None,
    output: Annotated[Path | None, typer.Option("--output", help="Keep the raw values in this file, for compare and report.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
) -> None:
    """Measure a model on backends and precisions: every case in its own process, by turns, beside its deviation and accuracy."""
    _check_targets(target_fps, target_p99)
    if limits is not None and (chosen or target_fps is not None):
        raise UsageError("--sweep finds what fits; leave --choose and --target-fps to a measurement without it")
    said, save = _teller(as_json), _saver(output)
    stream = scenario_of(scenario, video, camera, modes)
    if stream is not None:
        calls = {"batch": batch != "1", "lanes": lanes != "1", "choose": chosen, "target-p99": target_p99, "sweep": limits}
        _refuse(scenario, {**calls, "scope": scope, "images": images, "data": data, "layout": layout, "devices": devices})
    path = model_path(model, weights)
    spec = read_model(path)[1]
    if stream is not None:
        asked = StreamRequest(
            model,
            path,
            spec,
            stream,
            camera if stream == "live" else video,
            None if backends is None else _words("--backends", backends),
            _precisions(path, precisions),
            list(get_args(Mode)) if modes is None else _words("--modes", modes),
            count,
            blocks,
            block_seconds,
            threads,
            target_fps,
        )
        measure_streams(asked, save, said, as_json)
        _point_to(output, as_json, "the frames' own times are in it")
        return
    cases = _cases(model, path, backends, precisions, devices, batch, lanes)
    kind, fps = _scenario(scenario, [case.batch for case in cases], [case.lanes for case in cases])
    chosen_pictures = find_pictures(spec, images, data, count or _TIMED, layout=layout)
    reference = reference_case(model, path)
    checks = Checks(spec, chosen_pictures.names, reference, budget / 100, *_accuracy(spec, data, images, 0 if limits else pictures, layout))
    _check_checks(checks, data, chosen, said)
    plan = Plan(
        cases=cases,
        paths=case_paths([*cases, *([reference] if reference else [])], path, said),
        pictures=chosen_pictures,
        scenario=kind,
        fps=fps,
        scope=cast(Scope, flags.one_of("--scope", scope or "answer", SCOPES)),
        blocks=blocks or 10,
        block_s=block_seconds or 0.5,
        threads=threads,
        checks=checks,
        command=("jetlens", *sys.argv[1:]),
    )
    if limits is not None:
        _sweep(plan, limits, spec, path, save, said, as_json)
        return
    run = measure(plan, save=save, said=said)
    _print(run, as_json)
    _point_to(output, as_json, _next(run, output))
    _conclude(run, path, target_fps, target_p99, plan.paths if chosen else None, as_json)


def _point_to(output: Path | None, as_json: bool, hint: str) -> None:
    if output is not None and not as_json:
        tell(f"raw values: {output}; {hint}")


def _next(run: Run, output: Path | None) -> str:
    """What to do with a record."""
    return "every row failed" if all(row.failed for row in run.measurements) else f"next: jetlens report {output} --output report.html"


def _refuse(scenario: str, flags_of_calls: Mapping[str, object]) -> None:
    given = next((name for name, value in flags_of_calls.items() if value), None)
    if given is not None:
        raise UsageError(f"--{given} goes with single calls, not with --scenario {scenario}")


def _precisions(path: Path, precisions: str | None) -> list[Precision | None]:
    return [own_precision(path)] if precisions is None else [flags.precision(word) for word in _words("--precisions", precisions)]


def _cases(
    model: str, path: Path, backends: str | None, precisions: str | None, devices: str | None, batch: str, lanes: str
) -> tuple[Case, ...]:
    names = installed_backends() if backends is None else _words("--backends", backends)
    if not names:
        raise BackendError("no backend is installed: pip install 'jetlens[cpu]', or see jetlens doctor")
    where = [flags.device(word) for word in _words("--devices", devices)] if devices else []
    return make_cases(
        model, names, _precisions(path, precisions), devices=where, batches=_numbers("--batch", batch), lanes=_numbers("--lanes", lanes)
    )


def _check_targets(fps: float | None, p99_ms: float | None) -> None:
    if p99_ms is not None and fps is None:
        raise UsageError("--target-p99 goes with --target-fps")
    for flag, value in (("--target-fps", fps), ("--target-p99", p99_ms)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag} {value:g}: give a number above 0")


def _words(flag: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{flag} {text!r}: give one or more, with commas between them")
    return words


def _numbers(flag: str, text: str) -> list[int]:
    words = _words(flag, text)
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"{flag} {text!r}: give whole numbers from 1, such as 1 or 1,8")
    return [int(word) for word in words]


def _scenario(text: str, batches: list[int], lanes: list[int]) -> tuple[Scenario, float | None]:
    """The scenario and a camera's rate; batches and lanes without a scenario that has them are wrong usage."""
    name, _, rate = text.partition("@")
    if name not in ("single", "offline", "camera", "multi") or (rate and name != "camera"):
        raise UsageError(f"--scenario {text!r}; allowed: single, offline, camera@30 (frames a second), multi; video, live")
    if name == "camera" and max(batches) > 1:
        raise UsageError("--scenario camera takes one picture a call; leave --batch away")
    if name in ("single", "camera") and max(lanes) > 1:
        raise UsageError(f"--lanes goes with --scenario multi or offline; {name} has one call in flight")
    if name != "camera":
        return cast(Scenario, name), None
    try:
        fps = float(rate or 30)
    except ValueError:
        fps = 0.0
    if not 0 < fps <= 100_000:
        raise UsageError(f"--scenario {text!r}: give frames a second, such as camera@30")
    return "camera", fps


def _check_checks(checks: Checks, data: str | None, chosen: bool, said: Callable[[str], None]) -> None:
    """Says what cannot be checked here before anything is loaded, and refuses what would be worth nothing without it."""
    if checks.unscored and (data or chosen or checks.case is None):
        raise MissingDependencyError(f"{checks.unscored}; --pictures 0 measures without accuracy")
    if chosen and checks.case is None and checks.labelled is None:
        raise BackendError(
            "--choose has nothing to check rows by: pip install 'jetlens[cpu]' for a reference, or give labelled pictures with --data"
        )
    if checks.unscored:
        said(f"accuracy not measured: {checks.unscored}")


def _accuracy(
    spec: ModelSpec, data: str | None, images: Path | None, pictures: int, layout: str | None
) -> tuple[Labelled | None, dict[str, float]]:
    """What is scored, and what the sidecar promises where it was measured on the same data."""
    chosen = data or (ORANGE_LINE if is_orange_line_model(spec) else None)
    if chosen is None or pictures == 0:
        return None, {}
    if images is not None:
        dataset(chosen, spec, pictures, layout=layout)  # opened for its faults, which were told late otherwise: nothing has read it yet
    same = spec.accuracy.get("data") == chosen
    recorded = {name: float(value) for name, value in spec.accuracy.items() if same and isinstance(value, float)}
    return Labelled(chosen, pictures, layout), recorded


def _saver(output: Path | None) -> Callable[[Run], None]:
    if output is None:
        return lambda run: None
    # Now rather than after the first turn: what cannot be kept need not be measured.
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; give a file in it, such as {output / 'run.json'}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output {output}: the folder {output.parent} cannot be made ({error.strerror}); choose another") from error
    return lambda run: write_run(output, run)


def _teller(as_json: bool) -> Callable[[str], None]:
    if as_json:
        return lambda message: None
    return lambda message: tell(f"jetlens: {message}")


def _print(run: Run, as_json: bool) -> None:
    if not as_json:
        show(run, wide_console())
        return
    for row in run.measurements:
        head: dict[str, Any] = {"case": row.case.title, "backend": row.case.backend, "model": row.case.model}
        head |= {
            "precision": row.precision,
            "provider": row.facts.provider if row.facts else None,
        }
        head |= {"input_sha256": row.input_sha256, "complete": row.complete}
        if row.refused:
            typer.echo(json.dumps({**head, "refused": row.refused}))
            continue
        head |= {"doubt": doubt(run, row), "unscored": run.unscored}
        proof = {"deviation": dict(row.deviation), "accuracy": dict(row.accuracy), "intervals": dict(row.intervals)}
        memory = {"peak_rss_mib": row.memory.peak, "device_mib": row.memory.device, "engine_mib": row.memory.engine}
        typer.echo(json.dumps({**head, **summary(run, row), **memory, **proof}))


def _conclude(
    run: Run, path: Path, fps: float | None, p99_ms: float | None, files: Mapping[Case, Path | JetlensError] | None, as_json: bool
) -> None:
    """The verdict, the choice and the exit code: 1 if nothing could run, 3 if no row passed its gates or the target is missed."""
    refused = [row for row in run.measurements if row.refused]
    if len(refused) == len(run.measurements):
        first = refused[0]
        kind = BackendError if all(row.failed for row in refused) else GateError
        raise kind(f"{first.case.title}: {first.refused}" + (f" (and {len(refused) - 1} more rows)" if len(refused) > 1 else ""))
    found = None if fps is None else verdict(run, fps, p99_ms)
    if found is not None:
        typer.echo(json.dumps({"verdict": found.passed, "why": found.line}) if as_json else found.line)
    if found is not None and not found.passed:
        raise GateError(f"the target of {fps:g} fps is missed")
    if files is not None:
        choice = choose(run, path, files, fps=fps, p99_ms=p99_ms)
        file = write_choice(path, choice)
        typer.echo(json.dumps({"choice": choice.why, "file": str(file)}) if as_json else f"chosen: {choice.why}\n-> {file}")


def _sweep(
    plan: Plan, limits: str, spec: ModelSpec, path: Path, save: Callable[[Run], None], said: Callable[[str], None], as_json: bool
) -> None:
    kind: Literal["batch", "size"] = flags.one_of("--sweep", limits, ("batch", "size"))
    tensor = read_graph(path.read_bytes(), str(path)).inputs[0]
    found = sweep(plan, kind, spec, tensor, said)
    save(found.run)
    _print(found.run, as_json)
    if not found.largest:
        raise BackendError(f"nothing fits: {found.run.measurements[0].failed}")
    typer.echo(json.dumps({"largest": found.largest}) if as_json else f"largest that fits: {found.largest}")
