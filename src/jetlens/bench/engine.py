"""What is known of the engine that a case runs: its size, its layers by precision, how long it took to build."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jetlens.engines.cache import cached, obtain
from jetlens.engines.options import BuildOptions
from jetlens.errors import JetlensError

__all__ = ["engine_facts"]

_SHOWN = ("precision", "layers", "build_s", "workspace_mib", "device_memory_mib", "notes")


def engine_facts(model: bytes, build: BuildOptions) -> tuple[float | None, dict[str, Any]]:
    """The engine's size in MiB and what its builder said of it, out of the cache; nothing where it is not kept there."""
    try:
        if not cached(model, build):
            return None, {}
        manifest = obtain(model, build, name="bench").manifest
    except JetlensError:
        return None, {}
    facts = asdict(manifest.facts)
    shown = {name: facts[name] for name in _SHOWN}
    return manifest.plan_bytes / 2**20, {**shown, "sha256": manifest.sha256, "created": manifest.created, "key": dict(manifest.key)}
