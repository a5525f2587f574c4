"""LockedPages: pictures' own memory, from which the GPU copies without a copy on the host before it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.tensorrt.cuda import Cuda

__all__ = ["LEAST_BYTES", "LockedPages"]

LEAST_BYTES: Final = 1 << 18
"""A smaller picture is copied on the host sooner than the driver is asked, and shares its pages with other memory."""
_MOST: Final = 64
"""Arrays that are known at once: sources lend their frames from some 16 each."""


@dataclass(slots=True)
class _Owner:
    """An array that owns pictures' memory; ``locked`` is None while it was seen once."""

    address: int
    size: int
    end: weakref.finalize[Any, Any]
    locked: bool | None = None


class LockedPages:
    """Page-locks memory that pictures come in again and again, until the array that owns it goes.

    Locking takes longer than copying a picture, so memory that comes for the first time is not locked: what a source makes anew for every frame
    never is.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._owners: dict[int, _Owner] = {}
        # An array may go, and be forgotten, while this very thread is inside.
        self._lock = RLock()

    def address(self, picture: NDArray[Any]) -> int | None:
        """Where the GPU can copy a picture from; None where it has to be copied into page-locked memory first."""
        owner = picture if picture.base is None else picture.base
        if picture.nbytes < LEAST_BYTES or not (isinstance(owner, np.ndarray) and owner.flags.owndata and picture.flags.c_contiguous):
            return None
        with self._lock:
            known = self._owners.get(id(owner))
            if known is None:
                if len(self._owners) < _MOST:
                    end = weakref.finalize(owner, self._forget, id(owner))
                    end.atexit = False
                    self._owners[id(owner)] = _Owner(owner.ctypes.data, owner.nbytes, end)
                return None
            if known.locked is None:
                known.locked = self._cuda.lock_pages(known.address, known.size)
        return picture.ctypes.data if known.locked else None

    def close(self) -> None:
        """Unlocks everything."""
        with self._lock:
            for key in list(self._owners):
                self._owners[key].end.detach()
                self._forget(key)

    def _forget(self, key: int) -> None:
        """An array is about to go."""
        with self._lock:
            owner = self._owners.pop(key)
            if owner.locked:
                self._cuda.unlock_pages(owner.address)
