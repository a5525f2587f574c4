"""Operators of convolutional networks: convolution, pooling, normalisation, matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jetlens.backends.pytorch.node import Builder, Function, Node, Operator, plain

__all__ = ["SPATIAL"]

_CONVOLUTIONS: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED: dict[int, Any] = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}
_MAX_POOLS: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN_POOLS: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _pads(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], size: Sequence[int]) -> list[int]:
    """ONNX pads (all begins, then all ends) for inputs of a size, with ``auto_pad`` worked out."""
    rank = len(kernel)
    auto = node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.get("pads", [0] * 2 * rank))
    if auto == "VALID":
        return [0] * 2 * rank
    begins, ends = [], []
    for length, window, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + (window - 1) * dilation + 1 - length)
        less, more = total // 2, total - total // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return begins + ends


def _torch_pad(pads: Sequence[int]) -> list[int]:
    """The order of ``functional.pad``: last axis first, begin and end together."""
    rank = len(pads) // 2
    return [pads[axis + end * rank] for axis in reversed(range(rank)) for end in (0, 1)]


def _windows(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    ones = [1] * len(kernel)
    return list(node.get("strides", ones)), list(node.get("dilations", ones))


def _is_symmetric(pads: Sequence[int]) -> bool:
    rank = len(pads) // 2
    return list(pads[:rank]) == list(pads[rank:])


def _kernel(node: Node) -> list[int] | None:
    weights = node.constant(1)
    return node.get("kernel_shape") or (None if weights is None else list(weights.shape[2:]))


def _late(build: Builder, node: Node) -> Function:
    """Binds a convolution on each call: only its weights, which another node makes, tell the kernel's shape."""

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Any:
        return build(replace(node, attributes={**node.attributes, "kernel_shape": list(w.shape[2:])}))(x, w, b)

    return run


def _convolution(node: Node) -> Function:
    groups = node.get("group", 1)
    known = _kernel(node)
    if known is None:
        return _late(_convolution, node)
    convolve = _CONVOLUTIONS[len(known)]
    strides, dilations = _windows(node, known)
    if node.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        pads = _pads(node, known, strides, dilations, ())
        if _is_symmetric(pads):
            padding = pads[: len(known)]
            return lambda x, w, b=None: convolve(x, w, b, strides, padding, dilations, groups)

    def padded(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        border = _torch_pad(_pads(node, known, strides, dilations, x.shape[2:]))
        answer: Tensor = convolve(functional.pad(x, border), w, b, strides, 0, dilations, groups)
        return answer

    return padded


def _transposed_convolution(node: Node) -> Function:
    groups = node.get("group", 1)
    kernel = _kernel(node)
    if kernel is None:
        return _late(_transposed_convolution, node)
    rank = len(kernel)
    convolve = _TRANSPOSED[rank]
    strides, dilations = _windows(node, kernel)
    extra = list(node.get("output_padding", [0] * rank))
    wanted, auto = node.get("output_shape"), node.get("auto_pad", "NOTSET")
    pads = list(node.get("pads", [0] * 2 * rank))
    direct = all(more < max(stride, dilation) for more, stride, dilation in zip(extra, strides, dilations, strict=True))
    if wanted is None and auto in ("NOTSET", "VALID") and _is_symmetric(pads) and direct:
        padding = pads[:rank]
        return lambda x, w, b=None: convolve(x, w, b, strides, padding, extra, groups, dilations)

    def cropped(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        full = convolve(x, w, None, strides, 0, 0, groups, dilations)
        sizes = _transposed_sizes(x.shape[2:], strides, wanted, auto)
        border = _transposed_crop(full.shape[2:], extra, sizes, auto, pads)
        answer: Tensor = functional.pad(full, _torch_pad(border))
        return answer if b is None else answer + b.reshape(-1, *[1] * rank)

    return cropped


def _transposed_sizes(size: Sequence[int], strides: Sequence[int], wanted: Sequence[int] | None, auto: str) -> list[int] | None:
    if wanted is not None:
        return list(wanted)[-len(size) :]
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return [length * stride for length, stride in zip(size, strides, strict=True)]
    return None


def _transposed_crop(full: Sequence[int], extra: Sequence[int], sizes: Sequence[int] | None, auto: str, pads: Sequence[int]) -> list[int]:
    """Pads, mostly negative, that turn the full answer into the one asked for."""
    rank = len(full)
    if sizes is None:
        return [-pads[axis] for axis in range(rank)] + [extra[axis] - pads[axis + rank] for axis in range(rank)]
    begins, ends = [], []
    for length, more, size in zip(full, extra, sizes, strict=True):
        total = length + more - size
        begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        begins.append(-begin)
        ends.append(more - (total - begin))
    return begins + ends


def _own_padding(node: Node, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int] | None:
    """What torch's own pooling pads, which is the same on both sides and at most half of the window; None for other pads."""
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = _pads(node, kernel, strides, dilations, ())
    small = all(2 * pad <= window for pad, window in zip(pads[: len(kernel)], kernel, strict=True))
    return pads[: len(kernel)] if _is_symmetric(pads) and small else None


def _max_pool(node: Node) -> Function:
    if node.outputs > 1:
        raise node.refuse("a second output (indices)")
    kernel = list(node.get("kernel_shape"))
    pool = _MAX_POOLS[len(kernel)]
    strides, dilations = _windows(node, kernel)
    ceil = bool(node.get("ceil_mode", 0))
    padding = _own_padding(node, kernel, strides, dilations)
    if padding is not None:
        return lambda x: pool(x, kernel, strides, padding, dilations, ceil)

    def padded(x: Tensor) -> Tensor:
        border = _torch_pad(_pads(node, kernel, strides, dilations, x.shape[2:]))
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        answer: Tensor = pool(functional.pad(x, border, value=lowest), kernel, strides, 0, dilations, ceil)
        return answer

    return padded


def _average_pool(node: Node) -> Function:
    kernel = list(node.get("kernel_shape"))
    pool = _MEAN_POOLS[len(kernel)]
    strides, dilations = _windows(node, kernel)
    if any(dilation != 1 for dilation in dilations):
        raise node.refuse("dilations")
    ceil, whole = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    padding = _own_padding(node, kernel, strides, dilations)
    if padding is not None:
        return lambda x: pool(x, kernel, strides, padding, ceil, whole)

    def padded(x: Tensor) -> Tensor:
        border = _torch_pad(_pads(node, kernel, strides, dilations, x.shape[2:]))
        total: Tensor = pool(functional.pad(x, border), kernel, strides, 0, ceil)
        if whole:
            return total
        share: Tensor = pool(functional.pad(torch.ones_like(x[:1, :1]), border), kernel, strides, 0, ceil)
        return total / share

    return padded


def _global(reduce_axes: Any) -> Operator:
    return plain(lambda x: reduce_axes(x, dim=tuple(range(2, x.ndim)), keepdim=True))


def _batch_normalization(node: Node) -> Function:
    if node.get("training_mode", 0) or node.get("spatial", 1) == 0 or node.outputs > 1:
        raise node.refuse("training_mode, spatial=0 or running statistics as outputs")
    epsilon = node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    return run


def _instance_normalization(node: Node) -> Function:
    epsilon = node.get("epsilon", 1e-5)
    # Group normalisation with one channel a group: unlike instance_norm it also takes a single pixel.
    return lambda x, scale, bias: functional.group_norm(x, x.shape[1], scale, bias, epsilon)


def _layer_normalization(node: Node) -> Function:
    if node.outputs > 1:
        raise node.refuse("more than one output")
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = list(x.shape[axis:]) if axis < 0 else list(x.shape[axis % x.ndim :])
        answer: Tensor = functional.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)
        return answer

    return run


def _group_normalization(node: Node) -> Function:
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if node.opset < 21:
            scale, bias = (values.repeat_interleave(x.shape[1] // groups) for values in (scale, bias))
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return run


def _lrn(node: Node) -> Function:
    size, alpha, beta, bias = node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)

    def run(x: Tensor) -> Tensor:
        before = (size - 1) // 2
        squares = functional.pad((x * x).movedim(1, -1), (before, size - 1 - before)).unfold(-1, size, 1).sum(-1)
        return x / torch.pow(bias + alpha / size * squares.movedim(-1, 1), beta)

    return run


def _gemm(node: Node) -> Function:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    transpose_left, transpose_right = bool(node.get("transA", 0)), bool(node.get("transB", 0))
    bias = node.constant(2)
    if not transpose_left and transpose_right and alpha == beta == 1 and bias is not None and bias.ndim == 1 and bias.numel() > 1:
        return functional.linear

    def run(left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
        left, right = left.t() if transpose_left else left, right.t() if transpose_right else right
        if addend is None:
            product: Tensor = torch.mm(left, right) * alpha
            return product
        return torch.addmm(addend, left, right, beta=beta, alpha=alpha)

    return run


def _einsum(node: Node) -> Function:
    equation = node.get("equation")
    return lambda *values: torch.einsum(equation, *values)


SPATIAL: dict[str, Operator] = {
    "AveragePool": Operator(_average_pool),
    "BatchNormalization": Operator(_batch_normalization),
    "Conv": Operator(_convolution),
    "ConvTranspose": Operator(_transposed_convolution),
    "Einsum": Operator(_einsum),
    "Gemm": Operator(_gemm),
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "GroupNormalization": Operator(_group_normalization),
    "InstanceNormalization": Operator(_instance_normalization),
    "LRN": Operator(_lrn),
    "LayerNormalization": Operator(_layer_normalization),
    "MatMul": plain(torch.matmul),
    "MaxPool": Operator(_max_pool),
}
