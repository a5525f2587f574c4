"""An ONNX model of one node, written byte by byte: runtimes can be tried without the onnx package."""

from __future__ import annotations

__all__ = ["doubling_model"]

_FLOAT = 1
_IR_VERSION, _OPSET = 8, 13


def doubling_model(size: int = 4) -> bytes:
    """The model ``twice = once + once`` on float32 [1, size]."""
    node = _text(1, "once") + _text(1, "once") + _text(2, "twice") + _text(4, "Add")
    graph = _part(1, node) + _text(2, "doctor") + _part(11, _tensor("once", size)) + _part(12, _tensor("twice", size))
    return _number(1, _IR_VERSION) + _part(7, graph) + _part(8, _text(1, "") + _number(2, _OPSET))


def _tensor(name: str, size: int) -> bytes:
    """A ValueInfoProto of type float32 [1, size]."""
    shape = _part(1, _number(1, 1)) + _part(1, _number(1, size))
    return _text(1, name) + _part(2, _part(1, _number(1, _FLOAT) + _part(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _part(field, content.encode())


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
