"""Arrays that are lent again once nobody holds them: a new frame-sized array costs its page faults every time."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["BufferPool"]


class BufferPool:
    """Lends arrays of any shape; safe to use from several threads.

    A lent array stays its holder's, like a new one, for as long as it or any view of it lives. Then its memory serves the next one of its size.
    """

    def __init__(self, limit: int = 16) -> None:
        """``limit``: how many arrays are kept at most; above it plain new ones are given."""
        self._limit = limit
        self._owners: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """An array with any content."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        with self._lock:
            for index in range(len(self._owners)):
                # A view keeps a reference to the array that owns the memory: two are the list's and the argument's.
                if self._owners[index].nbytes == size and sys.getrefcount(self._owners[index]) == 2:
                    return self._owners[index].view(kind).reshape(shape)
            owner = np.empty(size, np.uint8)
            if len(self._owners) >= self._limit:
                # Sizes change with the stream: make room where something is idle.
                idle = next((i for i in range(len(self._owners)) if sys.getrefcount(self._owners[i]) == 2), None)
                if idle is None:
                    return owner.view(kind).reshape(shape)
                del self._owners[idle]
            self._owners.append(owner)
            return owner.view(kind).reshape(shape)
