"""The key of an engine: every fact that decides whether a cached plan fits, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from jetlens.engines.environment import Environment
from jetlens.engines.options import BuildOptions
from jetlens.spec import METADATA_KEY

__all__ = ["Difference", "RECIPE", "blocks", "differences", "digest", "key_fields", "model_name", "unknown_fields"]

RECIPE = 2
"""Number of the way in which jetlens builds; raised when the same key would give another engine."""

_OPTIONS: Mapping[str, Callable[[BuildOptions], str]] = {
    "batch": lambda options: ":".join(map(str, options.batch)),
    "workspace_mib": lambda options: str(options.workspace_mib),
    "optimization_level": lambda options: "default" if options.optimization_level is None else str(options.optimization_level),
    "dla_core": lambda options: "none" if options.dla_core is None else str(options.dla_core),
    "version_compatible": lambda options: "yes" if options.version_compatible else "no",
}
"""The options that change the engine; time-out, timing cache and saving do not."""

_METADATA = 14
"""Field of ONNX's ModelProto that holds its key-value texts."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the key that is not what it was."""

    field: str
    cached: str
    asked: str

    def __str__(self) -> str:
        return f"{self.field.replace('_', ' ')} {_short(self.cached)} -> {_short(self.asked)}"


def key_fields(model: bytes, options: BuildOptions, environment: Environment) -> dict[str, str]:
    """The key of the engine that these would give, by field; preprocessing and calibration scales are in the model's bytes.

    Precision and calibration say in words what the bytes hold, so that a difference can be named; empty where the graph does not say.
    """
    said = _said(model)
    return {
        "model": hashlib.sha256(model).hexdigest(),
        "precision": said.get("precision", ""),
        "calibration": said.get("calibration", ""),
        **{name: read(options) for name, read in _OPTIONS.items()},
        **asdict(environment),
        "recipe": str(RECIPE),
    }


def model_name(model: bytes) -> str:
    """What a model's engines are called in the cache: the name in the graph's own spec, ``model`` where it has none."""
    return _said(model).get("name") or "model"


def digest(fields: Mapping[str, str]) -> str:
    """32 hexadecimal digits that stand for all fields."""
    return hashlib.sha256(json.dumps(dict(fields), sort_keys=True).encode()).hexdigest()[:32]


def differences(cached: Mapping[str, str], asked: Mapping[str, str]) -> list[Difference]:
    """The fields of two keys that differ, in the key's order."""
    names = [*asked, *(name for name in cached if name not in asked)]
    rows = (Difference(name, cached.get(name, ""), asked.get(name, "")) for name in names)
    return [row for row in rows if row.cached != row.asked]


def unknown_fields(fields: Mapping[str, str]) -> list[str]:
    """The fields of the environment that could not be found out here."""
    return [name for name in asdict(Environment()) if not fields.get(name)]


def _short(value: str) -> str:
    if not value:
        return "unknown"
    return value[:12] if len(value) == 64 else value


def _said(model: bytes) -> dict[str, str]:
    """Name, precision and calibration hash as the graph's own metadata gives them."""
    texts = {key: text for key, text in _metadata(memoryview(model)) if key.startswith("jetlens.")}
    try:
        spec = json.loads(texts.get(METADATA_KEY, "{}"))
        weights = spec.get("weights") or {}
        calibration = texts.get("jetlens.calibration") or weights.get("calibration") or weights.get("calibration_sha256") or ""
        if not isinstance(calibration, str):
            calibration = hashlib.sha256(json.dumps(calibration, sort_keys=True).encode()).hexdigest()
        return {"name": str(spec.get("name") or ""), "precision": str(spec.get("precision") or ""), "calibration": calibration}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _metadata(message: memoryview) -> Iterator[tuple[str, str]]:
    """The key-value texts of an ONNX file, found by stepping over its other fields; what is no ONNX file has none."""
    for number, value in blocks(message):
        if number == _METADATA:
            pair = {part: bytes(text).decode("utf-8", "replace") for part, text in blocks(value)}
            yield pair.get(1, ""), pair.get(2, "")


def blocks(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each length-delimited field of a protobuf message, up to the first fault."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == 0:
            _, position = _varint(message, position)
            continue
        length, position = _varint(message, position) if wire == 2 else ({1: 8, 5: 4}.get(wire, end), position)
        if position + length > end:
            return
        if wire == 2:
            yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and the position after it; one that does not end is taken to its last byte."""
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    return value, position
