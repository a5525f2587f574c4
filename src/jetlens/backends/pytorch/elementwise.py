"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jetlens.backends.pytorch.node import Function, Node, Operator, plain, torch_type

__all__ = ["ELEMENTWISE"]


def _divide(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point():
        return torch.div(left, right)
    return torch.div(left, right, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def _mod(node: Node) -> Function:
    return torch.fmod if node.get("fmod", 0) else torch.remainder


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return Operator(lambda node: lambda *values: reduce(function, values))


def _mean(*values: Tensor) -> Tensor:
    return sum(values[1:], values[0]) / len(values)


def _clip(node: Node) -> Function:
    if node.opset < 11:
        low, high = node.get("min"), node.get("max")
        return lambda x: torch.clamp(x, low, high) if low is not None or high is not None else x
    if not node.has(1) and not node.has(2):
        return lambda x, *unused: x
    bounds = [node.constant(position) for position in (1, 2)]
    if all(bound is not None or not node.has(position) for position, bound in zip((1, 2), bounds, strict=True)):
        low, high = (None if bound is None else bound.item() for bound in bounds)
        # Torch, like ONNX, answers with the maximum where the minimum lies above it.
        return lambda x, *unused: torch.clamp(x, low, high)
    return lambda x, minimum=None, maximum=None: torch.clamp(x, minimum, maximum)


def _prelu(node: Node) -> Function:
    slope = node.constant(1)
    if slope is not None and slope.ndim >= 2 and slope.numel() == slope.shape[0]:
        flat, rank = slope.reshape(-1).to(node.device), slope.ndim + 1

        def by_channel(x: Tensor, given: Tensor) -> Tensor:
            return functional.prelu(x, flat) if x.ndim == rank else torch.where(x < 0, x * given, x)

        return by_channel
    return lambda x, given: torch.where(x < 0, x * given, x)


def _hard_sigmoid(node: Node) -> Function:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


def _leaky_relu(node: Node) -> Function:
    alpha = node.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def _elu(node: Node) -> Function:
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def _celu(node: Node) -> Function:
    alpha = node.get("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def _selu(node: Node) -> Function:
    alpha, gamma = node.get("alpha", 1.6732631921768188), node.get("gamma", 1.0507010221481323)
    return lambda x: gamma * functional.elu(x, alpha)


def _thresholded_relu(node: Node) -> Function:
    alpha = node.get("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _gelu(node: Node) -> Function:
    approximate = node.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def _cast(node: Node) -> Function:
    kind = torch_type(node, node.get("to"))
    return lambda x: x.to(kind)


def _quantize(node: Node) -> Function:
    axis = node.get("axis", 1)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        kind = torch.uint8 if zero is None else zero.dtype
        limits = torch.iinfo(kind)
        steps = torch.round(x / _along(scale, x, axis))
        if zero is not None:
            steps = steps + _along(zero, x, axis)
        return torch.clamp(steps, limits.min, limits.max).to(kind)

    return run


def _dequantize(node: Node) -> Function:
    axis = node.get("axis", 1)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        values = x.to(scale.dtype)
        if zero is not None:
            values = values - _along(zero, x, axis).to(scale.dtype)
        return values * _along(scale, x, axis)

    return run


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Numbers per channel, shaped to be broadcast along an axis of x."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _bound(function: Callable[..., Any], **options: Any) -> Operator:
    return Operator(lambda node: lambda *values: function(*values, **options))


ELEMENTWISE: dict[str, Operator] = {
    "Abs": plain(torch.abs),
    "Acos": plain(torch.acos),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Asin": plain(torch.asin),
    "Atan": plain(torch.atan),
    "Cast": Operator(_cast),
    "CastLike": plain(lambda x, like: x.to(like.dtype)),
    "Ceil": plain(torch.ceil),
    "Celu": Operator(_celu),
    "Clip": Operator(_clip),
    "Cos": plain(torch.cos),
    "DequantizeLinear": Operator(_dequantize),
    "Div": plain(_divide),
    "Elu": Operator(_elu),
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": Operator(_gelu),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": Operator(_hard_sigmoid),
    "HardSwish": plain(functional.hardswish),
    "Identity": plain(lambda x: x),
    "IsNaN": plain(torch.isnan),
    "LeakyRelu": Operator(_leaky_relu),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": plain(_mean),
    "Min": _variadic(torch.minimum),
    "Mish": plain(functional.mish),
    "Mod": Operator(_mod),
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": Operator(_prelu),
    "Pow": plain(_power),
    "QuantizeLinear": Operator(_quantize),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Selu": Operator(_selu),
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Softplus": _bound(functional.softplus, threshold=1e4),
    "Softsign": plain(functional.softsign),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": plain(torch.tan),
    "Tanh": plain(torch.tanh),
    "ThresholdedRelu": Operator(_thresholded_relu),
    "Where": plain(torch.where),
    "Xor": plain(torch.logical_xor),
}
