"""Calibration: how large each tensor of a graph becomes on real pictures, and the int8 scale that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.errors import DataError
from jetlens.precision.graph import Graph

__all__ = ["LEVELS", "METHODS", "Activations", "Method", "largest_values", "observe", "scales"]

Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[str, ...] = get_args(Method)
"""How the range of a tensor follows from what was seen of it."""

LEVELS = 127
PERCENTILE = 99.99
_BINS = 2048
_STEP = 16
_SAMPLED = 1 << 16
_CPU = SessionOptions(device="cpu")


@dataclass(frozen=True, slots=True)
class Activations:
    """What was seen of each tensor.

    Attributes:
        largest: the largest magnitude.
        histogram: of a sample of magnitudes from 0 to the largest, int64 [2048]; empty for the method minmax.
    """

    largest: Mapping[str, float]
    histogram: Mapping[str, NDArray[np.int64]]


def observe(graph: Graph, batches: Sequence[NDArray[Any]], tensors: Sequence[str], method: Method = "minmax") -> Activations:
    """Runs the fp32 graph on batches of its input [N, ...] and watches tensors.

    Raises:
        DataError: a tensor is not finite.
    """
    largest = largest_values(graph, batches, tensors)
    broken = [name for name, value in largest.items() if not np.isfinite(value)]
    if broken:
        raise DataError(f"tensor {broken[0]!r} is NaN or infinite in fp32 on these pictures; check the weights, mean and std")
    if method == "minmax":
        return Activations(largest, {})
    counts = {name: np.zeros(_BINS, np.int64) for name in tensors}
    with OnnxRuntime.open(graph.with_outputs(tensors), _CPU) as session:
        feed = session.inputs[0].name
        for batch in batches:
            for name, values in session.run({feed: batch}).items():
                counts[name] += _histogram(values, largest[name])
    return Activations(largest, counts)


def largest_values(graph: Graph, batches: Iterable[NDArray[Any]], tensors: Sequence[str]) -> dict[str, float]:
    """The largest magnitude of each tensor over all batches; NaN or infinity where one is in it."""
    seen = dict.fromkeys(tensors, 0.0)
    with OnnxRuntime.open(_with_reductions(graph, tensors), _CPU) as session:
        feed = session.inputs[0].name
        for batch in batches:
            for name, value in zip(tensors, session.run({feed: batch}).values(), strict=True):
                # np.maximum keeps NaN where max() would drop it.
                seen[name] = float(np.maximum(seen[name], value))
    return seen


def _with_reductions(graph: Graph, tensors: Sequence[str]) -> bytes:
    """The model that answers with the largest magnitude of each tensor: the tensors themselves need not leave the runtime."""
    onnx = graph.onnx
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:]
    for index, name in enumerate(tensors):
        short = f"jetlens.seen.{index}"
        model.graph.node.append(onnx.helper.make_node("Abs", [name], [f"{short}.abs"], f"{short}.abs"))
        model.graph.node.append(onnx.helper.make_node("ReduceMax", [f"{short}.abs"], [f"{short}.max"], f"{short}.max", keepdims=0))
        # A tensor may be of float16.
        model.graph.node.append(onnx.helper.make_node("Cast", [f"{short}.max"], [short], short, to=onnx.TensorProto.FLOAT))
        model.graph.output.append(onnx.helper.make_tensor_value_info(short, onnx.TensorProto.FLOAT, []))
    content: bytes = model.SerializeToString()
    return content


def _histogram(values: NDArray[Any], largest: float) -> NDArray[np.int64]:
    flat = values.ravel()
    # Some ten thousand values of a tensor tell its shape; an odd step does not keep to one column of a map.
    flat = flat[:: max(1, len(flat) // _SAMPLED) | 1]
    places = (np.abs(flat) * ((_BINS - 1) / (largest or 1.0))).astype(np.int64)
    counts: NDArray[np.int64] = np.bincount(places, minlength=_BINS)
    return counts


def scales(seen: Activations, method: Method = "minmax") -> dict[str, float]:
    """The step of a symmetric int8 for each tensor: its range over 127."""
    limit = _LIMITS[method]
    # A scale of zero means division by zero: TensorRT refuses it.
    return {name: max(limit(seen, name), float(np.finfo(np.float32).tiny) * 1e6) / LEVELS for name in seen.largest}


def _percentile(seen: Activations, name: str) -> float:
    share = np.cumsum(seen.histogram[name]) / max(1, seen.histogram[name].sum())
    return seen.largest[name] * (int(np.searchsorted(share, PERCENTILE / 100)) + 1) / _BINS


def _entropy(seen: Activations, name: str) -> float:
    """The range whose 128 levels keep most of the distribution, by Kullback and Leibler's divergence."""
    counts = seen.histogram[name].astype(np.float64)
    # The bin at zero holds what ReLU cut off; zero has a level of its own in any range.
    counts[0] = counts[1]
    best, least = _BINS, np.inf
    for end in range(LEVELS + 1, _BINS + 1, _STEP):
        divergence = _divergence(counts, end)
        if divergence < least:
            best, least = end, divergence
    return seen.largest[name] * best / _BINS


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    inside = counts[:end]
    clipped = inside.copy()
    clipped[-1] += counts[end:].sum()
    edges = np.linspace(0, end, LEVELS + 2).astype(int)
    level = np.repeat(np.arange(LEVELS + 1), np.diff(edges))
    there = inside > 0
    totals = np.bincount(level, inside, LEVELS + 1)
    filled = np.bincount(level, there, LEVELS + 1)
    spread = np.where(there, (totals / np.maximum(filled, 1))[level], 0.0)
    if not spread.sum():
        return float("inf")
    p, q = clipped / clipped.sum(), spread / spread.sum()
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()
    # What no level can hold counts as if it stood a thousandfold too rare.
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1e3))


_LIMITS: dict[Method, Callable[[Activations, str], float]] = {
    "minmax": lambda seen, name: seen.largest[name],
    "entropy": _entropy,
    "percentile": _percentile,
}
