"""build: a TensorRT plan from an ONNX graph, made in a child process that may die without harm."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jetlens.engines.api import MODULE, out_of_memory
from jetlens.engines.child import Ended, run_child
from jetlens.engines.job import Answer, Job, read_answer, read_progress, write_job
from jetlens.engines.lock import try_locked
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import PlanFacts
from jetlens.engines.timings import earlier_build_s, record_build_s
from jetlens.errors import BackendError, ModelError

__all__ = ["Worker", "build"]

_RETRIES = 2
_HEARTBEAT_S = 10.0
_PREFIX = "jetlens-build-"
_STALE_S = 60.0
_LAST_WORDS = 120
_CAUSE_TAIL = 4 << 10


@dataclass(frozen=True, slots=True)
class Worker:
    """How the child is started; tests put others in its place.

    Attributes:
        command: gets the folder of the job as its last argument.
        module: the TensorRT module.
        capability: GPU generation to build for, such as ``SM89``, with a module that builds ahead of time.
        heartbeat_s: seconds between two lines of progress.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "jetlens.engines.worker")
    module: str = MODULE
    capability: str = ""
    heartbeat_s: float = _HEARTBEAT_S


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no plan.

    Attributes:
        error: what is raised if it is not tried again.
        memory: less workspace may help.
    """

    error: ModelError | BackendError
    memory: bool = False


def build(
    model: bytes,
    options: BuildOptions,
    *,
    name: str,
    timing_cache: Path | None,
    report: Callable[[str], None],
    worker: Worker = Worker(),
) -> tuple[bytes, PlanFacts]:
    """Builds a plan; what runs out of memory is tried again with a half and then a quarter of the workspace.

    Args:
        name: how messages call the model.
        timing_cache: the file of measured layer times, for this GPU and TensorRT alone; None for none.
        report: is called with a line at the start and then every few seconds.

    Raises:
        ModelError: TensorRT cannot build the graph; the message names nodes, operators or axes.
        BackendError: TensorRT is missing, memory ran out also with a smaller workspace, the builder crashed or took too long,
            or the engine is not in the precision that the graph asks for.
    """
    start_s = time.monotonic()
    folder = timing_cache.parent if timing_cache else None
    expected_s = earlier_build_s(folder, model, options)
    notes: list[str] = []
    workspace_mib = options.workspace_mib
    cache = os.path.abspath(timing_cache) if timing_cache else ""
    while True:
        job = Job(name, replace(options, workspace_mib=workspace_mib), worker.module, worker.capability, cache, os.getpid())
        outcome = _attempt(model, job, worker, start_s, expected_s, report)
        if not isinstance(outcome, _Failure):
            plan, facts = outcome
            record_build_s(folder, model, options, facts.build_s)
            return plan, replace(facts, workspace_mib=workspace_mib, notes=(*notes, *facts.notes))
        if not outcome.memory or len(notes) == _RETRIES or workspace_mib == 1:
            raise outcome.error
        notes.append(f"ran out of memory with {workspace_mib} MiB of workspace")
        workspace_mib //= 2
        report(f"{name}: {notes[-1]}; trying {workspace_mib} MiB")


def _attempt(
    model: bytes, job: Job, worker: Worker, start_s: float, expected_s: float | None, report: Callable[[str], None]
) -> tuple[bytes, PlanFacts] | _Failure:
    """One child: its plan and facts, or why there are none."""
    with _scratch() as folder:
        try:
            write_job(folder, job, model)
        except OSError as error:
            return _Failure(BackendError(f"{folder}: cannot be written ({error.strerror}); free space, or set TMPDIR to another folder"))
        beat = _Heartbeat(job.name, folder, worker.heartbeat_s, start_s, expected_s, report)
        try:
            ended = run_child(
                (*worker.command, str(folder)), folder, environment=_environment(), deadline_s=start_s + job.options.timeout_s, poll=beat
            )
        except OSError as error:
            return _Failure(BackendError(f"the builder cannot be started ({error.strerror}): {worker.command[0]}"))
        answer = read_answer(folder) if ended.status == 0 else _told(read_answer(folder))
        if answer is not None and answer.facts is not None:
            return answer.plan, answer.facts
        return _failure(job, ended, answer, read_progress(folder))


def _told(answer: Answer | None) -> Answer | None:
    """The answer of a child that did not end well: its reason counts, a plan does not."""
    return None if answer is None or answer.kind == "built" else answer


class _Heartbeat:
    """Says every few seconds that the builder lives, where it is and how long the last build took."""

    def __init__(
        self, name: str, folder: Path, every_s: float, start_s: float, expected_s: float | None, report: Callable[[str], None]
    ) -> None:
        self._name, self._folder, self._every_s, self._start_s, self._report = name, folder, every_s, start_s, report
        self._expected = f", the last build took {expected_s:.0f} s" if expected_s is not None else ""
        self._next_s = every_s
        report(f"building a TensorRT engine of {name}{self._expected or '; minutes are usual'}")

    def __call__(self, elapsed_s: float) -> None:
        if elapsed_s < self._next_s:
            return
        self._next_s = elapsed_s + self._every_s
        phase = read_progress(self._folder)
        since_s = time.monotonic() - self._start_s
        self._report(f"building {self._name}: {since_s:.0f} s{self._expected}{f' ({phase})' if phase else ''}")


def _failure(job: Job, ended: Ended, answer: Answer | None, phase: str) -> _Failure:
    """Names the cause: what the child says of itself, else how it ended and what it last printed."""
    words = _last_words(ended.tail)
    where = f" while {phase}" if phase else ""
    if ended.timed_out:
        return _Failure(
            BackendError(
                f"building {job.name} did not end within {job.options.timeout_s:g} s{where} and was stopped; "
                "give more time (--timeout) or a lower --optimization-level"
            )
        )
    if answer is not None and answer.kind == "model":
        return _Failure(ModelError(answer.text))
    if answer is not None and answer.kind == "backend":
        return _Failure(BackendError(answer.text))
    if answer is not None and answer.kind == "memory":
        return _out_of_memory(job, answer.text or "MemoryError")
    if ended.signal_name == "SIGKILL":
        return _out_of_memory(job, "killed with SIGKILL, as the kernel does")
    if ended.status and out_of_memory(ended.tail[-_CAUSE_TAIL:]):
        return _out_of_memory(job, ", ".join(filter(None, (words, ended.signal_name))))
    said = f"; its last words: {words}" if words else ""
    if ended.signal_name:
        return _Failure(BackendError(f"TensorRT's builder crashed on {job.name} ({ended.signal_name}){where}{said}"))
    return _Failure(BackendError(f"TensorRT's builder ended on {job.name} with status {ended.status} and no usable engine{where}{said}"))


def _out_of_memory(job: Job, how: str) -> _Failure:
    return _Failure(
        BackendError(
            f"building {job.name} ran out of memory ({how[:_LAST_WORDS]}), last with {job.options.workspace_mib} MiB of workspace; "
            "close other programs, add swap, or give a smaller --workspace, --batch or --optimization-level"
        ),
        memory=True,
    )


def _last_words(tail: str) -> str:
    """The last of TensorRT's errors in a log, else its last line."""
    lines = [line for text in tail.splitlines() if (line := "".join(c for c in " ".join(text.split()) if c.isprintable()))]
    errors = [line for line in lines if line.startswith("TensorRT: ")]
    return (errors or lines or [""])[-1][:_LAST_WORDS]


def _environment() -> dict[str, str]:
    """The parent's environment, in which the child finds the same jetlens and the same packages."""
    paths = [str(Path(__file__).resolve().parents[2]), *(os.path.abspath(path) for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that only this process and its child know; those of processes that were killed are removed on the way."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as text, try_locked(Path(text) / "lock"):
        yield Path(text)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = folder.lstat()
            if facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < _STALE_S:
                continue
            with try_locked(folder / "lock") as had:
                if had:
                    shutil.rmtree(folder, ignore_errors=True)
