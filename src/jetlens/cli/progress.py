"""How far a command is: a bar that counts pictures, and StreamProgress, a bar on a terminal and lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["StreamProgress", "counting_bar"]

_LINE_EVERY_S: Final = 5.0
_REFRESH_EVERY_S: Final = 0.1


@contextmanager
def counting_bar(what: str, total: int | None = None, *, quiet: bool) -> Iterator[Callable[..., None]]:
    """A bar on a terminal; the function that it gives takes how many are done and, where that was not known, of how many."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda done, of=None: progress.update(bar, completed=done, total=of)


class StreamProgress:
    """Counts frames on stderr; a context manager.

    Args:
        name: of the stream.
        total: how many frames it promises, None where it does not say.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._start_s = self._shown_s = time.monotonic()
        self.done = 0

    def __enter__(self) -> StreamProgress:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            # Refreshed by advance(): a thread of its own would take turns with the stages.
            self._progress = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
            self._task = self._progress.add_task(escape(self._name), total=self._total, rate="")
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self) -> None:
        """One frame more is done."""
        self.done += 1
        now_s = time.monotonic()
        if now_s - self._shown_s < (_LINE_EVERY_S if self._progress is None else _REFRESH_EVERY_S):
            return
        self._shown_s = now_s
        rate = f"{self.done / (now_s - self._start_s):.1f} FPS"
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, rate=rate, refresh=True)
        else:
            of = f" of {self._total}" if self._total else ""
            print(f"{self._name}: {self.done}{of} frames, {rate}", file=sys.stderr, flush=True)
