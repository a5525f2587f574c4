"""cv2 where it is installed, for steps that NumPy can do as well but slower."""

from __future__ import annotations

from functools import cache
from typing import Any

from jetlens.registry import installed

__all__ = ["cv2_if_there"]


@cache
def cv2_if_there() -> Any:
    """The module cv2, or None where it is not installed or does not import; callers must give the same result without it."""
    if not installed("cv2"):
        return None
    try:
        import cv2
    except ImportError:
        return None
    return cv2
