"""Which format the first bytes tell, which Pillow plugin reads it, and what size its header declares."""

from __future__ import annotations

import os
import re
import struct
from importlib import import_module
from typing import BinaryIO, Final

from PIL.ImageFile import ImageFile

from jetlens.errors import ImageError

SUFFIXES: Final = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
"""Lower-case suffixes that files of each format have."""

IMAGE_SUFFIXES: Final = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
"""Lower-case suffixes by which a folder is listed; loading itself never looks at them."""

_PLUGINS: Final = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "WebP": ("WebPImagePlugin", "WebPImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
}
_MAGICS: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"MM*\0", "TIFF"),
    (b"II\0*", "TIFF"),
)
# Named only so that the refusal can say what came.
_OTHER_MAGICS: Final = (
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"SIMPLE  =", "FITS"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"AT&TFORM", "DjVu"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"RIFF", "RIFF (AVI video or sound)"),
    *((b"P%d%c" % (kind, space), "PNM") for kind in range(1, 8) for space in b" \t\r\n"),
    *((text, "SVG or XML") for text in (b"<svg", b"<?xml")),
)
_BMP_HEADER_BYTES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
HEAD_BYTES: Final = 32
# Inside entropy-coded data FF is followed by 00 (stuffing), D0 to D7 (restart) or FF (fill); anything else is the next marker.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SOS: Final = 0xDA
_JPEG_EOI: Final = 0xD9


def open_picture(kind: str, stream: BinaryIO) -> ImageFile:
    """Pillow's picture with its header read; asked of the one plugin, so that no other ever sees the bytes."""
    module, attribute = _PLUGINS[kind]
    picture: ImageFile = getattr(import_module(f"PIL.{module}"), attribute)(stream)
    return picture


def sniff(head: bytes, name: str) -> str:
    """The format that the first bytes tell."""
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    allowed = ", ".join(_PLUGINS)
    other = next((kind for magic, kind in _OTHER_MAGICS if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        other = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}.get(
            head[8:12], "MP4 or QuickTime video"
        )
    if other is not None:
        raise ImageError("unsupported-format", name, f"is {other}; allowed are {allowed}: convert it first")
    text = "text" if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head) else "bytes of no known image format"
    raise ImageError("not-an-image", name, f"holds {text}; allowed are {allowed}")


def declared_size(kind: str, head: bytes) -> tuple[int, int] | None:
    """Width and height where the format keeps them at a fixed place, so that no decoder is asked about a bomb."""
    try:
        if kind == "PNG" and head[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", head, 16)
            return width, height
        if kind == "BMP":
            width, height = struct.unpack_from("<HH" if head[14] == 12 else "<ii", head, 18)
            return abs(width), abs(height)
        if kind == "WebP":
            return _webp_size(head)
        if kind == "GIF":
            width, height = struct.unpack_from("<HH", head, 6)
            return (width, height) if width and height else None  # an empty screen grows to its first frame
    except (struct.error, IndexError):
        return None
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """The canvas of an extended, lossless or lossy WebP file."""
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if head[12:16] == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def has_more_scans(stream: BinaryIO, limit: int) -> bool:
    """Whether a JPEG has more scans than the limit, by walking its markers without decoding."""
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    at, scans = 2, 0
    while scans <= limit:
        found = _JPEG_MARKER.search(data, at)
        if found is None or data[found.start() + 1] == _JPEG_EOI:
            return False
        scans += data[found.start() + 1] == _JPEG_SOS
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def is_cut(kind: str, stream: BinaryIO) -> bool:
    """Whether a file lacks its end."""
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 65_536))
        tail = stream.read()
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        return False
    if kind in ("BMP", "WebP"):
        offset, extra = (2, 0) if kind == "BMP" else (4, 8)
        return int.from_bytes(head[offset : offset + 4], "little") + extra > size
    if kind == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind)
    return end is not None and end not in tail
