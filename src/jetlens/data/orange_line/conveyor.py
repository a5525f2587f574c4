"""The moving belt, its rails and the dark machine around it, as strips that are drawn once a scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jetlens.data.orange_line.defects import Colour, linear
from jetlens.data.orange_line.fields import TILE, Float, plane_tile, random_stream

__all__ = ["BELTS", "Belt", "Conveyor"]

BELTS = ("rubber", "rollers", "slats")
RUBBER_COLOURS = ((46, 48, 50), (34, 58, 48), (40, 62, 88), (70, 70, 72), (196, 196, 190), (30, 30, 32))
ROLLER_COLOURS = ((150, 152, 154), (60, 62, 64), (38, 38, 40), (196, 194, 186))
SLAT_COLOURS = ((186, 190, 192), (52, 84, 124), (72, 74, 76), (200, 196, 184), (58, 96, 84))


@dataclass(frozen=True, slots=True)
class Belt:
    """What the conveyor is made of; top and bottom are the belt's edges over the image height."""

    kind: str
    colour: Colour
    top: float
    bottom: float
    lanes: int


class Conveyor:
    """Background pictures in linear light for any travel of the belt.

    Args:
        seed: of the scene.
        belt: what it is made of.
        size_hw: of the picture.
        travels: False for a single picture, which then needs no second length of belt.
    """

    def __init__(self, seed: int, belt: Belt, size_hw: tuple[int, int], travels: bool = True) -> None:
        height, width = size_hw
        self.width = width
        self.top, self.bottom = round(belt.top * height), round(belt.bottom * height)
        self.period = TILE * max(1, math.ceil(1.3 * height / TILE))
        rng = random_stream(seed, "conveyor")
        length = width + self.period + 1 if travels else width
        self._strip = self._belt_strip(rng, belt, height, length)
        self._frame = self._surroundings(rng, height)

    def picture(self, travel_px: float) -> Float:
        """A new picture [H, W, 3] of the belt moved to the right by this many pixels."""
        out = np.empty((len(self._frame), self.width, 3), np.float32)
        out[: self.top], out[self.bottom :] = self._frame[: self.top], self._frame[self.bottom :]
        start = (-travel_px) % self.period
        whole = min(int(start), self._strip.shape[1] - self.width)
        part = np.float32(start - int(start)) if whole + 1 + self.width <= self._strip.shape[1] else np.float32(0)
        here = self._strip[:, whole : whole + self.width]
        if part:
            following = self._strip[:, whole + 1 : whole + 1 + self.width]
            np.multiply(here, 1 - part, out=out[self.top : self.bottom])
            out[self.top : self.bottom] += part * following
        else:
            out[self.top : self.bottom] = here
        return out

    def _belt_strip(self, rng: np.random.Generator, belt: Belt, height: int, length: int) -> Float:
        rows, period = self.bottom - self.top, self.period
        columns = np.arange(length) % period
        fine, stain = plane_tile()
        shift = rng.integers(0, TILE, 4)
        y = np.arange(rows)
        texture = fine[np.ix_((y + shift[0]) % TILE, (columns + shift[1]) % TILE)]
        scale = max(1, 2 * height // TILE)
        blotch = stain[np.ix_((y // scale + shift[2]) % TILE, (columns * TILE // period + shift[3]) % TILE)]
        relief = {"rubber": _rubber, "rollers": _rollers, "slats": _slats}[belt.kind]
        shade, shine = relief(rng, belt, np.arange(length, dtype=np.float32) % period, period, rows, height)
        grey = shade * (1 + np.float32(rng.uniform(0.05, 0.12)) * texture + np.float32(rng.uniform(0.06, 0.2)) * blotch)
        edge = np.minimum(y, rows - 1 - y).astype(np.float32) * np.float32(1 / (0.05 * height))
        grey *= np.minimum(np.float32(0.45) + np.float32(0.55) * edge, 1)[:, None]  # the rails throw a shadow
        grey = np.maximum(grey, np.float32(0.02))
        strip = np.empty((rows, length, 3), np.float32)
        for k, value in enumerate(belt.colour):
            strip[..., k] = grey * np.float32(value) + shine
        return strip

    def _surroundings(self, rng: np.random.Generator, height: int) -> Float:
        """Rails above and below the belt, the same along its length: [H, 1, 3]."""
        y = np.arange(height, dtype=np.float32) + np.float32(0.5)
        rail = float(rng.uniform(0.03, 0.06)) * height
        steel = linear(*((168, 170, 174), (120, 122, 128), (60, 96, 150), (196, 200, 200))[int(rng.integers(4))])
        floor = linear(*((20, 20, 22), (30, 30, 34), (44, 42, 38))[int(rng.integers(3))])
        out = np.empty((height, 1, 3), np.float32)
        for k in range(3):
            out[:, 0, k] = floor[k]
        for start, sign in ((self.top, -1.0), (self.bottom, 1.0)):
            across = (y - np.float32(start)) * np.float32(sign / rail)
            inside = (across >= 0) & (across < 1)
            round_off = np.maximum(1 - (across * 2 - 1) * (across * 2 - 1), 0)
            glint = np.maximum(1 - np.abs(across - np.float32(0.4)) * 8, 0)
            for k in range(3):
                value = np.float32(steel[k]) * (np.float32(0.25) + np.float32(0.75) * round_off) + np.float32(0.25) * glint
                out[:, 0, k] = np.where(inside, value, out[:, 0, k])
            beyond = np.minimum(np.maximum(across - 1, 0) * np.float32(0.35), np.float32(0.7))
            out[:, 0, :] *= np.where(across >= 1, np.float32(0.55) + beyond, 1)[:, None].astype(np.float32)
        return out


def _pitch(rng: np.random.Generator, period: int, height: int, low: float, high: float) -> float:
    """A distance that repeats a whole number of times in the period, between two shares of the image height."""
    return period / max(1, round(period / (float(rng.uniform(low, high)) * height)))


def _rubber(rng: np.random.Generator, belt: Belt, x: Float, period: int, rows: int, height: int) -> tuple[Float, Float]:
    """A flat belt with a weave, now and then with a seam."""
    y = np.arange(rows, dtype=np.float32)
    weave = max(3.0, height / 90)
    ridge_x = np.abs((x * np.float32(1 / weave)) % 1 - np.float32(0.5))
    ridge_y = np.abs((y * np.float32(1 / weave)) % 1 - np.float32(0.5))
    depth = np.float32(rng.uniform(0.0, 0.35))
    shade = 1 - depth * (np.float32(0.5) - np.minimum(ridge_x[None, :], ridge_y[:, None]))
    at = float(rng.uniform(0, period))
    seam = np.maximum(1 - np.abs(x - np.float32(at)) * np.float32(1 / max(1.5, 0.008 * height)), 0)
    shade = shade * (1 - np.float32(0.4) * seam)
    return shade.astype(np.float32), np.zeros((1, 1), np.float32)


def _rollers(rng: np.random.Generator, belt: Belt, x: Float, period: int, rows: int, height: int) -> tuple[Float, Float]:
    """Waisted rollers across the belt, darkness between them."""
    pitch = _pitch(rng, period, height, 0.13, 0.24)
    y = np.arange(rows, dtype=np.float32)
    lane = (y * np.float32(belt.lanes / rows)) % 1 * 2 - 1
    half = np.float32(0.33) + np.float32(rng.uniform(0.06, 0.14)) * lane * lane
    across = ((x * np.float32(1 / pitch)) % 1 * 2 - 1)[None, :] / (2 * half)[:, None]
    round_off = np.sqrt(np.maximum(1 - across * across, 0))
    shade = np.where(np.abs(across) < 1, np.float32(0.22) + np.float32(0.85) * round_off, np.float32(0.06))
    glint = np.maximum(1 - np.abs(across + np.float32(0.25)) * np.float32(4.5), 0)
    ends = np.minimum(np.abs(np.abs(lane) - 1) * 14, 1)[:, None]
    shine = np.float32(rng.uniform(0.02, 0.22)) * glint * glint * ends
    return (shade * (np.float32(0.35) + np.float32(0.65) * ends)).astype(np.float32), shine.astype(np.float32)


def _slats(rng: np.random.Generator, belt: Belt, x: Float, period: int, rows: int, height: int) -> tuple[Float, Float]:
    """A modular plastic belt: rows of links with holes between the hinges."""
    pitch = _pitch(rng, period, height, 0.08, 0.15)
    link = float(rng.uniform(0.05, 0.09)) * height
    row = np.floor(x * np.float32(1 / pitch))
    u = (x * np.float32(1 / pitch)) % 1
    y = np.arange(rows, dtype=np.float32)
    v = (y[:, None] * np.float32(1 / link) + (row % 2 * np.float32(0.5))[None, :]) % 1
    hinge = np.minimum(u, 1 - u) * np.float32(pitch)
    gap = np.minimum(v, 1 - v) * np.float32(link)
    groove = max(1.0, 0.006 * height)
    shade = np.minimum(np.float32(0.35) + np.float32(0.65 / groove) * hinge, 1)[None, :] * np.minimum(
        np.float32(0.5) + np.float32(0.5 / groove) * gap, 1
    )
    hole = (np.abs(u - np.float32(0.5))[None, :] < 0.2) & (np.abs(v - np.float32(0.5)) < 0.16)
    shade = np.where(hole, np.float32(0.12), shade * (np.float32(0.85) + np.float32(0.3) * u)[None, :])
    return shade.astype(np.float32), np.zeros((1, 1), np.float32)
