"""Whether a JPEG is whole: libjpeg fills what is missing with one colour and says nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.frame import Image

__all__ = ["jpeg_flaw"]

_EOI, _SOS, _DRI, _BASELINE = 0xD9, 0xDA, 0xDD, (0xC0, 0xC1)
_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# With one plain byte in front Python searches with memchr.
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTARTS: Final = re.compile(rb"\xff([\xd0-\xd7])")
# Tables, scans, the number of lines, comments and application data.
_BETWEEN_SCANS: Final = frozenset({0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_BEFORE_SCANS: Final = _BETWEEN_SCANS | frozenset(range(0xC0, 0xD0)) - {0xC8}
# An empty block takes at least one bit for its level and one for its end; so many bits make chance unlikely.
_JUDGED_BITS: Final = 40
_LONGEST_PERIOD: Final = 128


@dataclass(slots=True)
class _Layout:
    """What the markers of a JPEG tell."""

    flaw: str = ""
    frame: bytes = b""
    interval: int = 0
    scans: list[tuple[int, int]] = field(default_factory=list)


def jpeg_flaw(data: bytes, image_rgb: Image | None = None) -> str:
    """Why a JPEG is cut or damaged, an empty text where nothing shows; with its decoded picture, also whether libjpeg made its end up."""
    layout = _layout(data)
    if layout.flaw or image_rgb is None or len(layout.frame) < 6 or len(layout.frame) < 6 + 3 * layout.frame[5] or len(layout.scans) != 1:
        return layout.flaw
    return "its pictured end is made up" if _made_up(data, layout, image_rgb) else ""


def _layout(data: bytes) -> _Layout:
    """Walks the markers from the first to the end of the picture."""
    layout = _Layout()
    if not data.startswith(b"\xff\xd8\xff"):
        layout.flaw = "it is no JPEG" if data else "it is empty (0 bytes)"
        return layout
    position, marker = 2, 0
    while not layout.flaw:
        found = _MARKER.match(data, position)
        marker, start = (data[found.end() - 1], found.end()) if found else (0, position)
        if marker == _EOI:
            layout.flaw = "" if layout.scans else "it has no picture"
            break
        length = int.from_bytes(data[start : start + 2], "big")
        position = start + length
        if length < 2 or position > len(data):
            layout.flaw = "it is cut"
        elif marker not in (_BETWEEN_SCANS if layout.scans else _BEFORE_SCANS):
            layout.flaw = "a marker stands where none may be"
        elif marker == _SOS:
            position = _scan(data, position, layout)
        else:
            _note(marker, data[start + 2 : position], layout)
    return layout


def _note(marker: int, content: bytes, layout: _Layout) -> None:
    """Keeps what is needed later of a marker's content."""
    if marker in _BASELINE:
        layout.frame = content
    elif marker == _DRI:
        layout.interval = int.from_bytes(content[:2], "big")


def _scan(data: bytes, start: int, layout: _Layout) -> int:
    """Notes a scan, whose restart markers must count 0 to 7 over and over, and returns where it ends."""
    found = _SCAN_END.search(data, start)
    end = found.start() if found else len(data)
    layout.scans.append((start, end))
    if found is None:
        layout.flaw = "it is cut"
    elif any(mark[1][0] & 7 != index & 7 for index, mark in enumerate(_RESTARTS.finditer(data, start, end))):
        layout.flaw = "pieces of it are missing"
    return end


def _made_up(data: bytes, layout: _Layout, image_rgb: Image) -> bool:
    """Whether the picture ends in one colour although its bits do not.

    Where the bits run out, the decoder repeats the last colour; where a picture truly ends so, its bits end in one pattern repeated.
    """
    parts = layout.frame[5]
    samplings = [layout.frame[7 + 3 * part] for part in range(parts)]
    if parts == 1:
        samplings = [0x11]
    blocks = sum((sampling >> 4) * (sampling & 15) for sampling in samplings)
    unit_h, unit_w = 8 * max(sampling & 15 for sampling in samplings), 8 * max(sampling >> 4 for sampling in samplings)
    height, width = image_rgb.shape[:2]
    # Chroma is smoothed over the border of the row above.
    row = image_rgb[min((height - 1) // unit_h * unit_h + 2, height - 1) :]
    last = np.flatnonzero((row != row[-1, -1]).any(axis=(0, 2)))
    columns = -(-width // unit_w)
    run = columns - (0 if not last.size else int(last[-1]) // unit_w + 1)
    start, end = layout.scans[0]
    if layout.interval:
        run = min(run, (columns * -(-height // unit_h) - 1) % layout.interval + 1)
        start = max([start, *(mark.end() for mark in _RESTARTS.finditer(data, start, end))])
    repeats = run - 3
    if repeats * 2 * blocks < _JUDGED_BITS:
        return False
    wanted = max(_JUDGED_BITS, repeats * _LONGEST_PERIOD)
    tail = data[start:end].replace(b"\xff\x00", b"\xff")[-(wanted // 8 + 2) :]
    return not _repeats(np.unpackbits(np.frombuffer(tail, np.uint8)), repeats)


def _repeats(bits: NDArray[np.uint8], repeats: int) -> bool:
    """Whether the bits end, up to 7 ones of padding, in a pattern that occurs so often."""
    for padding in range(8):
        if padding and not bits[-padding]:
            return False
        body = bits[: len(bits) - padding]
        for period in range(2, _LONGEST_PERIOD + 1):
            judged = body[-max(_JUDGED_BITS, repeats * period) :]
            if len(judged) > period and (judged[period:] == judged[:-period]).all():
                return True
    return False
