"""Where an image comes from: a path, bytes or a stream, each as a seekable stream of allowed length."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeAlias

from jetlens.errors import ImageError, UsageError, plain_line

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
"""A path, the bytes of a file, or a binary stream that is read from where it stands to its end."""

MAX_FILE_BYTES: Final = 2**30


def source_name(source: ImageSource) -> str:
    """How messages call a source."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) or "(empty path)"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if not hasattr(source, "read"):
        raise UsageError(f"an image is a path, the bytes of a file or a binary stream, not {type(source).__name__}")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"


@contextmanager
def open_stream(source: ImageSource, name: str) -> Iterator[BinaryIO]:
    """A seekable stream over the source, at its beginning; a path is opened only if it is a regular file."""
    if isinstance(source, (str, os.PathLike)):
        with _open_regular(source, name) as file:
            yield file
        return
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        try:
            content = source.read(MAX_FILE_BYTES + 1)
        except Exception as error:
            raise ImageError("unreadable", name, f"reading the stream failed: {said(error)}") from error
        if not isinstance(content, bytes):
            raise ImageError("unreadable", name, f"the stream gives {type(content).__name__}; open it in binary mode")
    _check_bytes(len(content), name)
    with io.BytesIO(content) as memory:
        yield memory


@contextmanager
def _open_regular(path: str | os.PathLike[str], name: str) -> Iterator[BinaryIO]:
    try:
        # The kind is asked before opening (some devices act when opened) and again after (the path may have changed).
        _check_regular(os.stat(path).st_mode, name)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError as error:
        raise ImageError("missing", name, "no such file") from error
    except ValueError as error:  # a NUL in the path
        raise ImageError("missing", name, "no file can have this name") from error
    except OSError as error:
        raise ImageError("unreadable", name, f"cannot be opened: {error.strerror}") from error
    with file:
        status = os.fstat(file.fileno())
        _check_regular(status.st_mode, name)
        _check_bytes(status.st_size, name)
        yield file


def _check_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO, socket or device"
        raise ImageError("not-a-file", name, f"is {kind}; an image is a regular file")


def _check_bytes(count: int, name: str) -> None:
    if count == 0:
        raise ImageError("empty", name, "the file is empty (0 bytes)")
    if count > MAX_FILE_BYTES:
        raise ImageError("too-large", name, f"{count:,} bytes; at most {MAX_FILE_BYTES:,} are read")


def said(error: Exception) -> str:
    """What an exception says, as one short printable line."""
    line = plain_line(str(error))
    return (line or type(error).__name__)[:120]
