"""What a session and its worker share: a socket for short messages, and memory for arrays, which no name leads to and which ends with them."""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Channel", "Region", "Row", "aligned_size"]

_LONGEST: Final = 1 << 17
_ALIGNMENT: Final = 64
_MOST_FILES: Final = 4

Row = list[Any]
"""An array in a region as JSON has it: name, type, shape, offset."""


class Channel:
    """One end of a socket that keeps messages apart (SOCK_SEQPACKET): JSON, and files that come with it."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """This process's end, and the one for the worker."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(mine), other

    def send(self, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Sends one message; raises OSError where nobody is at the other end."""
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        self._socket.sendmsg([json.dumps(message).encode()], attached, socket.MSG_NOSIGNAL)

    def receive(self, timeout_s: float | None = None) -> tuple[dict[str, Any], list[int]]:
        """Waits for a message and its files, which are the caller's.

        Raises:
            EOFError: the other end is closed.
            TimeoutError: nothing came in time.
        """
        self._socket.settimeout(timeout_s)
        try:
            content, attached, _, _ = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(4 * _MOST_FILES))
        except ConnectionError:
            raise EOFError from None
        if not content:
            raise EOFError
        files = array.array("i")
        for level, kind, data in attached:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
        message: dict[str, Any] = json.loads(content)
        return message, list(files)

    def end(self) -> None:
        """Tells the other end that nothing more comes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def __del__(self) -> None:
        # Not earlier: another thread may still wait at this end.
        self._socket.close()


class Region:
    """Memory that two processes share through a file without a name."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.size = os.fstat(file).st_size
        self._memory = mmap.mmap(file, self.size)

    @staticmethod
    def make(size: int) -> Region:
        """New memory, filled with zeros; raises OSError where there is not enough."""
        file = os.memfd_create("jetlens", os.MFD_CLOEXEC)
        try:
            # Without it too little memory would show as a signal in the middle of a copy.
            os.posix_fallocate(file, 0, max(size, 1))
            return Region(file)
        except BaseException:
            os.close(file)
            raise

    def array(self, dtype: str, shape: Sequence[int], offset: int = 0) -> NDArray[Any]:
        """A part of it as an array, without a copy."""
        return np.ndarray(shape, np.dtype(dtype), self._memory, offset)

    def store(self, arrays: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Copies arrays into it, one after the other; where they are."""
        rows: list[Row] = []
        offset = 0
        for name, values in arrays.items():
            np.copyto(self.array(values.dtype.name, values.shape, offset), values)
            rows.append([name, values.dtype.name, list(values.shape), offset])
            offset += _aligned(values.nbytes)
        return rows

    def load(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        """The arrays that were stored, without a copy."""
        return {name: self.array(dtype, shape, offset) for name, dtype, shape, offset in rows}

    def bytes(self) -> bytes:
        """A copy of all of it."""
        return bytes(self._memory)

    def close(self) -> None:
        """Closes the file; the memory stays as long as an array of it does."""
        os.close(self.file)


def aligned_size(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Bytes of a region that holds these arrays."""
    return sum(_aligned(values.nbytes) for values in arrays.values())


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
