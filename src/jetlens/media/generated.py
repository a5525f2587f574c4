"""Test streams that are computed and not read: ``test://NAME?seed=0&frames=240&size=360x640&fps=30``."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from jetlens.errors import UsageError
from jetlens.frame import Frame
from jetlens.media.base import StreamInfo
from jetlens.registry import Table

__all__ = ["GENERATORS", "GeneratedSource"]

GENERATORS: Final = Table("test stream", {"orange-line": "jetlens.data.orange_line:OrangeLine"})
"""Names to classes ``(seed, size_hw, frames, fps)`` whose iteration gives pairs of a frame and its truth."""


def _size_hw(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    return int(height), int(width)


_READERS: Final[dict[str, tuple[str, Any]]] = {
    "seed": ("seed", int),
    "frames": ("frames", int),
    "size": ("size_hw", _size_hw),
    "fps": ("fps", float),
}


class GeneratedSource:
    """The frames of a generator; the same address gives the same pixels."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        arguments: dict[str, Any] = {}
        for key, text in parse_qsl(parts.query, keep_blank_values=True):
            if key not in _READERS:
                raise UsageError(f"{uri}: unknown setting {key!r}; known: {', '.join(_READERS)}")
            field, read = _READERS[key]
            try:
                arguments[field] = read(text)
            except ValueError:
                example = {"size": "360x640 (height x width)", "fps": "30"}.get(key, "7")
                raise UsageError(f"{uri}: {key} is {text!r}; give it like {key}={example}") from None
        self._name = uri
        self._generator = GENERATORS.load(parts.netloc)(**arguments)
        made = self._generator
        self._info = StreamInfo(made.size_hw, made.fps, made.frames, uri, f"generator {parts.netloc}")

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream."""
        return self._info

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame, _ in self._generator)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> GeneratedSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
