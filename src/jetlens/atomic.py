"""write_atomic: a file is the old one or the new one, never half of either."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from jetlens.errors import OutputError

__all__ = ["write_atomic"]


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file that at every moment is the old one or the new one, whole, also after a crash or a power cut.

    Raises:
        OutputError: the folder or the disk does not take it; the old file stays.
    """
    scratch: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, mode)
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except OSError as error:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder") from None


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut; Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
