"""What workers of isolated sessions open in tests."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import ModelError
from jetlens.spec import TensorSpec

FAIL, HANG, EXIT = 250, 251, 252
"""First values of an input on which the session raises, sleeps for long or ends the process."""


class Sums(ImmediateLanes):
    """Answers each row with its sum and, in the second output, with as many rows as the first value says."""

    inputs = (TensorSpec("rows", "uint8", ("N", 4)),)
    outputs = (TensorSpec("sum", "int64", ("N",)), TensorSpec("many", "float32", ("M", 3)))
    facts = RunFacts("sums", "1", "CPUExecutionProvider", "none", "fp32", notes=("a note",))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows = inputs["rows"]
        first = int(rows[0, 0])
        if first == FAIL:
            raise RuntimeError("the device fell off\nthe bus")
        if first == HANG:
            time.sleep(60)
        if first == EXIT:
            os._exit(3)
        print("not a result")
        return {"sum": rows.sum(axis=1, dtype=np.int64), "many": np.full((first, 3), first, np.float32)}

    def close(self) -> None: ...

    def __enter__(self) -> Sums:
        return self

    def __exit__(self, *_: object) -> None: ...


def open_sums(model: bytes, backend: str, options: SessionOptions) -> tuple[Sums, str]:
    """The model is a mark: ``once:FILE`` opens the first time only."""
    kind, _, rest = model.decode().partition(":")
    if kind == "refuse":
        raise ModelError(f"{rest} is no model")
    if kind == "crash":
        os.abort()
    if kind == "once":
        if Path(rest).exists():
            raise RuntimeError("the device is gone")
        Path(rest).touch()
    return Sums(), f"{backend} with {options.threads} threads and a workspace of {options.build.workspace_mib} MiB"
