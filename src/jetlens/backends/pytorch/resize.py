"""Resize and Upsample in every coordinate system of ONNX, with torch's own kernels where they do the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jetlens.backends.pytorch.node import Function, Node, Operator

__all__ = ["RESIZE"]

Floats = NDArray[np.float64]

_COORDINATES: dict[str, Callable[[Floats, int, int, float], Floats]] = {
    "half_pixel": lambda x, old, new, scale: (x + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda x, old, new, scale: old / 2 * (1 - new / (scale * old)) + (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, old, new, scale: (x + 0.5) / scale - 0.5 if new > 1 else x * 0,
    "asymmetric": lambda x, old, new, scale: x / scale,
    "align_corners": lambda x, old, new, scale: x * (old - 1) / (new - 1) if new > 1 else x * 0,
}

_ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}

_TORCH_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(node: Node) -> Function:
    old_style = node.opset < 11
    mode = node.get("mode", "nearest")
    rule = "asymmetric" if old_style else node.get("coordinate_transformation_mode", "half_pixel")
    if (
        rule not in _COORDINATES
        or mode not in ("nearest", "linear", "cubic")
        or node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise node.refuse(f"mode {mode}, {rule} or keep_aspect_ratio_policy")
    if node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise node.refuse("antialias or exclude_outside")
    scales_at, sizes_at = (1, 3) if old_style else (2, 3)
    axes = node.get("axes")
    one_axis = _axis_function(node, mode, rule)
    fixed_scales, fixed_sizes = node.get("scales") or _numbers(node.constant(scales_at)), _numbers(node.constant(sizes_at))

    def run(x: Tensor, *rest: Tensor | None) -> Tensor:
        given = (None, *rest, None, None, None)
        sizes = fixed_sizes or _numbers(given[sizes_at])
        scales = fixed_scales or _numbers(given[scales_at])
        along = list(axes) if axes is not None else list(range(x.ndim))
        if sizes:
            new = [int(size) for size in sizes]
            scales = [size / x.shape[axis] for size, axis in zip(new, along, strict=True)]
        else:
            new = [int(np.floor(x.shape[axis] * scale)) for scale, axis in zip(scales, along, strict=True)]
        fast = _torch_resize(x, along, new, scales, mode, rule, node)
        if fast is not None:
            return fast
        for axis, size, scale in zip(along, new, scales, strict=True):
            if size != x.shape[axis] or scale != 1:
                x = one_axis(x, axis, size, scale)
        return x

    return run


def _numbers(values: Tensor | None) -> list[float]:
    return [] if values is None else [float(value) for value in values.reshape(-1).tolist()]


def _torch_resize(
    x: Tensor, along: Sequence[int], new: Sequence[int], scales: Sequence[float], mode: str, rule: str, node: Node
) -> Tensor | None:
    """The same by torch's own kernel where it is the same, else None."""
    target = {axis % x.ndim: (size, scale) for axis, size, scale in zip(along, new, scales, strict=True)}
    spatial = [target.get(axis, (x.shape[axis], 1.0)) for axis in range(2, x.ndim)]
    if len(spatial) not in _TORCH_LINEAR or any(target.get(axis, (x.shape[axis], 1.0)) != (x.shape[axis], 1.0) for axis in (0, 1)):
        return None
    exact = all(abs(size - x.shape[axis] * scale) < 1e-5 for axis, (size, scale) in enumerate(spatial, 2))
    size = [row[0] for row in spatial]
    if mode == "linear" and x.is_floating_point():
        if rule == "align_corners":
            return functional.interpolate(x, size, mode=_TORCH_LINEAR[len(spatial)], align_corners=True)
        if exact and rule in ("half_pixel", "half_pixel_symmetric"):
            return functional.interpolate(x, size, mode=_TORCH_LINEAR[len(spatial)], align_corners=False)
    if mode == "nearest" and all(
        np.array_equal(_nearest(x.shape[axis], size, scale, rule, _rounding(node, scale)), np.arange(size) * x.shape[axis] // size)
        for axis, (size, scale) in enumerate(spatial, 2)
    ):
        return functional.interpolate(x, size, mode="nearest")
    return None


def _rounding(node: Node, scale: float) -> str:
    if node.op == "Upsample":
        return "floor"
    if node.opset < 11:
        return "ceil" if scale < 1 else "floor"
    return str(node.get("nearest_mode", "round_prefer_floor"))


def _axis_function(node: Node, mode: str, rule: str) -> Callable[[Tensor, int, int, float], Tensor]:
    coefficient = node.get("cubic_coeff_a", -0.75)

    def nearest(x: Tensor, axis: int, size: int, scale: float) -> Tensor:
        rows = _nearest(x.shape[axis], size, scale, rule, _rounding(node, scale))
        return x.index_select(axis, torch.from_numpy(rows).to(x.device))

    def weighted(x: Tensor, axis: int, size: int, scale: float) -> Tensor:
        old = x.shape[axis]
        where = _coordinates(old, size, scale, rule)
        base = np.floor(where)
        taps = _linear_taps(where - base) if mode == "linear" else _cubic_taps(where - base, coefficient)
        shape = [1] * x.ndim
        shape[axis] = size
        total: Tensor | None = None
        for step, weights in taps:
            rows = torch.from_numpy(np.clip(base + step, 0, old - 1).astype(np.int64)).to(x.device)
            part = x.index_select(axis, rows) * torch.from_numpy(weights).to(x.device, x.dtype).reshape(shape)
            total = part if total is None else total + part
        assert total is not None
        return total

    return nearest if mode == "nearest" else weighted


def _coordinates(old: int, new: int, scale: float, rule: str) -> Floats:
    return _COORDINATES[rule](np.arange(new, dtype=np.float64), old, new, scale)


@lru_cache(maxsize=64)
def _nearest(old: int, new: int, scale: float, rule: str, rounding: str) -> NDArray[np.int64]:
    rows = _ROUNDINGS[rounding](_coordinates(old, new, scale, rule).astype(np.float32).astype(np.float64))
    return np.clip(rows, 0, old - 1).astype(np.int64)


def _linear_taps(part: Floats) -> list[tuple[int, Floats]]:
    return [(0, 1 - part), (1, part)]


def _cubic_taps(part: Floats, a: float) -> list[tuple[int, Floats]]:
    def near(x: Floats) -> Floats:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Floats) -> Floats:
        return ((x - 5) * x + 8) * x * a - 4 * a

    return [(-1, far(part + 1)), (0, near(part)), (1, near(1 - part)), (2, far(2 - part))]


RESIZE: dict[str, Operator] = {"Resize": Operator(_resize, host=(1, 2, 3)), "Upsample": Operator(_resize, host=(1,))}
