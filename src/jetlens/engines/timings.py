"""What earlier builds measured: TensorRT's cache of layer times, and how long each build took."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jetlens.atomic import write_atomic
from jetlens.engines.options import BuildOptions
from jetlens.errors import OutputError

__all__ = ["attach_timing_cache", "earlier_build_s", "keep_timing_cache", "record_build_s"]

_LARGEST = 256 << 20
_MOST_BUILDS = 200


def attach_timing_cache(config: Any, path: str) -> Any:
    """Gives the builder the layer times of earlier builds; a file that TensorRT does not take is replaced by an empty cache. None without a path."""
    if not path:
        return None
    cache = config.create_timing_cache(_read(Path(path)))
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def keep_timing_cache(config: Any, path: str) -> None:
    """Writes the layer times back, joined with what another build wrote meanwhile; times that cannot be kept are no reason to fail."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    others = _read(Path(path))
    if others:
        other = config.create_timing_cache(others)
        if other is not None:
            cache.combine(other, ignore_mismatch=False)
    try:
        write_atomic(Path(path), bytes(cache.serialize()))
    except OutputError:
        return


def earlier_build_s(folder: Path | None, model: bytes, options: BuildOptions) -> float | None:
    """How long the last build of this graph with these options took on this GPU and TensorRT, if one was recorded."""
    seconds = None if folder is None else _builds(folder).get(_key(model, options))
    return seconds if isinstance(seconds, int | float) and 0 < seconds < 1e6 else None


def record_build_s(folder: Path | None, model: bytes, options: BuildOptions, build_s: float) -> None:
    """Keeps how long a build took."""
    if folder is None:
        return
    builds = _builds(folder)
    key = _key(model, options)
    builds.pop(key, None)
    kept = dict([*builds.items(), (key, round(build_s, 2))][-_MOST_BUILDS:])
    try:
        write_atomic(folder / "durations.json", json.dumps(kept).encode())
    except OutputError:
        return


def _key(model: bytes, options: BuildOptions) -> str:
    shape = f"{options.batch} {options.optimization_level} {options.dla_core}"
    return f"{hashlib.sha256(model).hexdigest()[:24]} {shape}"


def _builds(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "durations.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return b""
