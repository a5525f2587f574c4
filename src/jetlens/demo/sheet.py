"""The contact sheet: some frames as the camera saw them, as the networks see them, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jetlens import overlay
from jetlens.demo.video import Kept
from jetlens.frame import Image
from jetlens.media.images import write_image

__all__ = ["write_sheet"]

GAP = 8
STRIP = 24
"""Height of what stands above each picture; on it the heading would hide labels."""


def write_sheet(path: Path, kept: Sequence[Kept]) -> None:
    """Writes the frames as a grid, a row a frame."""
    rows = []
    for frame in kept:
        cells: list[Image] = []
        for heading, image in (("camera", frame.camera), ("jetlens", frame.answer), ("exact truth", frame.truth)):
            strip = overlay.draw_hud(np.zeros((STRIP, *image.shape[1:]), np.uint8), [f"{heading}, frame {frame.index}"])
            cells += [np.concatenate([strip, image]), _gap(STRIP + image.shape[0], GAP)]
        rows += [np.concatenate(cells[:-1], axis=1)]
    width = rows[0].shape[1]
    parts = [part for row in rows for part in (row, _gap(GAP, width))]
    write_image(path, np.concatenate(parts[:-1], axis=0))


def _gap(height: int, width: int) -> Image:
    return np.full((height, width, 3), 255, np.uint8)
