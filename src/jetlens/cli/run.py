"""`jetlens run`: a model on cameras, streams and files in real time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jetlens.cli import flags
from jetlens.cli.live_loop import LiveLoop, StopSignals
from jetlens.device.proc import read_memory
from jetlens.engines.options import BuildOptions
from jetlens.errors import OutputError, UsageError
from jetlens.media import Source, open_source
from jetlens.media.jsonlines import JsonLines
from jetlens.pipeline import Renderer
from jetlens.pipeline.adaptive import ThrottlingWatch, open_lower
from jetlens.pipeline.capture import is_live
from jetlens.pipeline.events import EventLog
from jetlens.pipeline.following import LEAST_CONFIDENCE, EventSink, Follower, points
from jetlens.pipeline.inference import gpu_lanes, usual_lanes
from jetlens.pipeline.live import LiveOptions, LivePipeline
from jetlens.pipeline.mqtt import Mqtt
from jetlens.pipeline.outputs import Outputs
from jetlens.pipeline.sender import Sender
from jetlens.pipeline.webhook import Webhook
from jetlens.predictor import Predictor, load
from jetlens.tasks.base import TaskOptions

__all__ = ["command"]

DEFAULT_MODEL = "orange-detect"
_SURE = 0.5
"""From which a box begins a track, if nothing else is said and the model does not ask for more."""
_TREMBLE = 0.015
"""Of the frame's height: how far boxes tremble; nearer to a line an object is on neither side of it."""


def command(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Camera (0, rtsp://, http://, csi://0), file, test://orange-line?live=1")
    ],
    output: Annotated[
        list[str] | None, typer.Option("--output", help="A video, a .jsonl file, a folder or rtsp://; may be given again.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="An .onnx file or a model's name.")] = DEFAULT_MODEL,
    backend: flags.BackendFlag = "auto",
    device: flags.DeviceFlag = "auto",
    precision: flags.PrecisionFlag = None,
    threads: flags.ThreadsFlag = None,
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Drop detections below it; the model's own if not given.")] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How much the colours of a segmentation cover.")] = 0.6,
    view: Annotated[int | None, typer.Option("--view", min=0, max=65535, help="Show all streams on a web page at this port.")] = None,
    view_host: Annotated[
        str, typer.Option("--view-host", help="Address of the page; others than this machine's own need a token.")
    ] = "127.0.0.1",
    view_token: Annotated[
        str | None, typer.Option("--view-token", envvar="JETLENS_TOKEN", help="What viewers of the page must know.")
    ] = None,
    window: Annotated[bool, typer.Option("--window/--headless", help="Show windows: q or Esc quits, p pauses, s saves.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a result.")] = False,
    track: Annotated[bool, typer.Option("--track", help="Give objects ids that stay from frame to frame.")] = False,
    line: Annotated[list[str] | None, typer.Option("--line", help="Count what crosses x,y,x,y (pixels); may be given again.")] = None,
    zone: Annotated[list[str] | None, typer.Option("--zone", help="Count what is in x,y,x,y,x,y (pixels); may be given again.")] = None,
    events: Annotated[Path | None, typer.Option("--events", help="Write crossings, zone changes and stalls to this .jsonl file.")] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", help="POST events to this address.")] = None,
    mqtt: Annotated[str | None, typer.Option("--mqtt", help="Publish events at mqtt://HOST/TOPIC or mqtts://.")] = None,
    max_batch: Annotated[int | None, typer.Option("--max-batch", min=1, help="Frames in one run; on a GPU one of each stream.")] = None,
    batch_wait: flags.BatchWaitFlag = 10.0,
    lanes: flags.LanesFlag = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Run the model in a process of its own, which is started anew when it dies.")
    ] = False,
    segment_seconds: Annotated[float | None, typer.Option("--segment-seconds", min=0.5, help="Begin a new video so often.")] = None,
    images: Annotated[bool, typer.Option("--images", help="Write frames into the folder as PNG files, not as video.")] = False,
    duration: Annotated[float | None, typer.Option("--duration", min=0.1, help="Stop after so many seconds.")] = None,
    hold_fps: Annotated[
        float | None, typer.Option("--hold-fps", min=1, help="Hold this rate of cameras, if need be by looking at fewer frames.")
    ] = None,
    target_fps: Annotated[
        float | None, typer.Option("--target-fps", min=0.1, help="Answer at most so many frames a second of a camera.")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=1, help="MiB that frames may take; half of what is free.")] = None,
) -> None:
    """Run a model on cameras and files at once, as fresh as this machine allows; Ctrl-C ends it and leaves whole files."""
    if images and not any(not Path(name).suffix for name in output or ()):
        raise UsageError("--images writes into a folder; name it: --output frames")
    if segment_seconds is not None and images:
        raise UsageError("--segment-seconds cuts videos; leave --images away")
    on, arithmetic = flags.device(device), flags.precision(precision)
    rules = _Rules(
        track or bool(line or zone),
        confidence,
        tuple(tuple(points(text, "--line", 2, 2)) for text in line or ()),
        tuple(tuple(points(text, "--zone", 3)) for text in zone or ()),
    )
    with StopSignals() as signals, ExitStack() as stack:
        senders = [stack.enter_context(kind(url)) for kind, url in ((Webhook, webhook), (Mqtt, mqtt)) if url is not None]
        opened = [stack.enter_context(open_source(text)) for text in sources]
        asked = LEAST_CONFIDENCE if confidence is None else confidence
        task_options = TaskOptions(min(asked, LEAST_CONFIDENCE) if rules.track else confidence)
        opening = partial(
            load, device=on, threads=threads, options=task_options, lanes=lanes or gpu_lanes(), build=BuildOptions(), isolate=isolate
        )
        predictor = stack.enter_context(opening(model, backend, precision=arithmetic))
        facts, spec = predictor.facts, predictor.spec
        screen = sys.stdout if as_json else None
        infos = [source.info for source in opened]
        outputs = Outputs(output or (), infos, facts, spec.task, segment_s=segment_seconds, images=images, screen=screen)
        sinks = [*_event_log(stack, events), *senders]
        stack.callback(outputs.close)
        cameras = sum(is_live(source) for source in opened)
        at_once = lanes or usual_lanes(predictor, threads, cameras, len(opened) - cameras)
        options = LiveOptions(max_batch, batch_wait / 1e3, at_once, target_fps, memory or _half_of_free_mib())
        spare = _spare(stack, opening, model, predictor, cameras) if hold_fps is not None else None
        followers = rules.followers(opened, predictor, sinks)
        pipeline = LivePipeline(
            opened,
            predictor,
            outputs.write,
            render=[Renderer(facts, alpha=alpha, lines=rules.lines, zones=rules.zones) for _ in opened],
            draws=outputs.draws,
            refine=followers or None,
            spare=spare,
            options=options,
        )
        loop = LiveLoop(pipeline, outputs, signals, quiet=as_json, event_sinks=sinks, followers=followers)
        loop.say(f"{spec.name}: {spec.task}, on {predictor.chosen}, {facts.provider} {facts.precision}, {facts.device}")
        if doubt := flags.guesses(spec, sources):
            loop.say(doubt)
        if hold_fps is not None:
            loop.hold(hold_fps, spare, stack.enter_context(ThrottlingWatch()))
        if view is not None:
            from jetlens.serve import LivePage

            page = stack.enter_context(LivePage(pipeline, view_host, view, view_token))
            pipeline.observers.append(page)
            page.start()
            loop.say(f"page: {page.url}")
        if window:
            loop.open_window()
        code = loop.run(duration)
        _say_decoders(loop, opened)
        _say_sent(loop, senders)
    raise SystemExit(code)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is to be followed in each stream."""

    track: bool
    confidence: float | None
    lines: tuple[tuple[tuple[float, float], ...], ...]
    zones: tuple[tuple[tuple[float, float], ...], ...]

    def followers(self, sources: list[Source], predictor: Predictor, sinks: list[EventSink]) -> list[Follower]:
        """One a stream; none where nothing is to be followed.

        Raises:
            UsageError: the model finds no objects.
        """
        if not self.track:
            return []
        if predictor.spec.task != "detection":
            raise UsageError(f"--track, --line and --zone follow objects; {predictor.spec.name} is for {predictor.spec.task}")
        confidence = max(_SURE, predictor.spec.confidence) if self.confidence is None else self.confidence
        follower = partial(Follower, confidence=confidence, lines=self.lines, zones=self.zones, sinks=sinks)
        return [follower(source.info.name, margin_px=_TREMBLE * source.info.size_hw[0]) for source in sources]


def _say_decoders(loop: LiveLoop, sources: list[Source]) -> None:
    """What made pixels of each stream; cameras know it only once they ran."""
    for info in (source.info for source in sources):
        if info.decoder and not info.name.startswith("test://"):
            loop.say(f"{info.name}: decoded by {info.decoder}")


def _spare(stack: ExitStack, opening: Callable[..., Predictor], model: str, predictor: Predictor, cameras: int) -> Predictor | None:
    """What can stand in for the model to hold the rate of cameras, where there is such a thing.

    Raises:
        UsageError: there is no camera.
    """
    if not cameras:
        raise UsageError("--hold-fps holds the rate of cameras; files wait for the model and have no rate of their own")
    spare = open_lower(model, predictor, lambda path, backend, precision: opening(path, backend, precision=precision))
    return None if spare is None else stack.enter_context(spare)


def _say_sent(loop: LiveLoop, senders: list[Sender]) -> None:
    """What became of the events, once those that wait had a second together."""
    end_s = time.monotonic() + 1
    for sender in senders:
        sender.close(max(0.0, end_s - time.monotonic()))
        loop.say(str(sender.status()))


def _event_log(stack: ExitStack, events: Path | None) -> list[EventSink]:
    """The file of events, where one is asked for."""
    if events is None:
        return []
    try:
        events.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(open(events, "w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it
    except OSError as error:
        raise OutputError(f"--events {events} cannot be written: {error.strerror}") from None
    return [EventLog(JsonLines(file))]


def _half_of_free_mib() -> float | None:
    """Half of the memory that is free now; None where the system does not say."""
    free_mib = read_memory().available_mib
    return None if free_mib is None else free_mib / 2
