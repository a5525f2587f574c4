"""A classical operation as a view of one picture: labelled panels, numbers, and how panels become one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens import overlay
from jetlens.frame import Image
from jetlens.registry import require

__all__ = ["Look", "Panel", "View", "as_gray_picture", "mosaic", "opencv"]

GAP = 6
TALLEST = 1200


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture, uint8 [height, width, 3] in RGB, and what it shows."""

    title: str
    image: Image


@dataclass(frozen=True, slots=True)
class Look:
    """What a view makes of one picture.

    Attributes:
        panels: in reading order.
        columns: how many stand beside each other.
        below: panels as wide as all columns together, under them.
    """

    panels: Sequence[Panel]
    columns: int
    lines: Sequence[str]
    numbers: Mapping[str, Any]
    below: Sequence[Panel] = ()


class View(Protocol):
    """One operation with its options; called with a picture, uint8 [height, width, 3] in RGB.

    Attributes:
        name: of the command.
        text: the explanation.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> tuple[str, ...]: ...

    def __call__(self, image: Image) -> Look: ...


def opencv() -> Any:
    """The module cv2.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return require("cv2", extra="cpu", why="this view")


def as_gray_picture(values: NDArray[Any], low: float, high: float) -> Image:
    """A map of numbers as a grey picture, black at ``low`` and white at ``high``."""
    levels = np.clip((np.asarray(values, np.float32) - low) * (255.0 / max(1e-9, high - low)), 0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


def mosaic(look: Look, width: int) -> Image:
    """The panels of a look as one picture of about this width, each with its title in it."""
    height, tile = _fitted(look.panels[0].image, (width - GAP * (look.columns - 1)) // look.columns)
    whole = tile * look.columns + GAP * (look.columns - 1)
    rows = []
    for first in range(0, len(look.panels), look.columns):
        cells = [_titled(panel, (height, tile)) for panel in look.panels[first : first + look.columns]]
        cells += [np.full((height, tile, 3), 255, np.uint8)] * (look.columns - len(cells))
        gap = np.full((height, GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1))
    for panel in look.below:
        rows.append(_titled(panel, (_fitted(panel.image, whole)[0], whole)))
    gap = np.full((GAP, whole, 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=0)


def _fitted(image: Image, width: int) -> tuple[int, int]:
    """Height and width of a picture in a column; a very tall one is made narrower."""
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return (height, width) if height <= TALLEST else (TALLEST, max(1, round(width * TALLEST / height)))


def _titled(panel: Panel, size_hw: tuple[int, int]) -> Image:
    """A panel at its size in the mosaic; the title is written afterwards, so that all titles are of one size."""
    picture = PillowImage.fromarray(panel.image).resize((size_hw[1], size_hw[0]), PillowImage.Resampling.BILINEAR)
    return overlay.draw_hud(np.array(picture), [panel.title])
