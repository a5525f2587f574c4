"""The parent's side of a worker: starts it, asks it, and says how it died."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from jetlens.errors import BackendError

__all__ = ["WorkerProcess"]

_STOP_S = 2.0
_OPEN_S = 3700.0  # an hour for TensorRT's builder, and what it takes to say so
_READ_BYTES = 1 << 20


class WorkerProcess:
    """One case's process; asked for one thing at a time."""

    def __init__(self, *, timeout_s: float = 600.0, environment: dict[str, str] | None = None) -> None:
        """``timeout_s``: an answer that takes longer ends the process; opening may take as long as an engine's build."""
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._buffer = b""
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jetlens.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """One request and its answer.

        Raises:
            BackendError: the case failed, its process died or took too long; the message says which.
        """
        line = json.dumps({"do": do, "with": arguments}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            raise BackendError(self._death(do)) from None
        content = json.loads(self._line(do))
        if "error" in content:
            raise BackendError(content["error"])
        return content["answer"]

    def close(self) -> None:
        """Ends the process; twice is allowed."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what was left to send is no use to a process that ended
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._end()
            process.wait()
        self._errors.close()

    def kill(self) -> None:
        """Ends the process at once."""
        self._end()
        self.close()

    def _end(self) -> None:
        """Ends the process and what it started, which is of its session: DeepStream's pipeline would go on without it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _line(self, do: str) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        allowed_s = max(self._timeout_s, _OPEN_S) if do == "open" else self._timeout_s
        limit = time.monotonic() + allowed_s
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, limit - time.monotonic())):
                    self._end()
                    raise BackendError(f"no answer to {do} within {allowed_s:.0f} s, so its process was ended")
                part = os.read(stream.fileno(), _READ_BYTES)
                if not part:
                    raise BackendError(self._death(do))
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self, do: str) -> str:
        """How the process ended, with the last line that it wrote to stderr."""
        try:
            code = self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._end()
            code = self._process.wait()
        if code < 0:
            cause = "out of memory, or ended by hand" if -code == signal.SIGKILL else "a crash in the runtime"
            return f"its process died during {do}: {signal.Signals(-code).name} ({cause}){self._last_words()}"
        return f"its process ended during {do} with exit code {code}{self._last_words()}"

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"; last words: {lines[-1][:120]}" if lines else ""
