"""IsolatedSession: runs go to a worker process over shared memory; one that dies, hangs or fails is replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens import errors
from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.breaker import Breaker, RunFailedError
from jetlens.backends.checks import check_feed
from jetlens.backends.immediate import ImmediateLanes
from jetlens.backends.isolated.channel import Channel, Region, aligned_size
from jetlens.errors import BackendError, JetlensError
from jetlens.spec import TensorSpec

__all__ = ["IsolatedSession", "Limits", "open_isolated"]

_OPENER: Final = "jetlens.backends.choice:open_session"
_WATCH_S: Final = 0.05
_PLAIN_ERRORS: Final = ("MissingDependencyError", "ModelError", "BackendError", "UsageError")
"""What a worker that cannot open its model may raise here too: errors that are made of one message."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker counts as hung.

    Attributes:
        silent_s: without a sign of life, ten of which come in a second.
        run_s: one run.
        reopen_s: opening the model again; the first time may take what it takes, such as building an engine.
    """

    silent_s: float = 1.0
    run_s: float = 30.0
    reopen_s: float = 60.0


class _Worker:
    """One process, and what is known of its end."""

    def __init__(self, model: Region, size: int, backend: str, options: dict[str, Any], opener: str) -> None:
        beats = Region.make(8)
        self._beats = beats.array("int64", (1,))
        self.channel, end = Channel.pair()
        with end:
            self.process = _start(end.fileno())
        with contextlib.suppress(OSError):  # one that is dead already is seen as such
            opening = {"opener": opener, "backend": backend, "options": options, "size": size}
            self.channel.send(opening, [model.file, beats.file])
        beats.close()
        self.inputs: Region | None = None
        self.outputs: Region | None = None
        self.run_since_s: float | None = None
        self.cause = ""
        self.said = ""
        self._last = (time.monotonic(), -1)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One run; raises EOFError where the worker ends instead."""
        files: list[int] = []
        size = aligned_size(inputs)
        if self.inputs is None or self.inputs.size < size:
            self.inputs = Region.make(size)
            files.append(self.inputs.file)
        self.run_since_s = time.monotonic()
        rows = self.inputs.store({name: np.asarray(values) for name, values in inputs.items()})
        try:
            self.channel.send({"run": rows}, files)
            answer, received = self.channel.receive()
        except OSError:
            raise EOFError from None
        finally:
            if files:
                self.inputs.close()
        if received:
            self.outputs = Region(received[0])
            self.outputs.close()
        if "failed" in answer:
            self.said = answer["failed"]
            raise EOFError
        assert self.outputs is not None
        copied = {name: values.copy() for name, values in self.outputs.load(answer["done"]).items()}
        self.run_since_s = None
        return copied

    def trouble(self, limits: Limits) -> tuple[str, str]:
        """What is wrong with it, in two words and in more; empty texts where nothing is."""
        status = self.process.poll()
        if self.said:
            return "model failed", self.said
        if status is not None:
            return "worker died", f"its process was ended by {_ended_by(status)}"
        now_s, beats = time.monotonic(), int(self._beats[0])
        if beats != self._last[1]:
            self._last = (now_s, beats)
        silent_s = now_s - self._last[0]
        if silent_s > limits.silent_s:
            return "worker hung", f"its process gave no sign of life for {silent_s:.1f} s"
        since_s = self.run_since_s
        if since_s is not None and now_s - since_s > limits.run_s:
            return "worker hung", f"one run took longer than {limits.run_s:g} s"
        return "", ""

    def end(self, patience_s: float = 0.0) -> None:
        """Ends the process; at once, or after the time that it may take to go by itself."""
        self.channel.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if patience_s:
                self.process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class IsolatedSession(ImmediateLanes):
    """Any backend's session in a process of its own, which is started anew when it dies, hangs or fails.

    The run that this costs raises ``RunFailedError``; the next waits until the new process has opened the model. After the fifth failure
    within a minute every run raises ``BreakerOpenError``. Pictures and answers go through shared memory: a copy each.

    Args:
        opener: ``module:function`` that the worker calls with the model's bytes, the backend's name and the options.

    Raises:
        BackendError: the worker cannot be started, or what the backend raises on opening.
    """

    def __init__(
        self,
        model: bytes,
        backend: str,
        options: SessionOptions,
        *,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
        opener: str = _OPENER,
    ) -> None:
        if not hasattr(os, "memfd_create"):
            raise BackendError("isolated sessions need Linux; leave --isolate away")
        self._limits, self._breaker, self._opener = limits or Limits(), breaker or Breaker(), opener
        self._backend = backend
        self._options = {row.name: getattr(options, row.name) for row in fields(options) if row.name != "report"}
        self._options["build"] = asdict(options.build)
        self._report = options.report
        self._size = len(model)
        self._model = Region.make(self._size)
        self._model.array("uint8", (self._size,))[:] = np.frombuffer(model, np.uint8)
        self._changed = threading.Condition()
        self._one = threading.Lock()
        self._worker: _Worker | None = None
        self._error: JetlensError | None = None
        self._closed = False
        self.starts = 0
        self.chosen = ""
        self.facts: RunFacts
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        # One thread starts all workers, since the system ends a worker with the thread that started it.
        self._thread = threading.Thread(target=self._supervise, name="jetlens-isolate", daemon=True)
        self._thread.start()
        try:
            self._ready()
        except BaseException:
            self.close()
            raise

    @property
    def process(self) -> int | None:
        """The worker's process id; None while there is none."""
        worker = self._worker
        return worker.process.pid if worker is not None else None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs once and returns every output; the caller owns the arrays.

        Raises:
            RunFailedError: this run is lost; the next may succeed.
            BackendError: the inputs do not fit, the session is closed, or it failed too often.
        """
        check_feed(self.facts.backend, self.inputs, inputs)
        with self._one:
            worker = self._ready()
            try:
                return worker.run(inputs)
            except EOFError:
                pass
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: worker.cause or self._closed or self._error)
                if self._error is not None:
                    raise self._error
                raise RunFailedError(f"one run of the model failed: {worker.said or 'the session is closed'}", worker.cause or "closed")

    def close(self) -> None:
        """Ends the worker; closing twice is allowed."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._model.close()

    def __enter__(self) -> IsolatedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ready(self) -> _Worker:
        """Waits for a worker that has opened the model."""
        with self._changed:
            self._changed.wait_for(lambda: self._worker is not None or self._error is not None or self._closed)
            if self._error is not None:
                raise self._error
            if self._worker is None or self._closed:
                raise BackendError("the session is closed")
            return self._worker

    def _supervise(self) -> None:
        """Starts a worker, watches it, ends it, and begins again."""
        while not self._closed:
            try:
                worker = _Worker(self._model, self._size, self._backend, self._options, self._opener)
            except OSError as error:
                return self._fail(BackendError(f"the model's process cannot be started: {error.strerror}"))
            self.starts += 1
            try:
                opened = self._open(worker)
                while opened and not self._closed and not self._lost(worker):
                    with self._changed:
                        self._changed.wait(_WATCH_S)
            except JetlensError as error:
                self._fail(error)
            finally:
                self._worker = None
                worker.end(0.5 if self._closed else 0.0)
                with self._changed:
                    self._changed.notify_all()
            if self._error is not None:
                return None
        return None

    def _open(self, worker: _Worker) -> bool:
        """Waits until the worker has opened the model; whether it has.

        Raises:
            JetlensError: why it never will.
        """
        until_s = time.monotonic() + (self._limits.reopen_s if self.chosen else float("inf"))
        patient = replace(self._limits, silent_s=float("inf"))  # importing a runtime may stop all threads of a process for long
        while not self._closed:
            try:
                message, _ = worker.channel.receive(_WATCH_S)
            except TimeoutError:
                if time.monotonic() > until_s:
                    worker.said = f"its process took longer than {self._limits.reopen_s:g} s to open the model"
                    return not self._lost(worker)
                continue
            except (EOFError, OSError):
                worker.process.wait()
                if not self.chosen:
                    raise BackendError(
                        f"the model's process was ended by {_ended_by(worker.process.returncode)} while it opened the model"
                    ) from None
                return not self._lost(worker, patient)
            if "refused" in message:
                if self.chosen:
                    worker.said = message["short"]
                    return not self._lost(worker)
                raise _refusal(message)
            self._publish(worker, message)
            return True
        return False

    def _publish(self, worker: _Worker, message: dict[str, Any]) -> None:
        """From now on this worker takes runs."""
        with self._changed:
            if not self.chosen:
                self.chosen = f"{message['chosen']}, in a process of its own"
                facts = message["facts"]
                self.facts = RunFacts(**{**facts, "notes": tuple(facts["notes"])})
                self.inputs, self.outputs = (
                    tuple(TensorSpec(row["name"], row["dtype"], tuple(row["shape"])) for row in message[side])
                    for side in ("inputs", "outputs")
                )
            self._worker = worker
            self._changed.notify_all()

    def _lost(self, worker: _Worker, limits: Limits | None = None) -> bool:
        """Whether a worker can do no more; counts it then.

        Raises:
            BackendError: it was one too many.
        """
        cause, said = worker.trouble(limits or self._limits)
        if not cause:
            return False
        worker.said = said
        self._breaker.failed(said, cause)
        worker.cause = cause
        self._report(f"{self._backend}: {cause} ({said}); it is started anew")
        return True

    def _fail(self, error: JetlensError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def open_isolated(model: bytes, backend: str, options: SessionOptions) -> tuple[IsolatedSession, str]:
    """As ``jetlens.backends.choice.open_session``, in a process of its own.

    Raises:
        BackendError, ModelError, UsageError: as there, or the process cannot be started.
    """
    session = IsolatedSession(model, backend, options)
    return session, session.chosen


def _refusal(message: dict[str, Any]) -> JetlensError:
    """What the worker's backend raised, as far as that can be made of one message."""
    name = next((name for name in message["refused"] if name in _PLAIN_ERRORS), "")
    if not name:
        return BackendError(f"the model cannot be opened: {message['short']}")
    error: JetlensError = getattr(errors, name)(message["why"])
    return error


def _ended_by(status: int) -> str:
    if status >= 0:
        return f"itself, with status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _start(end: int) -> subprocess.Popen[bytes]:
    """A worker's process. Its group is its own: Ctrl-C in a terminal is for us; what it prints goes to stderr, as stdout is for results."""
    folders = os.pathsep.join(dict.fromkeys(str(path) for path in (Path(__file__).parents[3], *filter(None, sys.path))))
    return subprocess.Popen(
        [sys.executable, "-m", "jetlens.backends.isolated.worker", str(end), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=(end,),
        env={**os.environ, "PYTHONPATH": folders, "PYTHONSAFEPATH": "1"},
        start_new_session=True,
    )
