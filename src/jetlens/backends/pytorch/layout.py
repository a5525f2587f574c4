"""Operators that move, cut, join and make tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jetlens.backends.pytorch.node import Function, Node, Operator, plain

__all__ = ["LAYOUT"]


def _concat(node: Node) -> Function:
    axis = node.get("axis", 1)
    return lambda *values: torch.cat(values, axis)


def _reshape(node: Node) -> Function:
    shape_of, allow_zero = node.integers("shape", 1), bool(node.get("allowzero", 0))

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        shape = shape_of(given) or []
        if 0 in shape and not allow_zero:
            shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
        return x.reshape(shape)

    return run


def _flatten(node: Node) -> Function:
    axis = node.get("axis", 1)

    def run(x: Tensor) -> Tensor:
        rows = int(np.prod(x.shape[:axis], dtype=np.int64))
        return x.reshape(rows, x.numel() // rows if rows else 0)

    return run


def _transpose(node: Node) -> Function:
    order = node.get("perm")
    return lambda x: x.permute(order if order is not None else tuple(reversed(range(x.ndim))))


def _squeeze(node: Node) -> Function:
    axes_of = node.integers("axes", 1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(given)
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return run


def _unsqueeze(node: Node) -> Function:
    axes_of = node.integers("axes", 1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(given) or []
        rank = x.ndim + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


def _slice(node: Node) -> Function:
    starts_of, ends_of = node.integers("starts", 1), node.integers("ends", 2)
    axes_of, steps_of = node.integers("axes", 3), node.integers("steps", 4)

    def run(
        x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None, axes: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        begins, finishes = starts_of(starts) or [], ends_of(ends) or []
        along = axes_of(axes) or list(range(len(begins)))
        strides = steps_of(steps) or [1] * len(begins)
        for begin, finish, axis, stride in zip(begins, finishes, along, strides, strict=True):
            rows = range(x.shape[axis])[slice(begin, _open_end(finish, stride), stride)]
            x = _take(x, axis, rows)
        return x

    return run


def _open_end(finish: int, stride: int) -> int | None:
    """A backward slice to far below 0 ends before the first element, which Python can only say with None."""
    return None if stride < 0 and finish < -(2**31) + 2 else finish


def _take(x: Tensor, axis: int, rows: range) -> Tensor:
    if rows.step > 0:
        view = x.narrow(axis, rows.start, max(0, rows.stop - rows.start)) if len(rows) else x.narrow(axis, 0, 0)
        return view if rows.step == 1 else view[(slice(None),) * (axis % x.ndim) + (slice(None, None, rows.step),)]
    return x.index_select(axis, torch.tensor(list(rows), dtype=torch.int64, device=x.device))


def _gather(node: Node) -> Function:
    axis, known = node.get("axis", 0), node.constant(1)
    if known is not None and known.ndim == 0:
        position = int(known)
        return lambda x, indices: x.select(axis, position)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        along = axis % x.ndim
        flat = indices.reshape(-1)
        picked = x.index_select(along, torch.where(flat < 0, flat + x.shape[along], flat))
        return picked.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])

    return run


def _gather_elements(node: Node) -> Function:
    axis = node.get("axis", 0)
    return lambda x, indices: torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def _gather_nd(node: Node) -> Function:
    if node.get("batch_dims", 0):
        raise node.refuse("batch_dims")
    return lambda x, indices: x[tuple(indices.unbind(-1))]


def _scatter_elements(node: Node) -> Function:
    if node.get("reduction", "none") != "none":
        raise node.refuse("a reduction")
    axis = node.get("axis", 0)
    return lambda x, indices, updates: torch.scatter(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


def _scatter_nd(node: Node) -> Function:
    if node.get("reduction", "none") != "none":
        raise node.refuse("a reduction")
    return lambda x, indices, updates: torch.index_put(x, tuple(indices.unbind(-1)), updates)


def _split(node: Node) -> Function:
    axis, sizes_of = node.get("axis", 0), node.integers("split", 1)
    parts = node.get("num_outputs", node.outputs)

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        sizes = sizes_of(given)
        return tuple(torch.split(x, sizes if sizes is not None else -(-x.shape[axis] // parts), axis))

    return run


def _pad(node: Node) -> Function:
    pads_of, axes_of, mode = node.integers("pads", 1), node.integers("no axes attribute", 3), node.get("mode", "constant")
    fill, known = node.get("value", 0.0), node.constant(2)
    if known is not None:
        fill = known.item()

    def run(x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = pads_of(pads) or []
        along = axes_of(axes) or list(range(len(amounts) // 2))
        begin_end = [(0, 0)] * x.ndim
        for index, axis in enumerate(along):
            begin_end[axis] = amounts[index], amounts[index + len(along)]
        if mode == "constant":
            content = fill if value is None or known is not None else value.item()
            return functional.pad(x, [number for pair in reversed(begin_end) for number in pair], value=content)
        return _mirrored(x, begin_end, mode)

    return run


def _mirrored(x: Tensor, begin_end: list[tuple[int, int]], mode: str) -> Tensor:
    for axis, (begin, end) in enumerate(begin_end):
        if begin or end:
            rows = np.pad(np.arange(x.shape[axis]), (max(0, begin), max(0, end)), mode=mode)  # type: ignore[call-overload]
            rows = rows[max(0, -begin) : len(rows) - max(0, -end)]
            x = x.index_select(axis, torch.from_numpy(rows).to(x.device))
    return x


def _shape(node: Node) -> Function:
    part = slice(node.get("start", 0), node.get("end"))
    return lambda x: torch.tensor(x.shape[part], dtype=torch.int64)


def _constant(node: Node) -> Function:
    value = node.get("value")
    if value is None:
        numbers = [(name, kind) for name, kind in _CONSTANT_TYPES.items() if name in node.attributes]
        if not numbers:
            raise node.refuse("a sparse or text value")
        (name, kind) = numbers[0]
        value = np.array(node.get(name), kind)
    tensor = torch.from_numpy(np.array(value))
    return lambda: tensor


_CONSTANT_TYPES: dict[str, Any] = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _constant_of_shape(node: Node) -> Function:
    value = torch.from_numpy(np.array(node.get("value", np.zeros(1, np.float32)))).reshape(()).to(node.device)
    shape_of = node.integers("no shape attribute", 0)
    return lambda shape: value.expand(shape_of(shape) or []).clone()


def _range(node: Node) -> Function:
    device = node.device
    return lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=device)


def _expand(node: Node) -> Function:
    shape_of = node.integers("no shape attribute", 1)
    return lambda x, shape: x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape_of(shape) or [])))


def _tile(node: Node) -> Function:
    repeats_of = node.integers("no repeats attribute", 1)
    return lambda x, repeats: x.repeat(repeats_of(repeats) or [])


def _dropout(node: Node) -> Function:
    training = node.constant(2)
    if node.has(2) and (training is None or bool(training)):
        raise node.refuse("training_mode")
    if node.outputs == 1:
        return lambda x, *unused: x
    return lambda x, *unused: (x, torch.ones_like(x, dtype=torch.bool))


def _depth_to_space(node: Node) -> Function:
    block, columns_first = node.get("blocksize"), node.get("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        batch, depth, height, width = x.shape
        if columns_first:
            blocks = x.reshape(batch, -1, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        else:
            blocks = x.reshape(batch, block, block, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(batch, depth // block**2, height * block, width * block)

    return run


def _space_to_depth(node: Node) -> Function:
    block = node.get("blocksize")
    order = (0, 1, 3, 5, 2, 4) if node.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)

    def run(x: Tensor) -> Tensor:
        batch, depth, height, width = x.shape
        blocks = x.reshape(batch, depth, height // block, block, width // block, block)
        return blocks.permute(order).reshape(batch, depth * block**2, height // block, width // block)

    return run


LAYOUT: dict[str, Operator] = {
    "Concat": Operator(_concat),
    "Constant": Operator(_constant),
    "ConstantOfShape": Operator(_constant_of_shape, host=(0,)),
    "DepthToSpace": Operator(_depth_to_space),
    "Dropout": Operator(_dropout, host=(1, 2)),
    "Expand": Operator(_expand, host=(1,)),
    "Flatten": Operator(_flatten),
    "Gather": Operator(_gather),
    "GatherElements": Operator(_gather_elements),
    "GatherND": Operator(_gather_nd),
    "NonZero": plain(lambda x: torch.nonzero(x).t()),
    "Pad": Operator(_pad, host=(1, 2, 3)),
    "Range": Operator(_range, host=(0, 1, 2)),
    "Reshape": Operator(_reshape, host=(1,)),
    "ScatterElements": Operator(_scatter_elements),
    "ScatterND": Operator(_scatter_nd),
    "Shape": Operator(_shape, about_shape=True),
    "Size": Operator(lambda node: lambda x: torch.tensor(x.numel()), about_shape=True),
    "Slice": Operator(_slice, host=(1, 2, 3, 4)),
    "SpaceToDepth": Operator(_space_to_depth),
    "Split": Operator(_split, host=(1,)),
    "Squeeze": Operator(_squeeze, host=(1,)),
    "Tile": Operator(_tile, host=(1,)),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, host=(1,)),
}
