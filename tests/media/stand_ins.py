"""Decoders that stand in for hardware: software in its clothes, sound or broken in a chosen way, and the system's GStreamer."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jetlens.errors import MissingDependencyError, VideoError
from jetlens.media import hardware
from jetlens.media.hardware import planar_frame
from jetlens.media.live.gstreamer import load_gstreamer
from jetlens.registry import Table

_GI = Path("/usr/lib/python3/dist-packages/gi")


class Sound:
    """FFmpeg's software decoder, opened as hardware is; its frames have lost display matrix and key mark as hardware's have."""

    opened: ClassVar[int] = 0

    def __init__(self, av: Any, stream: Any, reference: Any, patience_s: float) -> None:
        type(self).opened += 1
        self._av, self._reference, self._fed = av, reference, 0
        self._context = av.CodecContext.create(stream.codec_context.name, "r")
        self._context.extradata = stream.codec_context.extradata

    def decode(self, packet: Any) -> list[Any]:
        self._fed += packet is not None and packet.size > 0
        return [self._changed(frame) for frame in self._context.decode(packet)]

    def _changed(self, frame: Any) -> Any:
        planes = [hardware._pixels(frame, number) for number in range(3)]
        plain = planar_frame(self._av, self._reference, planes[0] // self.divisor, (planes[self.order[0]], planes[self.order[1]]))
        plain.pts, plain.time_base = frame.pts, frame.time_base
        return plain

    divisor: ClassVar[int] = 1
    order: ClassVar[tuple[int, int]] = (1, 2)

    def close(self) -> None:
        self._context = None


class Absent(Sound):
    def __init__(self, *_: Any) -> None:
        raise MissingDependencyError("this machine has none")


class Refusing(Sound):
    def __init__(self, *_: Any) -> None:
        raise VideoError("it does not open")


class Raising(Sound):
    def decode(self, packet: Any) -> list[Any]:
        raise self._av.error.InvalidDataError(1, "invalid data found")


class Silent(Sound):
    def decode(self, packet: Any) -> list[Any]:
        return []


class Dark(Sound):
    """Decodes without any error, and wrongly."""

    divisor = 2


class Swapped(Sound):
    """Takes one plane of colour for the other."""

    order = (2, 1)


class Breaking(Sound):
    """Sound at first, broken at the twelfth packet."""

    def decode(self, packet: Any) -> list[Any]:
        frames = super().decode(packet)
        if self._fed >= 12:
            raise VideoError("the engine was reset")
        return frames


def put_in(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes stand-ins the hardware decoders of this machine, called by their own names in lower case."""
    monkeypatch.setattr(hardware, "HARDWARE", Table("hardware decoder", {name.lower(): f"stand_ins:{name}" for name in names}))


def system_gstreamer(monkeypatch: pytest.MonkeyPatch, folder: Path, *elements: str) -> Any:
    """GStreamer with some elements; the system's Python binding where a virtual environment has none. Skips where that is not here."""
    if PathFinder.find_spec("gi") is None and _GI.is_dir():
        (folder / "gi").symlink_to(_GI)
        monkeypatch.syspath_prepend(str(folder))
    try:
        gst = [load_gstreamer(element, "this test") for element in elements][-1]
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return gst
