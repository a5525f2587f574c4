"""What is known of a TensorRT plan: what the builder made, and the manifest that stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jetlens.spec import TensorSpec

__all__ = ["Engine", "Manifest", "PlanFacts", "SUFFIXES", "facts_from_dict", "facts_to_dict"]

SUFFIXES = (".plan", ".engine", ".trt")
"""What a plan's file name may end in; the content is the same."""


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What the builder made, read from the finished plan.

    Attributes:
        inputs: with ``"N"`` for a batch axis that the profile leaves free.
        precision: fp32, fp16 or int8: what the heavy layers (convolutions, products) run in, int8 if any does.
        layers: number of layers by the precision of their output, as the engine inspector names it; empty where it names none.
        build_s: the builder's time.
        workspace_mib: the limit that it was built with after any retreat.
        notes: what the builder warned of, and what was retried; short lines.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    layers: Mapping[str, int] = field(default_factory=dict)
    build_s: float = 0.0
    workspace_mib: int = 0
    device_memory_mib: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What stands beside a plan in the cache.

    Attributes:
        key: every field that decides whether the plan fits, by name; see ``engines.key``.
        sha256: of the plan's bytes.
        origin: ``built`` here, or ``trusted``: the user's own plan, adopted by its hash.
        created: time of the build, ISO 8601 with its zone.
        plan_bytes: size of the plan.
    """

    key: Mapping[str, str]
    sha256: str
    facts: PlanFacts
    name: str
    created: str
    origin: Literal["built", "trusted"] = "built"
    plan_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    """A plan that may be deserialized here: built on this machine, or trusted by the user.

    Attributes:
        path: of the plan in the cache; None where it was not kept.
        reused: it came out of the cache.
        why: what led to a build, such as ``no engine of this model yet`` or the key field that changed; empty where it was reused.
    """

    plan: bytes
    manifest: Manifest
    path: Path | None = None
    reused: bool = False
    why: str = ""


def facts_to_dict(facts: PlanFacts) -> dict[str, Any]:
    """The facts as values that JSON knows."""
    return asdict(replace(facts, layers=dict(facts.layers)))


def facts_from_dict(raw: Mapping[str, Any]) -> PlanFacts:
    """The facts out of what ``facts_to_dict`` gave; KeyError, TypeError or ValueError where that is not what it is."""
    tensors = {
        side: tuple(TensorSpec(str(row["name"]), str(row["dtype"]), tuple(row["shape"])) for row in raw[side])
        for side in ("inputs", "outputs")
    }
    return PlanFacts(**{**raw, **tensors, "notes": tuple(raw["notes"])})
