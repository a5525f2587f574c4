"""Where jetlens keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(kind: str) -> Path:
    """The folder of one kind of cached file: in ``$JETLENS_CACHE``, else in the user's cache folder; it need not exist."""
    chosen = os.environ.get("JETLENS_CACHE")
    if chosen:
        return Path(chosen) / kind
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jetlens" / kind
