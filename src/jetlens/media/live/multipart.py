"""Streams of HTTP taken apart as their bytes come in: heads, chunks, and the parts of multipart/x-mixed-replace."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from jetlens.errors import NetworkError

__all__ = ["MAX_HEAD_BYTES", "MAX_PART_BYTES", "ChunkDecoder", "PartReader", "boundary_of", "read_fields"]

MAX_PART_BYTES: Final = 32 * 2**20
MAX_HEAD_BYTES: Final = 2**16
_BOUNDARY: Final = re.compile(r"""boundary\s*=\s*(?:"([^"]{1,200})"|([^\s;,"]{1,200}))""", re.IGNORECASE)
_JPEG_END: Final = b"\xff\xd9"
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names, without the dashes that some cameras put before it; empty where it names none."""
    found = _BOUNDARY.search(content_type)
    text = (found[1] or found[2]) if found else ""
    return (text.lstrip("-") or text).encode("latin-1", "replace")


def read_fields(lines: bytes) -> dict[str, str]:
    """Header fields, names in lower case; what is no field is left out."""
    fields: dict[str, str] = {}
    for line in lines.decode("latin-1").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return fields


class ChunkDecoder:
    """Undoes HTTP's chunked coding, whatever the pieces it is fed in."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """The content in what is known by now.

        Raises:
            NetworkError: the coding is broken.
            EOFError: the last chunk has come.
        """
        self._held += data
        content = bytearray()
        while self._held:
            if self._left > 2:
                piece = self._held[: self._left - 2]
                del self._held[: len(piece)]
                self._left -= len(piece)
                content += piece
                continue
            if self._left:  # the line end after a chunk
                if len(self._held) < 2:
                    break
                if self._held[:2] != b"\r\n":
                    raise NetworkError("the chunks of its answer are broken")
                del self._held[:2]
                self._left = 0
            end = self._held.find(b"\r\n")
            if end < 0 and len(self._held) < 1024:
                break
            size = bytes(self._held[: max(end, 0)]).partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
                raise NetworkError("the chunks of its answer are broken")
            del self._held[: end + 2]
            self._left = int(size, 16) + 2
            if self._left == 2:
                if content:
                    return bytes(content)
                raise EOFError
        return bytes(content)


class PartReader:
    """Takes the parts out of a multipart body, whatever the pieces it is fed in.

    A part that states its length is there with its last byte, any other when the next boundary is, or when ``complete`` says so of what
    is there. Bytes that belong to no part, and a part that a boundary cuts, count as damage.
    """

    def __init__(self, boundary: bytes) -> None:
        self._held = bytearray()
        self._boundary = b"--" + boundary
        self._step: Callable[[], bytes | str | None] = self._seek
        self._length: int | None = None
        self._searched = 0
        self._stray = False

    def feed(self, data: bytes, complete: Callable[[bytes], bool] | None = None) -> list[bytes | str]:
        """The parts that are there by now, in order; a text in the place of a damaged one says what is wrong.

        ``complete`` is asked about a part without a stated length that ends as a JPEG does.

        Raises:
            NetworkError: a part is larger than allowed.
        """
        self._held += data
        found: list[bytes | str] = []
        while True:
            step = self._step
            part = step()
            if part is not None:
                found.append(part)
            elif self._step == step:
                break
        if self._step == self._open_body and complete is not None and _JPEG_END in self._held[-4:] and complete(bytes(self._held)):
            found.append(self._cut(len(self._held)))
        return found

    def _cut(self, end: int) -> bytes:
        part = bytes(self._held[:end])
        del self._held[:end]
        self._step, self._searched, self._stray = self._seek, 0, False
        return part

    def _seek(self) -> str | None:
        """Looks for a boundary with its whole line; forgets what stands before it."""
        at = self._held.find(self._boundary)
        line = self._held.find(b"\n", at) if at >= 0 else -1
        if line < 0:
            surplus = (at if at >= 0 else len(self._held)) - len(self._boundary) - 1
            if at >= 0 and len(self._held) - at > MAX_HEAD_BYTES:
                surplus = at + len(self._boundary)
            if surplus > 0:
                self._stray |= bool(bytes(self._held[:surplus]).strip(b"\r\n- "))
                del self._held[:surplus]
            return None
        stray = self._stray or bool(bytes(self._held[:at]).strip(b"\r\n- "))
        del self._held[: line + 1]
        self._step, self._stray = self._head, False
        return "bytes of no picture stand between two" if stray else None

    def _head(self) -> str | None:
        end = 1 if self._held[:1] == b"\n" else 2 if self._held[:2] == b"\r\n" else 0  # a part without fields
        if not end:
            found = _BLANK_LINE.search(self._held, 0, MAX_HEAD_BYTES)
            if found is None:
                if len(self._held) < MAX_HEAD_BYTES:
                    return None
                self._step = self._seek
                return "a part has no end of its head"
            end = found.end()
        fields = read_fields(bytes(self._held[:end]))
        del self._held[:end]
        stated = fields.get("content-length", "")
        self._length = int(stated) if re.fullmatch(r"[0-9]{1,12}", stated) else None
        if self._length is not None and self._length > MAX_PART_BYTES:
            raise NetworkError(f"a picture of {self._length:,} bytes is announced; at most {MAX_PART_BYTES:,} are allowed")
        self._step, self._searched = (self._open_body if self._length is None else self._stated_body), 0
        return None

    def _next_boundary(self) -> int:
        """Where the first boundary begins in what is held, its line's start included, or -1; nothing is searched twice."""
        at = self._held.find(self._boundary, max(0, self._searched - len(self._boundary)))
        if at < 0:
            self._searched = len(self._held)
            return -1
        for mark in (b"-", b"\n", b"\r"):
            while at and bytes(self._held[at - 1 : at]) == mark:
                at -= 1
                if mark != b"-":
                    break
        return at

    def _stated_body(self) -> bytes | str | None:
        assert self._length is not None
        at = self._next_boundary()
        if 0 <= at < self._length:
            self._cut(at)
            return "a picture is shorter than its head says"
        return self._cut(self._length) if len(self._held) >= self._length else None

    def _open_body(self) -> bytes | None:
        at = self._next_boundary()
        if at >= 0:
            return self._cut(at)
        if len(self._held) > MAX_PART_BYTES:
            raise NetworkError(f"a picture goes on beyond the {MAX_PART_BYTES:,} bytes that are allowed")
        return None
