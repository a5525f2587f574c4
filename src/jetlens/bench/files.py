"""Runs as JSON files: written whole or not at all, read back to the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from jetlens.atomic import write_atomic
from jetlens.backends.base import RunFacts
from jetlens.bench.records import STREAMS, Block, Case, Gate, Measurement, Memory, Run, WarmUp
from jetlens.errors import DataError, JetlensError

__all__ = ["read_run", "write_run"]

FORMAT = 1
_KIND = "jetlens_bench"
_LARGEST_BYTES = 512 << 20
T = TypeVar("T")


def write_run(path: Path, run: Run) -> None:
    """Writes a run; at every moment the file is the one before or this one, whole.

    Raises:
        OutputError: the disk does not take it.
    """
    write_atomic(path, json.dumps({_KIND: FORMAT, **asdict(run)}, separators=(",", ":"), default=str).encode() + b"\n")


def read_run(path: Path, *, streams: bool = False) -> Run:
    """Reads a run back.

    Args:
        streams: take runs of whole streams too; what compares or reports calls can make nothing of them.

    Raises:
        DataError: the file is absent, no run, damaged, of a later format, or a stream's where calls are asked for.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"{path}: larger than any run; give a file that jetlens bench wrote")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no whole JSON file"
        raise DataError(f"{path}: cannot be read as a run of jetlens bench: {why}") from None
    if not isinstance(content, dict) or content.pop(_KIND, None) != FORMAT:
        raise DataError(f"{path} is no run of jetlens bench in format {FORMAT}; measure again: jetlens bench MODEL --output {path.name}")
    try:
        rows = tuple(_measurement(row) for row in content.pop("measurements"))
        run = _made(Run, {**content, "measurements": rows})
    except (KeyError, TypeError, ValueError, AttributeError, JetlensError) as error:
        raise DataError(f"{path}: damaged, or of another version of jetlens: {error}") from None
    if run.scenario in STREAMS and not streams:
        raise DataError(
            f"{path} holds whole streams (--scenario {run.scenario}), whose table jetlens bench printed; compare and report take single calls: "
            "measure without that scenario"
        )
    return run


def _measurement(row: Mapping[str, Any]) -> Measurement:
    parts: dict[str, Any] = {
        "case": _made(Case, row["case"]),
        "facts": _made(RunFacts, row["facts"]) if row["facts"] else None,
        "warm_up": _made(WarmUp, row["warm_up"]),
        "memory": _made(Memory, row["memory"]),
        "blocks": tuple(_made(Block, block) for block in row["blocks"]),
        "gates": tuple(_made(Gate, gate) for gate in row["gates"]),
    }
    return _made(Measurement, {**row, **parts})


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass with lists as tuples; an unknown field is an error."""
    assert is_dataclass(kind)
    known = {row.name for row in fields(kind)}
    if unknown := set(values) - known:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    return kind(**{name: _tupled(value) for name, value in values.items()})


def _tupled(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tupled(part) for part in value)
    if isinstance(value, dict):
        return {key: _tupled(part) for key, part in value.items()}
    return value
