"""`jetlens inspect` of a TensorRT plan: what its manifest says, and what the plan itself says where it is trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jetlens.cli.build import manifest_path
from jetlens.cli.terminal import facts_table, tensor_text
from jetlens.engines.cache import entries
from jetlens.engines.plan import PlanFacts, facts_from_dict, facts_to_dict
from jetlens.engines.trust import adopt_command, read_facts, trusted
from jetlens.errors import BackendError, ModelError
from jetlens.spec import ModelSpec, sidecar_path

__all__ = ["plan_record", "show_plan"]

_LARGEST_MANIFEST = 4 << 20
_BUILT_FOR = (
    "tensorrt",
    "cuda",
    "driver",
    "gpu",
    "sm",
    "l4t",
    "batch",
    "workspace_mib",
    "optimization_level",
    "dla_core",
    "version_compatible",
)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a plan without running it.

    Attributes:
        source: who says so.
        key: what it was built for, by name.
        sound: this user's jetlens signed it: the plan may be opened.
    """

    source: str
    facts: PlanFacts | None = None
    key: Mapping[str, str] | None = None
    name: str = ""
    created: str = ""
    sound: bool = False


def plan_record(path: Path, content: bytes) -> dict[str, Any]:
    """All that can be told of a plan; it is opened only if it was built here or the user vouched for it.

    Raises:
        ModelError: the file is empty.
    """
    if not content:
        raise ModelError(f"{path}: the engine is empty; build or copy it again")
    digest = hashlib.sha256(content).hexdigest()
    known = _known(path, content, digest)
    facts, opened = known.facts, "no"
    if known.sound:
        try:
            facts, opened = _merged(known.facts, read_facts(content)), "yes"
        except BackendError as error:
            opened = f"no: {error}"
    else:
        opened = f"no: an engine is code that TensorRT runs, and nobody vouched for this one; if you made it: {adopt_command(str(path))}"
    return {
        "path": str(path),
        "bytes": len(content),
        "sha256": digest,
        "manifest": known.source,
        "opened": opened,
        "name": known.name or None,
        "created": known.created or None,
        "built_for": {name: known.key[name] for name in _BUILT_FOR if known.key.get(name)} if known.key else {},
        "facts": None if facts is None else facts_to_dict(facts),
        "sidecar": _sidecar(path, digest),
        "foreign_header": content[4:5] == b"{" and content[:4] != b"ftrt",
    }


def show_plan(record: Mapping[str, Any]) -> None:
    """Prints the record as a table."""
    Console().print(facts_table(_rows(record)))


def _known(path: Path, content: bytes, digest: str) -> _Known:
    """From the signed record of a trusted plan, the cache's own manifest, or the open one that stands beside the file."""
    try:
        manifest = trusted(content, path.name).manifest
        facts = manifest.facts if manifest.facts.inputs else None
        return _Known("signed: you vouched for it, or it was built here", facts, manifest.key, manifest.name, manifest.created, sound=True)
    except BackendError:
        pass
    for entry in entries():
        manifest_of_entry = entry.manifest
        if manifest_of_entry is not None and not entry.problem and manifest_of_entry.sha256 == digest:
            row = manifest_of_entry
            return _Known("signed: built here, in the cache", row.facts, row.key, row.name, row.created, sound=True)
    return _beside(path, digest)


def _beside(path: Path, digest: str) -> _Known:
    file = manifest_path(path)
    try:
        if file.stat().st_size > _LARGEST_MANIFEST:
            return _Known(f"{file.name} is too large for a manifest")
        raw = json.loads(file.read_bytes())
        if raw["sha256"] != digest:
            return _Known(f"{file.name} belongs to another plan")
        key = {str(name): str(value) for name, value in raw["key"].items()}
        return _Known(f"{file.name}, which is not signed", facts_from_dict(raw["facts"]), key, str(raw["name"]), str(raw["created"]))
    except FileNotFoundError:
        return _Known("none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Known(f"{file.name} is damaged")


def _merged(said: PlanFacts | None, read: PlanFacts) -> PlanFacts:
    """What the plan says of itself, with what only its builder knew."""
    if said is None:
        return read
    return PlanFacts(
        read.inputs,
        read.outputs,
        read.precision if read.precision != "unknown" else said.precision,
        read.layers or said.layers,
        said.build_s,
        said.workspace_mib,
        said.device_memory_mib,
        said.notes,
    )


def _sidecar(path: Path, digest: str) -> str:
    file = sidecar_path(path)
    if not file.is_file():
        return "none"
    try:
        spec = ModelSpec.from_json(file.read_bytes(), origin=str(file))
    except ModelError as error:
        return f"wrong: {error}"
    return f"{file.name}, {spec.task}, hash matches" if spec.sha256 == digest else f"wrong: {file.name} belongs to another file"


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("file", str(record["path"])),
        ("size", f"{record['bytes'] / 2**20:.2f} MiB ({record['bytes']:,} bytes)"),
        ("sha256", str(record["sha256"])),
        ("manifest", str(record["manifest"])),
        ("opened", str(record["opened"])),
        ("sidecar", str(record["sidecar"])),
    ]
    if record["foreign_header"]:
        rows.append(("header", "JSON stands before the plan, as some exporters write it; TensorRT reads the plan only without it"))
    rows += [(name.replace("_", " "), str(value)) for name, value in record["built_for"].items()]
    for name in ("name", "created"):
        if record[name]:
            rows.append((name, str(record[name])))
    facts = record["facts"]
    if facts is None:
        return rows
    rows += [(side[:-1], tensor_text(row["name"], row["dtype"], row["shape"])) for side in ("inputs", "outputs") for row in facts[side]]
    layers = ", ".join(f"{count} {kind}" for kind, count in sorted(facts["layers"].items()))
    rows.append(("precision", f"{facts['precision']}{f'; layers by output: {layers}' if layers else ''}"))
    if facts["build_s"]:
        rows.append(("built in", f"{facts['build_s']:.1f} s with {facts['workspace_mib']} MiB of workspace"))
    if facts["device_memory_mib"]:
        rows.append(("GPU memory", f"{facts['device_memory_mib']:.1f} MiB a context"))
    return [*rows, *(("note", note) for note in facts["notes"])]
