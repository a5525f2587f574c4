"""The three kinds of peel defects, painted in the fruit's own coordinates so that they move with its surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.data.orange_line.fields import Float, step

__all__ = ["Colour", "Defect", "Peel", "Sunburn", "Ulcer", "Vector", "WindScar", "blend", "linear"]

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]


def linear(red: float, green: float, blue: float) -> Colour:
    """Linear light of an sRGB colour given in grey levels 0-255."""
    return (red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2


@dataclass(frozen=True, slots=True)
class Peel:
    """The visible side of one fruit: arrays of one shape [h, w], painted in place.

    Attributes:
        u: unit directions of the surface points in the fruit's coordinates, [3, h, w].
        albedo: linear RGB, [3, h, w].
        gloss: factor on the highlights, 0 is matt.
        label: class id of the defect whose coverage is at least one half, else 0.
        pore, low, tint, rough, web: noise on the surface.
    """

    u: Float
    albedo: Float
    gloss: Float
    label: NDArray[np.uint8]
    pore: Float
    low: Float
    tint: Float
    rough: Float
    web: Float

    def squared_distance(self, centre: Vector) -> Float:
        """Squared chord from a direction, on the unit sphere."""
        cosine = self.u[0] * np.float32(centre[0]) + self.u[1] * np.float32(centre[1]) + self.u[2] * np.float32(centre[2])
        squared: Float = np.maximum(2 - 2 * cosine, 0)
        return squared

    def dull(self, amount: Float) -> None:
        """Take this share of the gloss away."""
        np.multiply(self.gloss, 1 - amount, out=self.gloss)

    def along(self, axis: Vector) -> Float:
        """The coordinate along an axis."""
        coordinate: Float = self.u[0] * np.float32(axis[0]) + self.u[1] * np.float32(axis[1]) + self.u[2] * np.float32(axis[2])
        return coordinate


class Defect(Protocol):
    """One kind of damage on one fruit."""

    def paint(self, peel: Peel) -> None:
        """Change colour and gloss, and label what is covered by at least one half."""


def blend(albedo: Float, colour: Colour, alpha: Float) -> None:
    """Mix a colour into [3, h, w] in place."""
    for plane, value in zip(albedo, colour, strict=True):
        plane += alpha * (np.float32(value) - plane)


@dataclass(frozen=True, slots=True)
class Sunburn:
    """One large bleached or browned patch with a ragged dark rim and a yellow halo (class 1)."""

    centre: Vector
    axis: Vector
    radius: float
    stretch: float
    colour: Colour
    speckle: Colour
    rim: float

    def paint(self, peel: Peel) -> None:
        side = peel.along(self.axis) - np.float32(sum(a * c for a, c in zip(self.axis, self.centre, strict=True)))
        distance = np.sqrt(peel.squared_distance(self.centre) + np.float32(self.stretch) * side * side) * np.float32(1 / self.radius)
        field = 1 - distance + np.float32(0.20) * peel.rough + np.float32(0.16) * peel.low
        blend(peel.albedo, linear(196, 168, 42), np.float32(0.6) * step(-0.55, 0.05, field))
        inside = step(-0.07, 0.07, field)
        blend(peel.albedo, self.colour, np.float32(0.93) * inside)
        mottle = np.maximum(peel.pore, step(0.25, 0.9, peel.rough + np.float32(0.4) * peel.tint))
        blend(peel.albedo, self.speckle, np.float32(0.6) * inside * mottle)
        blend(peel.albedo, linear(92, 58, 38), np.float32(self.rim) * inside * step(0.2, 0.04, field))
        peel.dull(np.float32(0.75) * inside)
        peel.label[inside >= 0.5] = 1


@dataclass(frozen=True, slots=True)
class Ulcer:
    """Small dark corky craters with a lighter heart and an olive halo (class 2)."""

    spots: tuple[tuple[Vector, float], ...]
    colour: Colour
    heart: Colour

    def paint(self, peel: Peel) -> None:
        field = np.full(peel.u.shape[1:], -9, np.float32)
        for centre, radius in self.spots:
            near = 1 - np.sqrt(peel.squared_distance(centre)) * np.float32(1 / radius)
            np.maximum(field, near, out=field)
        field += np.float32(0.24) * peel.rough
        blend(peel.albedo, linear(142, 118, 30), np.float32(0.6) * step(-0.8, 0.0, field))
        inside = step(-0.16, 0.16, field)
        blend(peel.albedo, self.colour, np.float32(0.95) * inside)
        blend(peel.albedo, self.heart, np.float32(0.7) * step(0.38, 0.7, field - np.float32(0.25) * peel.pore))
        peel.dull(np.float32(0.9) * inside)
        peel.label[inside >= 0.5] = 2


@dataclass(frozen=True, slots=True)
class WindScar:
    """Thin grey-brown scars (class 3): streaks along arcs, and a web inside a region.

    Attributes:
        streaks: (pole of the arc's plane, middle of the arc, half length, half width), lengths on the unit sphere.
        webs: (centre, radius) of the regions that a web fills.
    """

    streaks: tuple[tuple[Vector, Vector, float, float], ...]
    webs: tuple[tuple[Vector, float], ...]
    colour: Colour
    line: float

    def paint(self, peel: Peel) -> None:
        field = np.full(peel.u.shape[1:], -9, np.float32)
        wander = np.float32(0.055) * peel.low + np.float32(0.03) * peel.rough
        for pole, middle, length, width in self.streaks:
            offset = np.abs(peel.along(pole) + wander) * np.float32(1 / width)
            taper = np.sqrt(peel.squared_distance(middle)) * np.float32(1 / length)
            taper *= taper
            np.maximum(field, 1 - offset - taper * taper, out=field)
        for centre, radius in self.webs:
            inside = 1 - np.sqrt(peel.squared_distance(centre)) * np.float32(1 / radius) + np.float32(0.35) * peel.low
            # lines swell to blotches where the tint noise is high and fade out where it is low
            lines = 1 - peel.web * np.float32(1 / self.line) + np.float32(0.9) * np.minimum(peel.tint, 1)
            np.maximum(field, np.minimum(np.minimum(lines, 1), 3 * inside), out=field)
        field += np.float32(0.6) * peel.rough
        inside = step(-0.2, 0.3, field)
        blend(peel.albedo, self.colour, np.float32(0.92) * inside)
        blend(peel.albedo, linear(84, 56, 40), np.float32(0.35) * inside * peel.pore)
        peel.dull(np.float32(0.8) * inside)
        peel.label[inside >= 0.5] = 3
