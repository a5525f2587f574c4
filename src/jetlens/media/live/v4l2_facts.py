"""What a V4L2 device says of itself: its name, formats with sizes and rates, and controls; asked of the driver, nothing is changed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jetlens.errors import InputError

__all__ = ["Control", "Format", "Size", "VideoDevice", "read_device"]

Ioctl = Callable[[int, int, bytearray], object]

_QUERYCAP: Final = 0x80685600
_ENUM_FMT: Final = 0xC0405602
_ENUM_FRAMESIZES: Final = 0xC02C564A
_ENUM_FRAMEINTERVALS: Final = 0xC034564B
_QUERYCTRL: Final = 0xC0445624
_QUERYMENU: Final = 0xC02C5625
_G_CTRL: Final = 0xC008561B

_CAPTURE: Final = {0x1: 1, 0x1000: 9}
"""Capabilities that make a device a camera, and the kind of buffer whose formats are asked for."""
_HAS_OWN_CAPABILITIES: Final = 0x8000_0000
_NEXT_CONTROL: Final = 0x8000_0000
_DISABLED: Final = 0x1
_KINDS: Final = {1: "number", 2: "switch", 3: "menu", 9: "menu"}
_DISCRETE: Final = 1
_MOST: Final = 256
"""Of anything that a driver lists: one that never ends its list is not followed for ever."""


@dataclass(frozen=True, slots=True)
class Size:
    """Frames in pixels, and rates in frames a second, highest first.

    Attributes:
        largest_wh: the same, or the upper end where the device takes all sizes between two.
    """

    wh: tuple[int, int]
    largest_wh: tuple[int, int]
    fps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Format:
    """A pixel format by its four letters, such as ``MJPG``."""

    code: str
    name: str
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Control:
    """Something that can be set.

    Attributes:
        kind: number, switch or menu.
        choices: of a menu, in order of their values.
        value: now; None where the driver does not say.
    """

    name: str
    kind: str
    low: int
    high: int
    step: int
    usual: int
    value: int | None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VideoDevice:
    """One camera's picture node."""

    path: str
    name: str
    driver: str
    bus: str
    formats: tuple[Format, ...]
    controls: tuple[Control, ...]


def read_device(path: Path, ioctl: Ioctl | None = None) -> VideoDevice | None:
    """What a device says; None for one that gives no pictures, such as a camera's node for metadata.

    Args:
        ioctl: asks the driver: file, request, structure, which is filled in place.

    Raises:
        InputError: it is no video device, or this user may not open it.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the group video may open cameras: sudo usermod -aG video $USER") from None
    try:
        return _Asked(file, ioctl or _system_ioctl()).device(str(path))
    except OSError as error:
        raise InputError(f"{path}: it does not answer as a V4L2 device: {error.strerror}") from None
    finally:
        os.close(file)


class _Asked:
    """An open device."""

    def __init__(self, file: int, ioctl: Ioctl) -> None:
        self._file, self._ioctl = file, ioctl

    def device(self, path: str) -> VideoDevice | None:
        data = bytearray(104)
        self._ioctl(self._file, _QUERYCAP, data)
        driver, name, bus, _, everything, own = struct.unpack_from("16s32s32sIII", data)
        able = own if everything & _HAS_OWN_CAPABILITIES else everything
        kind = next((kind for bit, kind in _CAPTURE.items() if able & bit), None)
        if kind is None:
            return None
        return VideoDevice(path, _text(name), _text(driver), _text(bus), tuple(self._formats(kind)), tuple(self._controls()))

    def _listed(self, request: int, size: int, layout: str, *head: int) -> Iterator[bytearray]:
        """The structures of a numbered list, up to where the driver says that there are no more."""
        for number in range(_MOST):
            data = bytearray(size)
            struct.pack_into(layout, data, 0, number, *head)
            try:
                self._ioctl(self._file, request, data)
            except OSError:
                return
            yield data

    def _formats(self, kind: int) -> Iterator[Format]:
        for data in self._listed(_ENUM_FMT, 64, "=II", kind):
            _, _, _, name, code = struct.unpack_from("=III32sI", data)
            sizes = tuple(self._sizes(code))
            yield Format(_text(struct.pack("=I", code & 0x7FFF_FFFF)).strip(), _text(name), sizes)

    def _sizes(self, code: int) -> Iterator[Size]:
        for data in self._listed(_ENUM_FRAMESIZES, 44, "=II", code):
            (kind, width, high_or_height), rest = struct.unpack_from("=III", data, 8), struct.unpack_from("=IIII", data, 20)
            if kind == _DISCRETE:
                wh = width, high_or_height
                yield Size(wh, wh, self._rates(code, wh))
                continue
            smallest, largest = (width, rest[1]), (high_or_height, rest[2])
            yield Size(smallest, largest, self._rates(code, largest))
            return

    def _rates(self, code: int, wh: tuple[int, int]) -> tuple[float, ...]:
        found: set[float] = set()
        for data in self._listed(_ENUM_FRAMEINTERVALS, 52, "=IIII", code, *wh):
            kind, numerator, denominator = struct.unpack_from("=III", data, 16)
            if numerator:
                found.add(round(denominator / numerator, 2))
            if kind != _DISCRETE:
                break
        return tuple(sorted(found, reverse=True))

    def _controls(self) -> Iterator[Control]:
        last = 0
        for _ in range(_MOST):
            data = bytearray(68)
            struct.pack_into("=I", data, 0, last | _NEXT_CONTROL)
            try:
                self._ioctl(self._file, _QUERYCTRL, data)
            except OSError:
                return
            last, kind, name, low, high, step, usual, flags = struct.unpack_from("=II32siiiiI", data)
            if flags & _DISABLED or kind not in _KINDS:
                continue
            choices = tuple(self._choices(last, low, high)) if kind == 3 else ()
            yield Control(_text(name), _KINDS[kind], low, high, step, usual, self._value(last), choices)

    def _choices(self, control: int, low: int, high: int) -> Iterator[str]:
        for number in range(max(low, 0), min(high, _MOST) + 1):
            data = bytearray(44)
            struct.pack_into("=II", data, 0, control, number)
            try:
                self._ioctl(self._file, _QUERYMENU, data)
            except OSError:
                continue
            yield _text(bytes(data[8:40]))

    def _value(self, control: int) -> int | None:
        data = bytearray(struct.pack("=Ii", control, 0))
        try:
            self._ioctl(self._file, _G_CTRL, data)
        except OSError:
            return None
        value: int = struct.unpack_from("=Ii", data)[1]
        return value


def _text(raw: bytes) -> str:
    """A driver's fixed-length text without what a terminal would obey."""
    text = raw.split(b"\0")[0].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def _system_ioctl() -> Ioctl:
    import fcntl  # absent on Windows

    def ask(file: int, request: int, data: bytearray) -> None:
        fcntl.ioctl(file, request, data, True)

    return ask
