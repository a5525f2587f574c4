"""What the parent asks of the child that builds, and what the child answers: files in a folder that only they know."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetlens.atomic import write_atomic
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import PlanFacts, facts_from_dict, facts_to_dict

__all__ = ["Answer", "Job", "read_answer", "read_job", "read_progress", "write_answer", "write_job", "write_progress"]

_MODEL, _JOB, _PLAN, _ANSWER, _PROGRESS = "model.onnx", "job.json", "model.plan", "answer.json", "progress"
_LONGEST_ANSWER = 4 << 20
_LONGEST_PROGRESS = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One build.

    Attributes:
        name: how messages call the model.
        module: the TensorRT module.
        capability: GPU generation to build for, with a module that builds ahead of time.
        timing_cache: file of measured layer times; empty for none.
        parent: process id of who asks: the child does not outlive it.
    """

    name: str
    options: BuildOptions
    module: str
    capability: str = ""
    timing_cache: str = ""
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a build ended: a plan with its facts, or the reason why there is none.

    Attributes:
        kind: ``built``, or what stood in the way: ``model``, ``memory`` or ``backend``.
    """

    kind: str
    text: str = ""
    plan: bytes = b""
    facts: PlanFacts | None = None


def write_job(folder: Path, job: Job, model: bytes) -> None:
    """Lays a job into an empty folder."""
    (folder / _MODEL).write_bytes(model)
    (folder / _JOB).write_text(json.dumps(asdict(job)))


def read_job(folder: Path) -> tuple[Job, bytes]:
    """The job and its model."""
    raw = json.loads((folder / _JOB).read_text())
    options = BuildOptions(**{**raw["options"], "batch": tuple(raw["options"]["batch"])})
    return Job(**{**raw, "options": options}), (folder / _MODEL).read_bytes()


def write_answer(folder: Path, answer: Answer) -> None:
    """Lays the answer beside the job; the plan first, so that an answer never names one that is not whole."""
    if answer.plan:
        write_atomic(folder / _PLAN, answer.plan)
    facts = None if answer.facts is None else facts_to_dict(answer.facts)
    content = {"kind": answer.kind, "text": answer.text[:4000], "sha256": hashlib.sha256(answer.plan).hexdigest(), "facts": facts}
    write_atomic(folder / _ANSWER, json.dumps(content).encode())


def read_answer(folder: Path) -> Answer | None:
    """The child's answer; None where there is none or it is damaged, whatever a dying child left behind."""
    try:
        if (folder / _ANSWER).stat().st_size > _LONGEST_ANSWER:
            return None
        raw: Mapping[str, Any] = json.loads((folder / _ANSWER).read_bytes())
        if raw["kind"] != "built":
            return Answer(str(raw["kind"]), str(raw["text"]))
        plan = (folder / _PLAN).read_bytes()
        if not plan or hashlib.sha256(plan).hexdigest() != raw["sha256"]:
            return None
        return Answer("built", "", plan, facts_from_dict(raw["facts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_progress(folder: Path, text: str) -> None:
    """What the builder is at, in a few words; a full disk is no reason to stop it."""
    scratch = folder / f"{_PROGRESS}.new"
    with contextlib.suppress(OSError):
        scratch.write_text(text[:_LONGEST_PROGRESS])
        scratch.replace(folder / _PROGRESS)


def read_progress(folder: Path) -> str:
    """What the builder was last at; empty where it said nothing."""
    try:
        with open(folder / _PROGRESS, "rb") as file:
            text = file.read(_LONGEST_PROGRESS).decode("utf-8", "replace")
    except OSError:
        return ""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())
