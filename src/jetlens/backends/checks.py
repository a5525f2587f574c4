"""Checks and messages that every backend shares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.errors import BackendError, ModelError, plain_line
from jetlens.graph import read_graph
from jetlens.spec import TensorSpec

__all__ = ["check_feed", "check_pictures", "check_precision", "is_plan", "reason"]

_ONNX_START = b"\x08"
"""The field with the IR version, with which every writer of ONNX files begins."""

_NOISE = (
    re.compile(r"\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*[A-Z_]+\s*:\s*"),
    re.compile(r"Exception from \S+:\d+:"),
    re.compile(r"Check '.*?' failed at \S+:\d+:"),
    re.compile(r"\S*/\S+\.(?:cc|cpp|h|hpp):\d+:?"),
    re.compile(r"(?:onnxruntime|ov|google)::[\w:<>~]+\([^()]*\)(?: const)?:?"),
    re.compile(r"\b[\w.]+\.(?:cc|cpp):\d+:?"),
)
_LONGEST = 180


def reason(error: BaseException) -> str:
    """What a runtime's exception says, as one short line without its source paths."""
    text = str(error)
    for noise in _NOISE:
        text = noise.sub(" ", text)
    text = plain_line(text) or type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def check_pictures(name: str, page: NDArray[Any], pictures: Sequence[NDArray[Any]]) -> None:
    """Compares pictures with the rows of the input that they are for.

    Raises:
        BackendError: they are too many, or of another type or shape.
    """
    wrong = next((one for one in pictures if one.dtype != page.dtype or one.shape != page.shape[1:]), None)
    if wrong is not None or len(pictures) > len(page):
        came = f"{len(pictures)} pictures" if wrong is None else f"{wrong.dtype} {list(wrong.shape)}"
        raise BackendError(f"input {name!r} takes {len(page)} pictures {page.dtype} {list(page.shape[1:])}, and {came} came")


def check_feed(backend: str, specs: Sequence[TensorSpec], inputs: Mapping[str, NDArray[Any]]) -> None:
    """Compares what is fed with what the graph takes.

    Raises:
        BackendError: a name is missing or unknown, or a type or shape differs.
    """
    expected = {spec.name: spec for spec in specs}
    if inputs.keys() != expected.keys():
        raise BackendError(f"{backend}: the graph takes the inputs {sorted(expected)}, but {sorted(inputs)} were fed")
    for name, array in inputs.items():
        spec = expected[name]
        same = len(array.shape) == len(spec.shape) and all(
            isinstance(axis, str) or axis == given for axis, given in zip(spec.shape, array.shape, strict=True)
        )
        if not same or array.dtype.name != spec.dtype:
            raise BackendError(
                f"{backend}: input {name!r} takes {spec.dtype} {list(spec.shape)}, but {array.dtype.name} {list(array.shape)} was fed"
            )


def check_precision(backend: str, asked: SessionOptions, running: str, remedy: str) -> None:
    """Refuses a session that computes in another precision than was asked for.

    Raises:
        BackendError: the two differ.
    """
    if asked.precision is not None and asked.precision != running:
        raise BackendError(f"{backend}: precision {asked.precision} was asked for, but this graph runs in {running} here; {remedy}")


def is_plan(model: bytes) -> bool:
    """Whether the bytes are no ONNX file, not even a damaged one, and may be a TensorRT plan."""
    if model.startswith(_ONNX_START):
        return False
    try:
        read_graph(model)
    except ModelError:
        return True
    return False
