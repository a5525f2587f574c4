"""The choice: what `jetlens bench --choose` found best for a model on a machine, kept for the commands that run it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jetlens.atomic import write_atomic
from jetlens.device import cpu_model, find_gpus
from jetlens.errors import OutputError
from jetlens.folders import cache_folder

__all__ = ["Choice", "choice_path", "machine_name", "read_choice", "write_choice"]

_FORMAT = 1
_KIND = "jetlens_choice"


@dataclass(frozen=True, slots=True)
class Choice:
    """How to run a model.

    Attributes:
        sha256: of the model file that was asked for (the fp32 one, where a precision has its own file).
        machine: where it was measured; it holds nowhere else.
        file: what ran: the model, or the file of its precision.
        why: the line of the verdict that it won with.
    """

    sha256: str
    machine: str
    file: str
    backend: str
    precision: str | None
    device: str
    batch: int
    lanes: int
    why: str
    created: str


def choice_path(model: Path) -> Path:
    """Where a model's choice stands beside it: ``NAME.onnx`` -> ``NAME.choice.json``."""
    return model.with_name(f"{model.stem}.choice.json")


def machine_name() -> str:
    """The processor and the GPUs, in one line."""
    return " + ".join((cpu_model(), *(gpu.name for gpu in find_gpus())))


def write_choice(model: Path, choice: Choice) -> Path:
    """Writes the choice beside the model, or into the cache where that folder takes nothing; gives the file."""
    content = json.dumps({_KIND: _FORMAT, **asdict(choice)}, indent=1).encode() + b"\n"
    if Path(__file__).parent in model.resolve().parents:  # models that ship belong to the installation
        write_atomic(_cached(choice.sha256), content)
        return _cached(choice.sha256)
    try:
        write_atomic(choice_path(model), content)
        return choice_path(model)
    except OutputError:
        write_atomic(_cached(choice.sha256), content)
        return _cached(choice.sha256)


def read_choice(model: Path) -> Choice | None:
    """The choice for a model's file on this machine; None where there is none, or it is of another file or machine, or cannot be read."""
    try:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
    except OSError:
        return None
    for path in (choice_path(model), _cached(digest)):
        choice = _read(path)
        if choice is not None and choice.sha256 == digest and choice.machine == machine_name():
            return choice
    return None


def _cached(digest: str) -> Path:
    return cache_folder("choices") / f"{digest[:32]}.choice.json"


def _read(path: Path) -> Choice | None:
    try:
        content: Any = json.loads(path.read_bytes())
        if content.pop(_KIND) != _FORMAT:
            return None
        kinds = {"batch": int, "lanes": int}
        known = {row.name for row in fields(Choice)}
        if set(content) != known or not all(isinstance(content[name], kinds.get(name, (str, type(None)))) for name in known):
            return None
        return Choice(**content)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
