"""Two Pythons that take turns: a driver tells workers what to do in JSON lines over pipes, one request and one answer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Worker", "WorkerError", "serve"]

HERE = Path(__file__).resolve().parent


class WorkerError(Exception):
    """What a worker was told to do failed; the text is its error."""


class Worker:
    """A process of another Python; its standard error goes to a log file."""

    def __init__(self, command: list[str], script: str, log: Path, cores: str = "") -> None:
        taskset = ["taskset", "-c", cores] if cores else []
        # Workers must not hash differently from run to run, and must say what they do at once.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*taskset, *command, str(HERE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )

    def do(self, what: str, **arguments: Any) -> Any:
        """Sends a request and waits for its answer.

        Raises:
            WorkerError: it failed there, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise WorkerError(f"the worker ended with {self._process.wait()} at {what}; see {self.log}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["ok"]

    def close(self) -> None:
        """Ends the process; closing twice is allowed."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answers requests on standard input until it ends; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        began = time.perf_counter()
        try:
            answer: dict[str, Any] = {"ok": commands[what](**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
        print(f"{what} {str(request)[:200]}: {time.perf_counter() - began:.2f} s", file=sys.stderr, flush=True)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
