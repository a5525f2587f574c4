"""A child process that may crash, hang, flood its log or be killed, and never takes its parent with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Ended", "run_child"]

_TAIL = 64 << 10
_POLL_S = 0.1
_DRAIN_S = 1.0
_MOST_COPIED = 16 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; a signal as a negative number.
        timed_out: it was stopped because its time was over.
        tail: the end of all that it printed.
        printed: how many bytes that was in all.
    """

    status: int
    timed_out: bool
    tail: str
    printed: int

    @property
    def signal_name(self) -> str:
        """The signal that ended it, such as ``SIGSEGV``; empty where it ended by itself."""
        if self.status >= 0:
            return ""
        try:
            return signal.Signals(-self.status).name
        except ValueError:
            return f"signal {-self.status}"


class _Tail:
    """Reads a pipe to its end and keeps the last part of it."""

    def __init__(self, pipe: IO[bytes], copy: IO[bytes] | None) -> None:
        self._pipe = pipe
        self._copy = copy
        self._kept = b""
        self.printed = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(self._pipe.fileno(), 1 << 16):
                self.printed += len(part)
                self._kept = (self._kept + part)[-_TAIL:]
                if self._copy is not None and self.printed <= _MOST_COPIED:
                    self._copy.write(part)

    def end(self) -> str:
        """The kept text, once the pipe is empty or a stray holder of it has had his time."""
        self._thread.join(_DRAIN_S)
        return self._kept.decode("utf-8", "replace")


def run_child(
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str],
    deadline_s: float,
    poll: Callable[[float], None] = lambda elapsed_s: None,
    log: Path | None = None,
) -> Ended:
    """Runs a command in a folder and waits for it; it and all that it started are gone when this returns or raises.

    Args:
        deadline_s: reading of ``time.monotonic`` at which it is stopped.
        poll: is called ten times a second with the seconds since the start.
        log: gets what it prints, up to 16 MiB.

    Raises:
        OSError: it cannot be started.
    """
    start_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(open(log, "wb")) if log else None
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        stack.enter_context(process.stdout)
        tail = _Tail(process.stdout, copy)
        try:
            timed_out = _wait(process, start_s, deadline_s, poll)
        finally:
            _kill_group(process)
        return Ended(process.returncode, timed_out, tail.end(), tail.printed)


def _wait(process: subprocess.Popen[bytes], start_s: float, deadline_s: float, poll: Callable[[float], None]) -> bool:
    """Waits for the child or for the end of its time, and says whether it was the latter."""
    while process.poll() is None:
        if time.monotonic() >= deadline_s:
            return True
        poll(time.monotonic() - start_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills the child and its own children, which share its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
