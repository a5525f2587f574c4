"""The engine cache: one plan a key with a signed manifest beside it; what fails a check is built anew and never handed out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from jetlens.atomic import write_atomic
from jetlens.engines.environment import Environment, read_environment
from jetlens.engines.key import Difference, differences, digest, key_fields, unknown_fields
from jetlens.engines.lock import locked, try_locked
from jetlens.engines.manifest import PRIVATE, check_folder, from_json, make_folder, make_key, read_key, read_private, to_json
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Engine, Manifest, PlanFacts
from jetlens.errors import BackendError, ModelError, OutputError
from jetlens.folders import cache_folder
from jetlens.registry import resolve

__all__ = ["Builder", "Entry", "Why", "cached", "entries", "obtain", "prune", "why"]

_KIND = "engines"
_LOCK = "build.lock"


class Builder(Protocol):
    """What makes a plan; ``engines.build.build``."""

    def __call__(
        self, model: bytes, options: BuildOptions, *, name: str, timing_cache: Path | None, report: Callable[[str], None]
    ) -> tuple[bytes, PlanFacts]:
        """The plan's bytes and what is known of them."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A plan in the cache.

    Attributes:
        name: of the model, as the file name gives it.
        manifest: None where it failed a check.
        size: of the plan in bytes.
        used_s: when it was last loaded, in seconds since 1970.
        problem: why it would not be loaded; empty where nothing is wrong.
    """

    path: Path
    name: str
    manifest: Manifest | None
    size: int
    used_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """Whether the engine that is asked for is in the cache, and what differs if not.

    Attributes:
        entry: the one that fits, else the nearest one of the same model or name.
        cached: it fits, as far as the machine's facts are known.
        reason: one line.
        differences: between the nearest entry and what is asked, unknown fields left out.
        unknown: fields of the key that cannot be found out here.
    """

    entry: Entry | None
    cached: bool
    reason: str
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()


def obtain(
    model: bytes,
    options: BuildOptions,
    *,
    name: str,
    report: Callable[[str], None] = lambda line: None,
    builder: Builder | None = None,
    environment: Environment | None = None,
) -> Engine:
    """The engine of an ONNX model: out of the cache, else built by one process while others wait for it.

    Args:
        name: of the model; names the file.
        report: takes progress, and warnings of entries that were thrown away or could not be kept.
        builder: what builds; the TensorRT builder of this machine if None.
        environment: of the key; this machine's if None.

    Raises:
        BackendError: TensorRT is not here, or the build failed.
        ModelError: TensorRT refuses the graph.
    """
    folder = cache_folder(_KIND)
    asked = key_fields(model, options, environment or read_environment())
    build: Builder = builder or resolve("jetlens.engines.build:build")
    found, _ = _find(folder, asked)
    if found is not None:
        return found
    if not options.save:
        return _in_memory(*build(model, options, name=name, timing_cache=None, report=report), asked, name, _reason(folder, asked, name))
    with ExitStack() as stack:
        try:
            make_folder(folder)
            stack.enter_context(locked(folder / _LOCK, f"builds {name}", report))
        except (OutputError, OSError) as error:
            report(f"warning: the engine cache cannot be used, so the engine stays in memory: {error}")
            return _in_memory(*build(model, options, name=name, timing_cache=None, report=report), asked, name, str(error))
        found, damage = _find(folder, asked)
        if found is not None:
            return found
        reason = f"the cached engine cannot be used: {damage}" if damage else _reason(folder, asked, name)
        if damage:
            report(f"warning: {reason}; it is built anew")
        _clear(folder, digest(asked))
        timings = _timings(folder, asked) if options.timing_cache else None
        plan, facts = build(model, options, name=name, timing_cache=timings, report=report)
        engine = _in_memory(plan, facts, asked, name, reason)
        return _keep(folder, engine, report)


def cached(model: bytes, options: BuildOptions) -> bool:
    """Whether the engine that is asked for lies in the cache, told from names and manifests alone; ``obtain`` checks the plan itself."""
    environment = read_environment()
    if not environment.tensorrt:
        return False
    asked = key_fields(model, options, environment)
    folder = cache_folder(_KIND)
    for path in folder.glob(f"*-{digest(asked)}.plan"):
        with contextlib.suppress(OSError, ModelError):
            return dict(_manifest(folder, path).key) == asked and path.is_file()
    return False


def entries() -> list[Entry]:
    """Every plan in the cache, checked as on loading, by name."""
    folder = cache_folder(_KIND)
    plans = set(folder.glob("*.plan")) | {path.with_suffix("") for path in folder.glob("*.plan.json")}
    return [_entry(folder, path) for path in sorted(plans)]


def why(model: bytes, options: BuildOptions, *, name: str, environment: Environment | None = None) -> Why:
    """What ``obtain`` would do and which field of the key decides it; builds nothing."""
    asked = key_fields(model, options, environment or read_environment())
    unknown = tuple(unknown_fields(asked))
    own = digest(asked)
    known = entries()
    exact = next((row for row in known if row.path.stem.endswith(own)), None)
    if exact is not None:
        return Why(exact, not exact.problem, f"cannot be used: {exact.problem}" if exact.problem else "in the cache", unknown=unknown)
    nearest = _nearest(known, asked, name)
    if nearest is None or nearest.manifest is None:
        return Why(None, False, "no engine of this model yet", unknown=unknown)
    rows = tuple(row for row in differences(nearest.manifest.key, asked) if row.field not in unknown)
    if rows:
        return Why(nearest, False, ", ".join(map(str, rows)), rows, unknown)
    return Why(nearest, True, f"in the cache, as far as can be told here: {', '.join(unknown)} unknown", unknown=unknown)


def prune(
    *, older_than_days: float | None = None, name: str | None = None, everything: bool = False, environment: Environment | None = None
) -> list[Entry]:
    """Removes entries and returns them: those not used for so many days, or all; without either, those that no call here would load.

    Args:
        name: only those of this model.

    Raises:
        BackendError: an engine is being built.
        OutputError: the folder cannot be written.
    """
    folder = cache_folder(_KIND)
    if not folder.is_dir():
        return []
    here = {field: value for field, value in asdict(environment or read_environment()).items() if value}
    oldest_s = None if older_than_days is None else time.time() - older_than_days * 86400

    def goes(entry: Entry) -> bool:
        if name is not None and entry.name != _safe(name):
            return False
        if everything or entry.manifest is None:
            return True
        if oldest_s is not None:
            return entry.used_s < oldest_s
        return any(entry.manifest.key.get(field) != value for field, value in here.items())

    try:
        with try_locked(folder / _LOCK) as had:
            if not had:
                raise BackendError("an engine is being built; prune when that has ended")
            gone = [entry for entry in entries() if goes(entry)]
            for entry in gone:
                _remove(entry.path)
                _remove(_manifest_path(entry.path))
            for left in [*folder.glob(".*.plan*.tmp"), *([folder / "timings"] if everything and name is None else [])]:
                _remove(left)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be pruned ({error.strerror})") from None
    return gone


def _find(folder: Path, asked: Mapping[str, str]) -> tuple[Engine | None, str]:
    """The checked engine of a key, or None and what is wrong with the one that is there."""
    damage = ""
    for path in sorted(folder.glob(f"*-{digest(asked)}.plan")):
        try:
            plan, manifest = _read(folder, path, asked)
        except FileNotFoundError:
            continue
        except OSError as error:
            damage = damage or f"{path.name}: {error.strerror}"
            continue
        except ModelError as error:
            damage = damage or f"{path.name}: {error}"
            continue
        with contextlib.suppress(OSError):
            os.utime(_manifest_path(path))
        return Engine(plan, manifest, path, reused=True), ""
    return None, damage


def _read(folder: Path, path: Path, asked: Mapping[str, str] | None) -> tuple[bytes, Manifest]:
    """A plan and its manifest after every check; the bytes that were checked are those that are returned.

    Raises:
        FileNotFoundError: one of the two is missing: it was never finished.
        OSError: one cannot be read.
        ModelError: a check failed.
    """
    manifest = _manifest(folder, path)
    if asked is not None and dict(manifest.key) != dict(asked):
        raise ModelError(f"it was built for other facts: {', '.join(map(str, differences(manifest.key, asked)))}")
    plan = read_private(path, size=manifest.plan_bytes)
    if hashlib.sha256(plan).hexdigest() != manifest.sha256:
        raise ModelError("its bytes are not those that were built")
    return plan, manifest


def _manifest(folder: Path, path: Path) -> Manifest:
    """The manifest of a plan, if this user's jetlens signed it for a plan of this name; fails as ``_read`` does."""
    check_folder(folder)
    text = read_private(_manifest_path(path))
    key = read_key(folder)
    if key is None:
        raise ModelError("the key that signed its manifest is gone")
    manifest = from_json(text, key)
    if manifest.origin != "built" or digest(manifest.key) != path.stem[-32:]:
        raise ModelError("its manifest belongs to another engine")
    return manifest


def _entry(folder: Path, path: Path) -> Entry:
    manifest, problem = None, ""
    size, used_s = 0, 0.0
    try:
        size = path.lstat().st_size
        used_s = _manifest_path(path).lstat().st_mtime
        _, manifest = _read(folder, path, None)
    except FileNotFoundError:
        problem = "never finished: the plan or its manifest is missing"
    except (OSError, ModelError) as error:
        problem = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return Entry(path, path.stem[:-33], manifest, size, used_s, problem)


def _reason(folder: Path, asked: Mapping[str, str], name: str) -> str:
    """Why there is no engine of a key: what differs from the nearest one."""
    nearest = _nearest([_entry(folder, path) for path in sorted(folder.glob("*.plan"))], asked, name)
    if nearest is None or nearest.manifest is None:
        return "no engine of this model yet"
    return ", ".join(map(str, differences(nearest.manifest.key, asked)))


def _nearest(known: list[Entry], asked: Mapping[str, str], name: str) -> Entry | None:
    """Of the usable entries of the same model, else of the same name, the one that differs in the fewest fields, and the last used of those."""
    usable = [(row, row.manifest.key) for row in known if row.manifest is not None]
    same = [pair for pair in usable if pair[1].get("model") == asked["model"]] or [pair for pair in usable if pair[0].name == _safe(name)]
    return min(same, key=lambda pair: (len(differences(pair[1], asked)), -pair[0].used_s))[0] if same else None


def _in_memory(plan: bytes, facts: PlanFacts, asked: Mapping[str, str], name: str, reason: str) -> Engine:
    created = datetime.now().astimezone().isoformat(timespec="seconds")
    manifest = Manifest(asked, hashlib.sha256(plan).hexdigest(), facts, name, created, plan_bytes=len(plan))
    return Engine(plan, manifest, why=reason)


def _keep(folder: Path, engine: Engine, report: Callable[[str], None]) -> Engine:
    """Writes the plan, then the manifest without which nobody loads it; an engine that cannot be kept is still returned."""
    path = folder / f"{_safe(engine.manifest.name)}-{digest(engine.manifest.key)}.plan"
    try:
        text = to_json(engine.manifest, make_key(folder))
        write_atomic(path, engine.plan, PRIVATE)
        write_atomic(_manifest_path(path), text, PRIVATE)
    except OutputError as error:
        with contextlib.suppress(OSError):
            _remove(_manifest_path(path))
            _remove(path)
        report(f"warning: the engine of {len(engine.plan)} bytes stays in memory: {error}")
        return engine
    return Engine(engine.plan, engine.manifest, path, why=engine.why)


def _clear(folder: Path, own: str) -> None:
    """Removes what is left of a key, and half-written files: only the holder of the lock writes here."""
    for left in [*folder.glob(f"*-{own}.plan"), *folder.glob(f"*-{own}.plan.json"), *folder.glob(".*.plan*.tmp")]:
        with contextlib.suppress(OSError):
            _remove(left)


def _remove(path: Path) -> None:
    """A file, a link or a folder that stands in a file's place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _manifest_path(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")


def _safe(name: str) -> str:
    """A model's name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or "model"


def _timings(folder: Path, asked: Mapping[str, str]) -> Path | None:
    """The builder's file of measured layer times, in a folder of its own for this GPU and TensorRT."""
    own = folder / "timings" / digest({field: asked[field] for field in asdict(Environment())})[:16]
    try:
        make_folder(own)
    except OutputError:
        return None
    return own / "layers.cache"
