"""Operators that reduce, rank and normalise along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jetlens.backends.pytorch.node import Function, Node, Operator

__all__ = ["REDUCTIONS"]

Reduce = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(reduce: Reduce) -> Operator:
    def build(node: Node) -> Function:
        axes_of, keep = node.integers("axes", 1), bool(node.get("keepdims", 1))
        untouched = bool(node.get("noop_with_empty_axes", 0))

        def run(x: Tensor, given: Tensor | None = None) -> Tensor:
            axes = axes_of(given)
            if not axes and untouched:
                return x
            return reduce(x, tuple(axes or range(x.ndim)), keep)

        return run

    return Operator(build, host=(1,))


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.mean(x, axes, keep)


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _root_of_squares(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sqrt(_sum(x * x, axes, keep))


def _extreme(argument: Callable[..., Tensor]) -> Operator:
    def build(node: Node) -> Function:
        axis, keep, last = node.get("axis", 0), bool(node.get("keepdims", 1)), bool(node.get("select_last_index", 0))

        def run(x: Tensor) -> Tensor:
            if not last:
                return argument(x, axis, keep)
            from_the_end: Tensor = x.shape[axis] - 1 - argument(x.flip(axis), axis, keep)
            return from_the_end

        return run

    return Operator(build)


def _top_k(node: Node) -> Function:
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    count_of = node.integers("k", 1)

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = (count_of(given) or [0])[0]
        values, indices = torch.topk(x, count, axis, largest, True)
        # ONNX ranks equal values by their index; torch.topk leaves open which of them it takes and in what order.
        if x.is_cpu and count and _cut_among_equals(x, values.narrow(axis, count - 1, 1), values):
            values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
            return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
        by_index = torch.argsort(indices, axis)
        values, order = torch.sort(torch.gather(values, axis, by_index), dim=axis, descending=largest, stable=True)
        return values, torch.gather(torch.gather(indices, axis, by_index), axis, order)

    return run


def _cut_among_equals(x: Tensor, last: Tensor, values: Tensor) -> bool:
    """Whether values equal to the last that was taken were left out; only asked on a CPU, since a GPU would stall for the answer."""
    return int((x == last).sum()) > int((values == last).sum())


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def build(node: Node) -> Function:
        if node.opset >= 13:
            axis = node.get("axis", -1)
            return lambda x: function(x, axis)
        first = node.get("axis", 1)
        # Up to opset 12 all axes from the given one on are one.
        return lambda x: function(x.flatten(first), -1).reshape(x.shape)

    return Operator(build)


def _cumulative_sum(node: Node) -> Function:
    backward, exclusive = bool(node.get("reverse", 0)), bool(node.get("exclusive", 0))

    def run(x: Tensor, given: Tensor) -> Tensor:
        axis = int(given)
        total = torch.cumsum(x.flip(axis) if backward else x, axis, dtype=x.dtype)
        if exclusive:
            total = total - (x.flip(axis) if backward else x)
        return total.flip(axis) if backward else total

    return run


REDUCTIONS: dict[str, Operator] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": Operator(_cumulative_sum, host=(1,)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(torch.abs(x), axes, keep)),
    "ReduceL2": _reduction(_root_of_squares),
    "ReduceLogSum": _reduction(lambda x, axes, keep: torch.log(_sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "Softmax": _softmax(torch.softmax),
    "TopK": Operator(_top_k, host=(1,)),
}
