"""The history of a run: JSON and CSV after every validation, TensorBoard where asked."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jetlens.atomic import write_atomic
from jetlens.registry import require
from jetlens.train.config import Progress

__all__ = ["Board", "Pace", "write_history"]


def write_history(rows: Sequence[dict[str, Any]], json_file: Path, csv_file: Path) -> None:
    """The rows as one JSON list and as one table; metrics are columns of their own there."""
    write_atomic(json_file, json.dumps(list(rows), indent=1).encode())
    flat = [{**{key: value for key, value in row.items() if key != "metrics"}, **(row["metrics"] or {})} for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_atomic(csv_file, text.getvalue().encode())


class Board:
    """TensorBoard's event files in the run's folder, or nothing; a context manager."""

    def __init__(self, folder: Path, wanted: bool, step: int) -> None:
        """``step``: where the run goes on; what an earlier process wrote from there on is dropped."""
        self._writer: Any = None
        if wanted:
            require("tensorboard", extra="tensorboard", why="--tensorboard")
            module = require("torch.utils.tensorboard", extra="tensorboard", why="--tensorboard")
            self._writer = module.SummaryWriter(str(folder), purge_step=step or None)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, event: Progress) -> None:
        """Loss, learning rate and speed, and the metrics after a validation."""
        if self._writer is None or event.note:
            return
        values = {"loss": event.loss, "lr": event.lr, "images_per_s": event.images_per_s}
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, event.step)
        for name, value in (event.metrics or {}).items():
            self._writer.add_scalar(f"validation/{name}", value, event.step)


class Pace:
    """Does something that may take a while only as often as costs a small share of the run."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._not_before = 0.0

    def due(self) -> bool:
        """Whether enough time went by since the last time."""
        return time.monotonic() >= self._not_before

    def run(self, work: Callable[[], object]) -> None:
        """Does the work, and puts the next time off by what it cost."""
        begin = time.monotonic()
        work()
        end = time.monotonic()
        self._not_before = end + (end - begin) / self._share
