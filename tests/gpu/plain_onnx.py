"""Tiny ONNX graphs written byte by byte: the Python that has TensorRT need not have the onnx package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jetlens.spec import FP32_NODES_KEY

FLOAT, UINT8, INT8, HALF = 1, 2, 3, 10
_KINDS = {np.dtype(np.float32): FLOAT, np.dtype(np.float16): HALF, np.dtype(np.int8): INT8}


def conv_graph(
    *, half: bool = False, batch: int | str = "N", channels: int = 16, size: int = 32, operator: str = "Conv", tail: bool = False
) -> bytes:
    """uint8 NHWC images -> Cast -> Transpose -> two convolutions -> mean; ``operator`` replaces the second one.

    Args:
        half: the convolutions are fp16.
        tail: what follows the convolutions is in fp32 and overflows fp16: the largest answer is 1e6 times the mean.
    """
    real = np.dtype(np.float16 if half else np.float32)
    random = np.random.default_rng(0)
    first = (random.standard_normal((channels, 3, 3, 3)) / 8).astype(real)
    second = (random.standard_normal((channels, channels, 3, 3)) / 16).astype(real)
    nodes = [
        node("Cast", ["images"], ["single"], "cast", to=FLOAT),
        node("Transpose", ["single"], ["planes"], "to_planes", perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["real"], "to_real", to=_KINDS[real]),
        node("Conv", ["real", "first"], ["maps"], "first_conv", pads=[1, 1, 1, 1]),
        node("Relu", ["maps"], ["active"], "active"),
        node(operator, ["active", "second"], ["more"], "second_conv", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["more"], ["means"], "pool"),
        node("Cast", ["means"], ["wide"], "to_float", to=FLOAT),
    ]
    tensors = [tensor("first", first), tensor("second", second)]
    notes: dict[str, str] = {}
    if tail:
        nodes += [node("Mul", ["wide", "million"], ["large"], "scale"), node("Flatten", ["large"], ["logits"], "flatten")]
        tensors.append(tensor("million", np.array(1e6, np.float32)))
        notes = {FP32_NODES_KEY: '["scale"]'}
    else:
        nodes.append(node("Flatten", ["wide"], ["logits"], "flatten"))
    return graph(nodes, tensors, ("images", UINT8, (batch, size, size, 3)), ("logits", FLOAT, (batch, channels)), notes)


def half_quantized_graph() -> bytes:
    """Activations are quantized and weights are not, so that no convolution can run in int8."""
    weights = (np.random.default_rng(0).standard_normal((16, 3, 3, 3)) / 8).astype(np.float32)
    nodes = [
        node("QuantizeLinear", ["planes", "scale", "zero"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dequantize"),
        node("Relu", ["dq"], ["active"], "active"),
        node("Conv", ["active", "weights"], ["maps"], "conv"),
    ]
    tensors = [tensor("scale", np.array(0.1, np.float32)), tensor("zero", np.array(0, np.int8)), tensor("weights", weights)]
    return graph(nodes, tensors, ("planes", FLOAT, (1, 3, 32, 32)), ("maps", FLOAT, (1, 16, 30, 30)))


def huge_graph(side: int = 8192) -> bytes:
    """One convolution between maps of 16 channels: 4 GiB each at a side of 8,192."""
    weights = np.full((16, 16, 3, 3), 0.01, np.float32)
    nodes = [node("Conv", ["maps", "weights"], ["more"], "huge_conv", pads=[1, 1, 1, 1])]
    shape = (1, 16, side, side)
    return graph(nodes, [tensor("weights", weights)], ("maps", FLOAT, shape), ("more", FLOAT, shape))


def graph(
    nodes: Sequence[bytes],
    tensors: Sequence[bytes],
    taken: tuple[str, int, Sequence[int | str]],
    given: tuple[str, int, Sequence[int | str]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A ModelProto of opset 17 with one input and one output."""
    parts = [*(_block(1, row) for row in nodes), _text(2, "net"), *(_block(5, row) for row in tensors)]
    body = b"".join([*parts, _block(11, _value(*taken)), _block(12, _value(*given))])
    notes = b"".join(_block(14, _text(1, key) + _text(2, value)) for key, value in (metadata or {}).items())
    return _number(1, 8) + _block(8, _text(1, "") + _number(2, 17)) + _block(7, body) + notes


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: int | Sequence[int]) -> bytes:
    """A NodeProto with whole numbers as attributes; an operator with a dot in it is of that domain."""
    domain, _, kind = operator.rpartition(".")
    rows = [*(_text(1, text) for text in inputs), *(_text(2, text) for text in outputs), _text(3, name), _text(4, kind)]
    for key, value in attributes.items():
        numbers = _number(3, value) + _number(20, 2) if isinstance(value, int) else b"".join(_number(8, n) for n in value) + _number(20, 7)
        rows.append(_block(5, _text(1, key) + numbers))
    return b"".join([*rows, *([_text(7, domain)] if domain else [])])


def tensor(name: str, values: np.ndarray) -> bytes:
    """A TensorProto with raw data."""
    dims = b"".join(_number(1, size) for size in values.shape)
    return dims + _number(2, _KINDS[values.dtype]) + _text(8, name) + _block(9, values.tobytes())


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    axes = b"".join(_block(1, _text(2, axis) if isinstance(axis, str) else _number(1, axis)) for axis in shape)
    return _text(1, name) + _block(2, _block(1, _number(1, kind) + _block(2, axes)))


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
