"""Reads the data in a pickle without running it: dicts, lists, texts, numbers and NumPy arrays; every other instruction is refused.

A pickle is a program for a stack machine, and Python's own loader lets it call any function. This reader follows the instructions that
build plain values, knows the few names that arrays and bytes are made with as words, and calls nothing that the file names.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from jetlens.errors import DataError

__all__ = ["read_pickled_data"]

_LARGEST_FILE: Final = 1 << 28
_MARK: Final = object()
_PUSHED: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
"""Instructions that push their argument."""
_CONSTANTS: Final[dict[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NAMES: Final = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}
_TYPES: Final = frozenset(("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"))


@dataclass(frozen=True, slots=True)
class _Name:
    """A known name, which is only a word here."""

    meaning: str


@dataclass(slots=True)
class _Type:
    """A NumPy type on its way; its state says the byte order."""

    kind: str
    order: str = "|"

    def real(self) -> np.dtype[Any]:
        return np.dtype(("" if self.order == "|" else self.order) + self.kind)


@dataclass(slots=True)
class _Array:
    """An array on its way; its state brings the shape, the type and the bytes."""

    value: np.ndarray[Any, Any] | None = None


def read_pickled_data(path: Path) -> Any:
    """The value in a pickle file: dicts, lists, tuples, texts, bytes, numbers and NumPy arrays of numbers.

    Raises:
        DataError: the file cannot be read, is damaged, or would do anything but build such values.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path}: is larger than 256 MiB; that is no batch of CIFAR-10")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        return _finished(_Machine(path).run(content))
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails wherever its bytes lead
        raise DataError(f"{path}: the pickle is damaged ({type(error).__name__}: {str(error)[:80]}); copy or download it again") from None


class _Machine:
    """The stack, the memo and the instructions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _TUPLES:
                self._stack.append(self._take(_TUPLES[name]))
            elif name not in ("PROTO", "FRAME"):
                step: Callable[[Any], None] | None = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise self._refused(f"the instruction {name}")
                step(argument)
        raise DataError(f"{self._path}: the pickle has no end; copy or download it again")

    def _refused(self, what: str) -> DataError:
        return DataError(f"{self._path}: the pickle holds {what[:100]}, which plain data does not need; refused without running it")

    def _take(self, count: int) -> tuple[Any, ...]:
        taken = tuple(self._stack[-count:])
        del self._stack[-count:]
        return taken

    def _to_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self._stack) if value is _MARK)
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def _dict(self, _: Any) -> None:
        items = self._to_mark()
        self._stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self, _: Any) -> None:
        (value,) = self._take(1)
        self._grown(list).append(value)

    def _appends(self, _: Any) -> None:
        items = self._to_mark()
        self._grown(list).extend(items)

    def _setitem(self, _: Any) -> None:
        key, value = self._take(2)
        self._grown(dict)[key] = value

    def _setitems(self, _: Any) -> None:
        items = self._to_mark()
        self._grown(dict).update(zip(items[::2], items[1::2], strict=True))

    def _grown(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise self._refused(f"a change of a {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _put(self, slot: Any) -> None:
        self._memo[int(slot)] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, slot: Any) -> None:
        self._stack.append(self._memo[int(slot)])

    _binget = _long_binget = _get

    def _global(self, argument: Any) -> None:
        module, _, attribute = str(argument).partition(" ")
        self._push_name(module, attribute)

    def _stack_global(self, _: Any) -> None:
        self._push_name(*self._take(2))

    def _push_name(self, module: Any, attribute: Any) -> None:
        meaning = _NAMES.get((module, attribute))
        if meaning is None:
            raise self._refused(f"the name {module}.{attribute}")
        self._stack.append(_Name(meaning))

    def _reduce(self, _: Any) -> None:
        callee, arguments = self._take(2)
        meaning = callee.meaning if isinstance(callee, _Name) else ""
        if meaning == "array":
            value: Any = _Array()
        elif meaning == "dtype" and arguments[0] in _TYPES:
            value = _Type(arguments[0])
        elif meaning == "buffer":
            raw, kind, shape, order = arguments
            value = _Array(np.frombuffer(bytes(raw), kind.real()).reshape(shape, order=order))
        elif meaning == "encode" and arguments[1] in ("latin1", "latin-1"):
            value = arguments[0].encode("latin-1")
        elif meaning == "bytes" and arguments == ():
            value = b""
        else:
            raise self._refused(f"a call of {meaning or type(callee).__name__} with {str(arguments)[:40]}")
        self._stack.append(value)

    def _build(self, _: Any) -> None:
        (state,) = self._take(1)
        target = self._stack[-1]
        if isinstance(target, _Type) and state[1] in ("|", "<", ">", "="):
            target.order = state[1]
        elif isinstance(target, _Array) and target.value is None:
            _, shape, kind, fortran, raw = state
            data = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
            target.value = np.frombuffer(data, kind.real()).reshape(shape, order="F" if fortran else "C")
        else:
            raise self._refused(f"a state for a {type(target).__name__}")


def _finished(value: Any) -> Any:
    """The value with its arrays in their places; only the outermost dict holds any."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _finished(item) if isinstance(item, _Array) else item for key, item in value.items()}
    return value
