"""locked: one process at a time; the system frees the lock of a process that dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked", "try_locked"]

_POLL_S = 0.1
_SAY_EVERY_S = 10.0


@contextmanager
def locked(path: Path, what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process holds the lock of this file, saying for whom; ``what`` is what others are told of this one.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    descriptor = _wait(path, report)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()}, which {what}".encode()[:200])
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Whether the lock is had, without waiting; held inside the block if so.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    descriptor = _try(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait(path: Path, report: Callable[[str], None]) -> int:
    start_s = time.monotonic()
    said_s = -_SAY_EVERY_S
    while (descriptor := _try(path)) is None:
        waited_s = time.monotonic() - start_s
        if waited_s - said_s >= _SAY_EVERY_S:
            said_s = waited_s
            report(f"waiting for {_holder(path)} ({waited_s:.0f} s)")
        time.sleep(_POLL_S)
    return descriptor


def _try(path: Path) -> int | None:
    """A descriptor that holds the lock of the file that has this name now, or None where another holds it."""
    # Not inherited by children: a builder that outlives its parent must not keep the lock.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(descriptor)
        named = os.stat(path, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    if (held.st_ino, held.st_dev) == (named.st_ino, named.st_dev):
        return descriptor
    os.close(descriptor)
    return None


def _holder(path: Path) -> str:
    try:
        text = path.read_bytes()[:200].decode("utf-8", "replace")
    except OSError:
        text = ""
    return text or "another process, which builds an engine"
