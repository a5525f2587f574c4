"""The process of one case: reads a request a line, writes an answer a line, and ends when its parent does."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from jetlens.device.proc import process_memory
from jetlens.errors import BackendError, JetlensError

if TYPE_CHECKING:
    from jetlens.bench.streams import StreamWork
    from jetlens.bench.work import Work

__all__ = ["LocalWorker", "main"]


class LocalWorker:
    """Answers requests in the process that calls it; ``main`` puts it behind pipes.

    Every request is a method whose arguments and answer are plain JSON values.
    """

    def __init__(self) -> None:
        own = process_memory(os.getpid())
        self._before_mib = own.rss_mib if own else None
        self._work: Work | StreamWork | None = None

    def open(
        self,
        case: Mapping[str, Any],
        path: str,
        pictures: str,
        threads: int | None,
        fps: float | None,
        stream: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Loads the model and makes the first call.

        Args:
            pictures: a folder of files that are read in the order of their names.
            stream: see ``streams.StreamWork``; None for calls.
        """
        # Imported here, so that the memory before any runtime is known.
        from jetlens.bench.records import Case
        from jetlens.bench.streams import StreamWork
        from jetlens.bench.work import Work

        size = case["size_hw"]
        asked = Case(**{**case, "size_hw": tuple(size) if size else None})
        work: Work | StreamWork
        if stream is not None:
            work = StreamWork(asked, Path(path), stream, threads=threads)
        else:
            contents = [file.read_bytes() for file in sorted(Path(pictures).iterdir())]
            work = Work(asked, Path(path), contents, threads=threads, fps=fps)
        self._work = work
        facts = dataclasses.asdict(work.facts)
        return {
            "facts": facts,
            "model_sha256": work.model_sha256,
            "load_ms": work.load_ms,
            "first_ms": work.first_ms,
            "engine": work.engine,
        }

    def warm_up(self, scenario: str) -> dict[str, Any]:
        """Runs until the time of a call has settled."""
        return dataclasses.asdict(self._loaded.warm_up(scenario))

    def block(self, scenario: str, block_s: float) -> dict[str, Any]:
        """One turn."""
        return dataclasses.asdict(self._loaded.block(scenario, block_s))

    def outputs(self, file: str, taps: bool, gain: float) -> str:
        """Writes the raw outputs for every picture to a file; answers with the hash of the batch."""
        arrays, digest = self._calls.outputs(taps=taps, gain=gain)
        with open(file, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        return digest

    def score(self, data: str, count: int | None, layout: str | None, drawn: tuple[str, str] | None = None) -> list[Any]:
        """Metrics and their intervals on labelled pictures; ``drawn`` names the folder where they are kept already, and their hash."""
        return list(self._calls.score(data, count, layout, drawn))

    def drawings(self, count: int) -> list[Any]:
        """The predictions of the first pictures, and these drawn in."""
        return list(self._loaded.drawings(count))

    def memory(self) -> dict[str, Any]:
        """What this process takes."""
        return dataclasses.asdict(self._loaded.memory(self._before_mib))

    def close(self) -> None:
        """Frees the model; twice is allowed."""
        if self._work is not None:
            self._work.close()
            self._work = None

    @property
    def _calls(self) -> Work:
        from jetlens.bench.work import Work

        work = self._loaded
        assert isinstance(work, Work)
        return work

    @property
    def _loaded(self) -> Work | StreamWork:
        if self._work is None:
            raise BackendError("the bench's worker was asked to run before a model was opened")
        return self._work


REQUESTS = ("open", "warm_up", "block", "outputs", "score", "drawings", "memory")


def main() -> None:
    """Serves requests from stdin until it ends; what libraries print goes to stderr."""
    # Ctrl-C is the parent's to handle: it stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _offer_to_oom_killer()
    worker = LocalWorker()
    for line in sys.stdin:
        request = json.loads(line)
        _answer(answers, getattr(worker, request["do"]) if request["do"] in REQUESTS else _unknown, request["with"])
    worker.close()


def _offer_to_oom_killer() -> None:
    """When memory runs out the kernel should end this process, whose death is a row, and no other; absent elsewhere than on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(answers: TextIO, run: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    try:
        content = {"answer": run(**arguments)}
    except JetlensError as error:
        content = {"error": str(error)}
    except MemoryError:
        content = {"error": "out of memory: give a smaller batch or input"}
    except Exception as error:  # a runtime's own class; the row must say it and the other cases go on
        content = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(content, default=float) + "\n")
    answers.flush()


def _unknown(**_: Any) -> None:
    raise BackendError(f"the bench's worker knows {', '.join(REQUESTS)}")


if __name__ == "__main__":
    main()
