"""One navel orange: its shape, peel and defects drawn from a random stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetlens.data.orange_line.defects import Colour, Defect, Sunburn, Ulcer, Vector, WindScar, linear

__all__ = ["DEFECTIVE_SHARE", "Fruit", "grow"]

Matrix = NDArray[np.float64]

DEFECTIVE_SHARE = 0.58
SECOND_DEFECT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Fruit:
    """What stays the same about a fruit while it travels.

    Attributes:
        radius: mean radius over the image height.
        pose: rotation from the fruit's coordinates to the view (x right, y down, z to the camera) half way along the belt.
        shape: symmetric matrix of the ellipsoid u' shape u = 1.
        lumps: three axes whose product bends the outline, and how much.
        stem: direction of the stem; the navel is opposite.
        calyx: radius of the green star at the stem, on the unit sphere.
        peel: linear colours of the ripe side, the paler side and the green parts.
        green: how far the green reaches, 0 to 1.
        specks: strength of the harmless dark specks.
        bump: depth of the dimples.
        gloss: strength of the highlights.
        defects: in the order in which they are painted.
    """

    radius: float
    pose: Matrix
    shape: Matrix
    lumps: tuple[Vector, Vector, Vector, float]
    stem: Vector
    calyx: float
    peel: tuple[Colour, Colour, Colour]
    green: float
    specks: float
    bump: float
    gloss: float
    defects: tuple[Defect, ...]


def _unit(vector: Matrix) -> Matrix:
    return vector / math.sqrt(float((vector * vector).sum()))


def _vector(values: Matrix) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _rotation(rng: np.random.Generator) -> Matrix:
    w, x, y, z = _unit(rng.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


class _Sower:
    """Draws defects on the side that the camera sees."""

    def __init__(self, rng: np.random.Generator, pose: Matrix) -> None:
        self.rng = rng
        self.pose = pose
        self.used: list[Matrix] = []

    def facing(self, cone_deg: float) -> Matrix:
        """A direction within a cone about the line of sight, away from the defects sown before."""
        for _ in range(8):
            cosine = 1 - float(self.rng.random()) * (1 - math.cos(math.radians(cone_deg)))
            angle = float(self.rng.random()) * 2 * math.pi
            sine = math.sqrt(max(0.0, 1 - cosine * cosine))
            local: Matrix = (self.pose * np.array([[sine * math.cos(angle)], [sine * math.sin(angle)], [cosine]])).sum(axis=0)
            if all(float((local * other).sum()) < 0.78 for other in self.used):
                break
        self.used.append(local)
        return local

    def beside(self, centre: Matrix, spread: float) -> Matrix:
        return _unit(centre + spread * self.rng.standard_normal(3))

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def shade(self, red: float, green: float, blue: float) -> Colour:
        """A colour near an sRGB one, in linear light."""
        light = self.uniform(0.88, 1.12)
        r, g, b = (min(250.0, value * light * self.uniform(0.95, 1.05)) for value in (red, green, blue))
        return linear(r, g, b)

    def sunburn(self) -> Sunburn:
        tones = (
            ((212, 196, 156), (112, 78, 50), 0.75),
            ((190, 150, 104), (128, 88, 58), 0.45),
            ((158, 104, 68), (206, 168, 120), 0.3),
            ((176, 140, 112), (216, 196, 140), 0.5),
        )
        colour, speckle, rim = tones[int(self.rng.integers(len(tones)))]
        centre = self.facing(42)
        return Sunburn(
            centre=_vector(centre),
            axis=_vector(_unit(self.rng.standard_normal(3))),
            radius=self.uniform(0.3, 0.52),
            stretch=self.uniform(0.0, 1.2),
            colour=self.shade(*colour),
            speckle=self.shade(*speckle),
            rim=rim,
        )

    def ulcer(self, minor: bool) -> Ulcer:
        spots: list[tuple[Vector, float]] = []
        clusters = 1 if minor else int(self.rng.integers(2, 5))
        for k in range(clusters):
            centre = self.facing(52 if k else 40)
            spots.append((_vector(centre), self.uniform(0.055, 0.07) if minor else self.uniform(0.075, 0.14)))
            for _ in range(int(self.rng.integers(0, 2 if minor else 4))):
                spots.append((_vector(self.beside(centre, 0.11)), self.uniform(0.045, 0.055 if minor else 0.09)))
        return Ulcer(tuple(spots), colour=self.shade(64, 42, 32), heart=self.shade(128, 96, 74))

    def wind_scar(self, minor: bool) -> WindScar:
        colour = self.shade(*((146, 88, 48), (150, 112, 78), (122, 74, 46))[int(self.rng.integers(3))])
        streaks: list[tuple[Vector, Vector, float, float]] = []
        webs: list[tuple[Vector, float]] = []
        centre = self.facing(34)
        style = int(self.rng.integers(3))
        if style != 1 or minor:
            across = _unit(np.cross(centre, self.rng.standard_normal(3)))
            for _ in range(1 if minor else int(self.rng.integers(2, 5))):
                middle = self.beside(centre, 0.2)
                pole = _unit(np.cross(middle, np.cross(across + 0.15 * self.rng.standard_normal(3), middle)))
                length = self.uniform(0.25, 0.3) if minor else self.uniform(0.4, 0.75)
                streaks.append((_vector(pole), _vector(middle), length, self.uniform(0.026, 0.032) if minor else self.uniform(0.034, 0.06)))
        if style and not minor:
            webs.append((_vector(centre), self.uniform(0.4, 0.6)))
        return WindScar(tuple(streaks), tuple(webs), colour=colour, line=self.uniform(0.2, 0.28))

    def defects(self) -> tuple[Defect, ...]:
        """None, one, or a large and a small one of another kind."""
        if self.rng.random() >= DEFECTIVE_SHARE:
            return ()
        kind, second = int(self.rng.integers(3)), self.rng.random() < SECOND_DEFECT_SHARE
        if kind == 0:
            first: Defect = self.sunburn()
            extra: Defect = self.ulcer(minor=True) if self.rng.random() < 0.5 else self.wind_scar(minor=True)
        elif kind == 1:
            first, extra = self.ulcer(minor=False), self.wind_scar(minor=True)
        else:
            first, extra = self.wind_scar(minor=False), self.ulcer(minor=True)
        return (first, extra) if second else (first,)


def _peel(rng: np.random.Generator, ripeness: float) -> tuple[Colour, Colour, Colour]:
    """Ripe, pale and green colours; ripeness 0 is yellow, 1 deep orange."""

    def near(red: float, green: float, blue: float) -> Colour:
        r, g, b = (min(250.0, value + float(rng.uniform(-6, 6))) for value in (red, green, blue))
        return linear(r, g, max(b, 4.0))

    ripe = near(242, 170 - 44 * ripeness, 26 - 14 * ripeness)
    pale = near(240, 188 - 38 * ripeness, 46 - 22 * ripeness)
    return ripe, pale, near(176 - 30 * rng.random(), 158, 40)


def grow(rng: np.random.Generator, radius: float, ripeness: float) -> Fruit:
    """Draw a fruit of about this radius (over the image height) and ripeness (0 to 1)."""
    pose = _rotation(rng)
    stem = _unit(rng.standard_normal(3))
    side = _unit(np.cross(stem, rng.standard_normal(3)))
    along, across = rng.uniform(0.90, 1.08), rng.uniform(0.95, 1.04)
    shape = np.eye(3) + (1 / along**2 - 1) * stem[:, None] * stem + (1 / across**2 - 1) * side[:, None] * side
    lumps = [_vector(_unit(rng.standard_normal(3))) for _ in range(3)]
    sower = _Sower(rng, pose)
    return Fruit(
        radius=radius * float(rng.uniform(0.84, 1.14)),
        pose=pose,
        shape=shape,
        lumps=(lumps[0], lumps[1], lumps[2], float(rng.uniform(0.0, 0.07))),
        stem=_vector(stem),
        calyx=float(rng.uniform(0.05, 0.1)),
        peel=_peel(rng, min(1.0, max(0.0, ripeness + float(rng.normal(0, 0.18))))),
        green=float(rng.uniform(0.25, 0.9)) if rng.random() < 0.35 else 0.0,
        specks=float(rng.uniform(0.3, 0.85)) if rng.random() < 0.5 else 0.0,
        bump=float(rng.uniform(0.14, 0.30)),
        gloss=float(rng.uniform(0.3, 1.0)),
        defects=sower.defects(),
    )
