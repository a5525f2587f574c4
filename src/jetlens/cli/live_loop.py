"""LiveLoop: the main thread of a live command: signals, the status on the terminal, the window, and a timely end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from jetlens.errors import BackendError, InputError, escaped, one_line
from jetlens.pipeline.adaptive import Policy, RateHolder, ThrottlingWatch, ladder
from jetlens.pipeline.following import EventSink, Follower, StreamStates
from jetlens.pipeline.live import LivePipeline
from jetlens.pipeline.outputs import Outputs
from jetlens.pipeline.status import LiveStatus, StreamStatus
from jetlens.pipeline.window import Window
from jetlens.predictor import Predictor

__all__ = ["LiveLoop", "StopSignals", "status_line"]

STATUS_EVERY_S: Final = 1.0
LINE_EVERY_S: Final = 5.0
OPEN_S: Final = 10.0
"""Cameras that cannot be opened for so long from the start are taken to be named wrong; one that gave a picture is waited for without end."""
DRAIN_S: Final = 1.0
"""How long the frames after the model may take to their sinks once the end was asked for."""


class StopSignals:
    """Ctrl-C and SIGTERM as a question that the loop asks; before it runs, both end the command at once. A context manager."""

    def __init__(self) -> None:
        self.received = 0
        self.waiting = threading.Event()
        self._looping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def loop(self) -> None:
        """From now on a signal is kept for the loop."""
        self._looping = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._looping:
            raise KeyboardInterrupt
        if self.received:  # asked twice: files are closed, nothing else is waited for
            self.waiting.set()
        self.received = number


def status_line(status: LiveStatus) -> str:
    """All streams in one line."""
    return "  |  ".join(_stream_line(stream) for stream in status.streams)


def _stream_line(stream: StreamStatus) -> str:
    age = "" if stream.age_p99_ms is None else f", age p50 {stream.age_p50_ms:.0f} p99 {stream.age_p99_ms:.0f} ms"
    dropped = ", ".join(f"{count} {reason}" for reason, count in stream.dropped.items())
    corrupt = f", {stream.corrupt} corrupt" if stream.corrupt else ""
    doing = stream.why or ("rendering its pictures" if stream.state == "opening" and stream.name.startswith("test://") else "")
    why = f" ({doing})" if doing and stream.state not in ("running", "ended") else ""
    return f"{stream.name}: {stream.state}{why} {stream.fps:.1f} FPS{age}" + (f", dropped {dropped}" if dropped else "") + corrupt


class LiveLoop:
    """Runs a pipeline to its end or until it is told to stop.

    Args:
        quiet: JSON stands on stdout, so lines for people go to stderr.
    """

    def __init__(
        self,
        pipeline: LivePipeline,
        outputs: Outputs,
        signals: StopSignals,
        *,
        quiet: bool = False,
        event_sinks: Sequence[EventSink] = (),
        followers: Sequence[Follower] = (),
    ) -> None:
        self._pipeline, self._outputs, self._signals = pipeline, outputs, signals
        self._stream = sys.stderr if quiet else sys.stdout
        self._followers = followers
        self._holder: RateHolder | None = None
        self._states = StreamStates(event_sinks, self.tell)
        self._status = pipeline.status()
        self._window: Window | None = None
        self._error: BaseException | None = None
        self._terminal = sys.stderr.isatty()
        self._shown_s = self._looked_s = -float("inf")
        self._cut_short = False

    def say(self, text: str) -> None:
        """Prints a line of the result."""
        self._clear()
        print(escaped(text), file=self._stream, flush=True)

    def tell(self, text: str) -> None:
        """Prints a line on how it goes."""
        self._clear()
        print(escaped(text), file=sys.stderr, flush=True)

    def open_window(self) -> None:
        """Shows the streams in windows."""
        self._window = Window(self._toggle_pause, Path.cwd(), self.say)
        self._pipeline.observers.append(self._window)

    def hold(self, fps: float, spare: Predictor | None, throttling: ThrottlingWatch) -> None:
        """Holds a rate of the cameras, by looking at fewer frames and then by the spare model."""
        levels = ladder(None if spare is None else spare.facts.precision)
        self._holder = RateHolder(Policy(levels), self._pipeline, fps, self.tell, throttling.now)
        self.say(f"holds {fps:g} FPS: {', then '.join(level.name for level in levels)}")

    def run(self, duration_s: float | None) -> int:
        """Runs; the exit code.

        Raises:
            JetlensError: the pipeline failed, or no source could be read.
        """
        thread = threading.Thread(target=self._work, name="jetlens-live", daemon=True)
        start_s = time.monotonic()
        self._signals.loop()
        thread.start()
        while thread.is_alive() and not self._signals.received:
            if duration_s is not None and time.monotonic() - start_s >= duration_s:
                break
            if self._window is None:
                thread.join(0.05)
            elif not self._window.poll():
                break
            self._show(time.monotonic())
            if time.monotonic() - start_s >= OPEN_S and self._silent():
                break
        self._finish(thread)
        return self._code()

    def _work(self) -> None:
        try:
            self._pipeline.run()
        except BaseException as error:
            self._error = error

    def _silent(self) -> bool:
        """Whether there are cameras alone, and each says why it never gave a picture."""
        return all(stream.live and not stream.captured and stream.why for stream in self._status.streams)

    def _finish(self, thread: threading.Thread) -> None:
        """Ends the pipeline and completes the files, in time even where the model or a source does not answer."""
        files = [stream for stream in self._pipeline.status().streams if not stream.live]
        self._cut_short = thread.is_alive() and any(stream.state != "ended" or stream.under_way for stream in files)
        self._pipeline.stop()
        end_s = time.monotonic() + DRAIN_S
        while thread.is_alive() and time.monotonic() < end_s and not self._signals.waiting.is_set():
            thread.join(0.02)
        if self._window is not None:
            self._window.close()
        try:
            self._outputs.close()
        finally:
            stuck = thread.is_alive()
            self._clear()
            self._report()
            if stuck:
                self.tell("the model or a source did not answer in time; what was under way is lost, the files are whole")
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(
                    128 + self._signals.received if self._signals.received else 1
                )  # a thread that never comes back would hold the interpreter's own end

    def _code(self) -> int:
        """0 for a run to the end or for cameras that were stopped; 128 and the signal where a file was cut short; 1 if a source failed or gave nothing."""
        if self._error is not None:
            raise self._error
        failures, streams = self._pipeline.failures, self._pipeline.status().streams
        if failures and len(streams) == 1:
            raise next(iter(failures.values()))
        if failures:
            for error in failures.values():
                self.tell(f"jetlens: {one_line(str(error))}")
            raise InputError(f"{len(failures)} of {len(streams)} sources failed, named above; the others are done")
        lost = {stream.name: lost for stream in streams if not stream.live and (lost := _lost(stream))}
        if lost:
            raise BackendError(f"the model failed: no answer for {', '.join(f'{count} frames of {name}' for name, count in lost.items())}")
        if not self._signals.received and not any(stream.captured for stream in streams):
            uptime_s = self._pipeline.status().uptime_s
            raise InputError(f"no picture came from {streams[0].name} within {uptime_s:.0f} s: {streams[0].why or 'it is silent'}")
        return 128 + self._signals.received if self._cut_short and self._signals.received else 0

    def _report(self) -> None:
        status = self._pipeline.status()
        for path in self._outputs.paths:
            self.say(f"-> {path}")
        if not self._signals.received and not any(stream.captured for stream in status.streams):
            return  # nothing to count: an error follows
        for note in self._outputs.notes:
            self.say(note)
        for stream, follower in zip(status.streams, self._followers, strict=False):
            for line in follower.summary():
                self.say(f"{stream.name}: {line}")
        busy = ", ".join(f"{name} {share:.0%}" for name, share in status.busy.items())
        batch = status.frames / status.batches if status.batches else 0.0
        self.say(f"stages busy: {busy}; {batch:.2f} frames a run; frames under way take at most {status.memory_mib:.0f} MiB")
        if status.note:
            self.say(status.note)
        if self._holder is not None:
            self.say(f"quality changed {status.changes} times to hold the rate")
        for stream in status.streams:
            self.say(_account(stream, status.uptime_s))

    def _show(self, now_s: float) -> None:
        """Looks at the pipeline once a second, and prints its line, seldom where no terminal writes over it."""
        if now_s - self._looked_s < STATUS_EVERY_S:
            return
        first, self._looked_s = self._looked_s == -float("inf"), now_s
        self._status = self._pipeline.status()
        self._states.update(self._status)
        if self._holder is not None:
            self._holder.update(self._status)
        if first:
            self._shown_s = now_s
        if first or (not self._terminal and now_s - self._shown_s < LINE_EVERY_S):
            return
        self._shown_s = now_s
        line = escaped(status_line(self._status))
        if self._terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _toggle_pause(self) -> None:
        if self._pipeline.paused:
            self._pipeline.resume()
        else:
            self._pipeline.pause()


def _lost(stream: StreamStatus) -> int:
    """Frames of a file that nobody's will kept from an answer."""
    return sum(count for reason, count in stream.dropped.items() if reason != "stopped")


def _account(stream: StreamStatus, wall_s: float) -> str:
    """What became of a stream's frames."""
    dropped = ", ".join(f"{count} dropped ({reason})" for reason, count in stream.dropped.items()) or "none dropped"
    under_way = f", {stream.under_way} lost under way" if stream.under_way else ""
    corrupt = f", {stream.corrupt} corrupt" if stream.corrupt else ""
    back = f", came back {stream.reconnects} times" if stream.reconnects else ""
    age = "" if stream.age_p99_ms is None else f"; age p50 {stream.age_p50_ms:.0f} ms, p99 {stream.age_p99_ms:.0f} ms"
    rate = stream.delivered / wall_s if wall_s > 0 else 0.0
    frames = "1 frame" if stream.captured == 1 else f"{stream.captured} frames"
    return (
        f"{stream.name}: {frames} captured = {stream.delivered} answered + {dropped}{under_way}{corrupt}{back}; "
        f"{rate:.1f} FPS in {wall_s:.1f} s{age}"
    )
