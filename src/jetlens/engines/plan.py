"""What is known of a TensorRT plan: what the builder made, and the manifest that stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jetlens.spec import TensorSpec

__all__ = ["Engine", "Manifest", "PlanFacts", "SUFFIXES"]

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
    """

    key: Mapping[str, str]
    sha256: str
    facts: PlanFacts
    name: str
    created: str
    origin: Literal["built", "trusted"] = "built"


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
