"""Repair: the groups of layers that lower precision hurts most go back to fp32, one at a time, until the guard passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.precision.graph import Graph

__all__ = ["Group", "Made", "groups", "ranked"]

MOST_GROUPS = 32
_LAYERS = 4

Made = Callable[[Collection[str]], bytes]
"""Makes the graph of lower precision with some nodes, by name, left as they are."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that change precision together.

    Attributes:
        nodes: their names.
        error: of the raw answers, relative to fp32, where this group alone has lower precision; infinite where they are not finite.
    """

    nodes: tuple[str, ...]
    error: float = 0.0

    def __str__(self) -> str:
        more = f" and {len(self.nodes) - 1} more" if len(self.nodes) > 1 else ""
        return f"{self.nodes[0]}{more} (error {self.error:.2g})"


def groups(graph: Graph, names: Sequence[str]) -> list[Group]:
    """The named layers in groups of at most 4 that end at a residual addition where there is one, joined further to at most 32 groups."""
    wanted = set(names)
    # A small network has few layers to give back: each alone.
    size = _LAYERS if len(names) > MOST_GROUPS else 1
    blocks: list[list[str]] = [[]]
    for node in graph.proto.node:
        if node.name in wanted:
            blocks[-1].append(node.name)
        added = node.op_type == "Add" and all(name in graph.producers for name in node.input)
        if blocks[-1] and (added or len(blocks[-1]) == size):
            blocks.append([])
    blocks = [block for block in blocks if block]
    while len(blocks) > MOST_GROUPS:
        sizes = [len(first) + len(second) for first, second in pairwise(blocks)]
        k = int(np.argmin(sizes))
        blocks[k : k + 2] = [blocks[k] + blocks[k + 1]]
    return [Group(tuple(block)) for block in blocks]


def ranked(content: bytes, make: Made, parts: Sequence[Group], batches: Sequence[NDArray[Any]]) -> list[Group]:
    """The groups with the error that each causes alone, worst first."""
    graph = Graph(content)
    heads = graph.heads()
    wanted = list(_raw(graph.with_outputs(heads), batches))
    everything = {name for part in parts for name in part.nodes}
    rated = []
    for part in parts:
        alone = Graph(make(everything - set(part.nodes)))
        got = _raw(_as_float(alone, heads), batches)
        rated.append(Group(part.nodes, max(_relative(want, answer) for want, answer in zip(wanted, got, strict=True))))
    return sorted(rated, key=lambda part: -part.error)


def _as_float(graph: Graph, heads: Sequence[str]) -> bytes:
    """The graph that answers with its heads, of whatever type they are, as fp32."""
    onnx = graph.onnx
    twins = [f"{name}.answer" for name in heads]
    graph.proto.node.extend(
        onnx.helper.make_node("Cast", [name], [twin], twin, to=onnx.TensorProto.FLOAT) for name, twin in zip(heads, twins, strict=True)
    )
    return graph.with_outputs(twins)


def _raw(content: bytes, batches: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    with OnnxRuntime.open(content, SessionOptions(device="cpu")) as session:
        feed = session.inputs[0].name
        for batch in batches:
            yield list(session.run({feed: batch}).values())


def _relative(wanted: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
    """The largest relative distance of an output from the wanted one."""
    errors = []
    for want, answer in zip(wanted, got, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            error = float(np.linalg.norm((answer - want).ravel().astype(np.float64)) / max(1e-12, float(np.linalg.norm(want.ravel()))))
        errors.append(error if np.isfinite(error) else float("inf"))
    return max(errors)
