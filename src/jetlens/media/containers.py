"""Video containers told by their first bytes, and files that end before their own header says so."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from jetlens.errors import VideoError

__all__ = ["CONTAINERS", "VIDEO_SUFFIXES", "check_video_file", "sniff_container"]

CONTAINERS: Final = {
    "mov": "MP4 or QuickTime",
    "matroska": "Matroska or WebM",
    "avi": "AVI",
    "mpegts": "MPEG transport stream",
    "mpeg": "MPEG program stream",
    "flv": "FLV",
    "ogg": "Ogg",
    "asf": "ASF or WMV",
    "yuv4mpegpipe": "YUV4MPEG",
}
"""FFmpeg's demuxers that may be opened, none of which reads a second file, and their names for people."""
VIDEO_SUFFIXES: Final = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".3gp",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".flv",
        ".ogv",
        ".wmv",
        ".y4m",
    }
)
"""Lower-case suffixes by which a folder is listed; opening never looks at them."""

_HEAD_BYTES: Final = 1024
_MAX_BOXES: Final = 1_000_000
_MOV_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"})
_MAGICS: Final = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"\0\0\1\xba", "mpeg"),
    (b"FLV\1", "flv"),
    (b"OggS", "ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"YUV4MPEG2 ", "yuv4mpegpipe"),
)
# Lists that name further files or addresses: refused by name, so that the message can say why.
_PLAYLISTS: Final = (
    (b"#EXTM3U", "an HLS playlist (.m3u8)"),
    (b"ffconcat", "an ffconcat list"),
    (b"v=0", "an SDP session"),
    (b"<?xml", "XML (a DASH manifest?)"),
    (b"<MPD", "a DASH manifest"),
    (b"[playlist]", "a playlist (.pls)"),
    (b"[InternetShortcut]", "an Internet shortcut"),
)
_TS_PACKET: Final = 188


def sniff_container(head: bytes) -> str | None:
    """The demuxer (a key of CONTAINERS) that the first bytes ask for, or None."""
    if head[4:8] in _MOV_BOXES and head[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    for start, packet in ((0, _TS_PACKET), (4, _TS_PACKET + 4)):
        marks = head[start : start + 4 * packet + 1 : packet]
        if len(marks) >= 3 and set(marks) == {0x47}:
            return "mpegts"
    return None


def check_video_file(path: Path) -> tuple[str, str]:
    """The demuxer for a file, and why the file is incomplete by its own account (an empty text where it is not).

    Raises:
        VideoError: it is missing, no regular file, empty, of no allowed container, a playlist, or lacks the index without which nothing decodes.
    """
    with _open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        container = sniff_container(head)
        if container is None:
            raise VideoError(_refusal(path, head))
        size = os.fstat(file.fileno()).st_size
        measure = _MEASURES.get(container)
        return container, measure(path, file, size) if measure else ""


def _open_regular(path: Path) -> BinaryIO:
    """The file, opened only if it is a regular one: some devices act when opened."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(f"{path} is a folder; a video is a regular file")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"{path} is a FIFO, socket or device; a video is a regular file")
        if status.st_size == 0:
            raise VideoError(f"{path}: the file is empty (0 bytes)")
        return open(path, "rb")
    except (FileNotFoundError, ValueError):
        raise VideoError(f"{path}: no such file") from None
    except OSError as error:
        raise VideoError(f"{path} cannot be opened: {error.strerror}") from None


def _refusal(path: Path, head: bytes) -> str:
    allowed = ", ".join(CONTAINERS.values())
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, kind in _PLAYLISTS:
        if text.startswith(magic):
            return f"{path} is {kind}, which names other files or addresses; playlists are refused, give the video itself"
    kind = "text" if head.isascii() and b"\0" not in head else "bytes of no known video container"
    return f"{path} is not a video: it holds {kind}; allowed are {allowed}"


def _mov_problem(path: Path, file: BinaryIO, size: int) -> str:
    """Walks the top-level boxes: each states its length, and ``moov`` must be among them."""
    position, index = 0, False
    for _ in range(_MAX_BOXES):
        if position + 8 > size:
            break
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        index = index or kind == b"moov"
        if length == 0:
            position = size
            break
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # no box: bytes that follow the last one, or damage that decoding will meet
            break
        position += length
    if not index:
        raise VideoError(
            f"{path}: the MP4 has no index (moov): it was cut or never finished, nothing of it decodes; record or copy it again"
        )
    return _missing(position, size) if position > size else ""


def _riff_problem(path: Path, file: BinaryIO, size: int) -> str:
    """RIFF chunks follow each other (files over 1 GiB have several), each with its length."""
    position = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(8)
        if header[:4] != b"RIFF":
            return ""
        length = int.from_bytes(header[4:8], "little")
        if length in (0, 0xFFFFFFFF):  # a recorder that was stopped before it could write the length
            return "its header was never completed"
        position += 8 + length
        if position > size:
            return _missing(position, size)
        position += position & 1
    return ""


def _matroska_problem(path: Path, file: BinaryIO, size: int) -> str:
    """The EBML header and then the segment, which states its length unless it was streamed."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    position = 4
    length, position = _vint(head, position)
    if length is None or position + length + 4 > len(head):
        return ""
    position += length
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return ""
    length, position = _vint(head, position + 4)
    if length is None or position + length <= size:
        return ""
    return _missing(position + length, size)


def _vint(head: bytes, position: int) -> tuple[int | None, int]:
    """A number of EBML and the place after it; None where all its bits are set (unknown length)."""
    first = head[position] if position < len(head) else 0
    if first == 0:
        return None, position + 1
    width = 9 - first.bit_length()
    value = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), position + width


def _missing(declared: int, size: int) -> str:
    return f"the file ends {declared - size} bytes before its own end"


_MEASURES: Final[dict[str, Callable[[Path, BinaryIO, int], str]]] = {
    "mov": _mov_problem,
    "avi": _riff_problem,
    "matroska": _matroska_problem,
}
