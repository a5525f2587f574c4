"""Random streams and the precomputed noise that every scene of the orange line shares.

Pixels are made with + - * / sqrt, comparisons and table look-ups only: these are exact in IEEE arithmetic, so one seed gives the
same bits on every CPU. Transcendental functions and BLAS differ in the last place between instruction sets and stay out of them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Float", "SphereField", "grain", "plane_tile", "random_stream", "sphere_fields", "step"]

Float = NDArray[np.float32]

CHANNELS = 8
"""Channels of a sphere field: bump x y z, pore, low, tint, rough, web."""
FINEST = 513
GRAIN_LENGTH = 1 << 20
TILE = 256


def random_stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments, so the order of use is free."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(purpose.encode()), *keys]))


def step(edge0: float, edge1: float, value: Float) -> Float:
    """Smooth step from 0 at edge0 to 1 at edge1."""
    t: Float = (value - np.float32(edge0)) * np.float32(1.0 / (edge1 - edge0))
    np.maximum(t, 0, out=t)
    np.minimum(t, 1, out=t)
    smooth: Float = t * t * (3 - 2 * t)
    return smooth


@lru_cache(maxsize=1)
def grain() -> Float:
    """A long row of unit normal numbers, read at random offsets as sensor noise."""
    values = random_stream(0, "grain").standard_normal(GRAIN_LENGTH, dtype=np.float32)
    values.setflags(write=False)
    return values


@lru_cache(maxsize=1)
def plane_tile() -> Float:
    """Two tileable noise fields [2, 256, 256] in about [-1, 1]: fine grain and slow stains."""
    layers = []
    for name, octaves in (("fine", ((128, 0.5), (64, 0.35), (256, 0.5))), ("stain", ((4, 0.6), (8, 0.35), (16, 0.2)))):
        total = np.zeros((TILE, TILE), np.float32)
        for cells, weight in octaves:
            lattice = random_stream(0, name, cells).uniform(-1, 1, (cells, cells)).astype(np.float32)
            at = np.arange(TILE, dtype=np.float32) * np.float32(cells / TILE)
            low = at.astype(np.int64)
            part = at - low
            part = part * part * (3 - 2 * part)
            high = (low + 1) % cells
            rows = lattice[low] * (1 - part)[:, None] + lattice[high] * part[:, None]
            total += np.float32(weight) * (rows[:, low] * (1 - part) + rows[:, high] * part)
        layers.append(total)
    tile = np.stack(layers)
    tile.setflags(write=False)
    return tile


def _octahedron(size: int) -> Float:
    """Unit directions [3, size * size] of the vertices of an octahedral map."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    b, a = np.meshgrid(line, line, indexing="ij")
    z = 1 - np.abs(a) - np.abs(b)
    sign_a, sign_b = np.where(a < 0, -1, 1).astype(np.float32), np.where(b < 0, -1, 1).astype(np.float32)
    x = np.where(z < 0, (1 - np.abs(b)) * sign_a, a)
    y = np.where(z < 0, (1 - np.abs(a)) * sign_b, b)
    length = np.sqrt(x * x + y * y + z * z)
    return np.stack([x / length, y / length, z / length]).reshape(3, -1).astype(np.float32)


def _value_noise(u: Float, frequency: float, key: int) -> Float:
    """Trilinear value noise in [-1, 1] at directions [3, n]."""
    lattice = random_stream(0, "value noise", key).uniform(-1, 1, 32**3).astype(np.float32)
    at = u * np.float32(frequency) + 16
    cell = at.astype(np.int64)
    part = at - cell
    part = part * part * (3 - 2 * part)
    total = np.zeros(u.shape[1], np.float32)
    for corner in range(8):
        dx, dy, dz = corner & 1, corner >> 1 & 1, corner >> 2
        index = (((cell[0] + dx) & 31) * 32 + ((cell[1] + dy) & 31)) * 32 + ((cell[2] + dz) & 31)
        wx, wy, wz = (part[k] if d else 1 - part[k] for k, d in enumerate((dx, dy, dz)))
        total += lattice[index] * (wx * wy * wz)
    return total


def _cells(u: Float, frequency: float, key: int) -> tuple[Float, Float, Float]:
    """Cellular noise: distance to the nearest point [n], to the second [n], and the vector from the nearest [3, n], in cells."""
    n = 64
    jitter = random_stream(0, "cells", key).uniform(0.15, 0.85, (n**3, 3)).astype(np.float32)
    at = u * np.float32(frequency) + n // 2
    base = (at - np.float32(0.5)).astype(np.int64)
    best = np.full(u.shape[1], 9, np.float32)
    second = best.copy()
    vector = np.zeros_like(u)
    for corner in range(8):
        cell = [base[k] + (corner >> k & 1) for k in range(3)]
        point = jitter[((cell[0] & 63) * n + (cell[1] & 63)) * n + (cell[2] & 63)]
        delta = np.stack([at[k] - cell[k].astype(np.float32) - point[:, k] for k in range(3)])
        squared = delta[0] * delta[0] + delta[1] * delta[1] + delta[2] * delta[2]
        nearer = squared < best
        second = np.where(nearer, best, np.minimum(second, squared))
        best = np.where(nearer, squared, best)
        vector = np.where(nearer, delta, vector)
    return np.sqrt(best), np.sqrt(second), vector


def _paint_sphere(u: Float) -> Float:
    """The field at directions [3, n] -> [n, CHANNELS]."""
    rough = 0.55 * _value_noise(u, 5.0, 5) + 0.5 * _value_noise(u, 10.5, 6) + 0.4 * _value_noise(u, 15.5, 7)
    low = 1.1 * _value_noise(u, 1.7, 1) + 0.6 * _value_noise(u, 3.6, 2)
    tint = 1.1 * _value_noise(u, 1.3, 3) + 0.6 * _value_noise(u, 4.1, 4)
    near, _, away = _cells(u, 21.0, 1)
    pore = step(0.42, 0.12, near)
    slope = step(0.75, 0.35, near) * step(0.02, 0.3, near)  # the wall of a dimple leans towards its middle
    bump = away * (-slope / np.maximum(near, np.float32(0.05)))
    _, _, swell = _cells(u, 9.0, 3)
    bump = bump + np.float32(0.45) * swell
    inward = bump[0] * u[0] + bump[1] * u[1] + bump[2] * u[2]
    bump = bump - inward * u
    warped = u + np.float32(0.05) * np.stack([_value_noise(u, 7.0, k) for k in (8, 9, 10)])
    first, second, _ = _cells(warped, 6.0, 2)
    return np.stack([bump[0], bump[1], bump[2], pore, low, tint, rough, second - first], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SphereField:
    """Noise over a sphere in an octahedral map: texels [size * size, CHANNELS]."""

    size: int
    texels: Float

    def sample(self, ux: Float, uy: Float, uz: Float) -> Float:
        """Bilinear look-up at unit directions of any one shape -> [CHANNELS, *shape]."""
        shape = ux.shape
        scale = 1 / (np.abs(ux) + np.abs(uy) + np.abs(uz))
        a, b = ux * scale, uy * scale
        back = uz < 0
        folded_a = np.copysign(1 - np.abs(b), a)
        folded_b = np.copysign(1 - np.abs(a), b)
        half = np.float32((self.size - 1) / 2)
        a = (np.where(back, folded_a, a) + 1).ravel() * half
        b = (np.where(back, folded_b, b) + 1).ravel() * half
        column = np.minimum(a.astype(np.int32), self.size - 2)
        row = np.minimum(b.astype(np.int32), self.size - 2)
        right, down = a - column, b - row
        index = row * self.size + column
        lower, upper = right * down, right - right * down
        out = self.texels.take(index, axis=0)
        out *= (1 - right - down + lower)[:, None]
        for offset, weight in ((1, upper), (self.size, down - lower), (self.size + 1, lower)):
            part = self.texels.take(index + offset, axis=0)
            part *= weight[:, None]
            out += part
        return np.ascontiguousarray(out.T).reshape(CHANNELS, *shape)


def _halve(texels: Float, size: int) -> Float:
    """Every second vertex of an octahedral map, its inner ones averaged with their neighbours."""
    grid = texels.reshape(size, size, CHANNELS)
    coarse = grid[::2, ::2].copy()
    rows = 0.25 * grid[1:-2:2] + 0.5 * grid[2:-1:2] + 0.25 * grid[3::2]
    coarse[1:-1, 1:-1] = 0.25 * rows[:, 1:-2:2] + 0.5 * rows[:, 2:-1:2] + 0.25 * rows[:, 3::2]
    return coarse.reshape(-1, CHANNELS)


@lru_cache(maxsize=1)
def _pyramid() -> tuple[SphereField, ...]:
    size, texels = FINEST, _paint_sphere(_octahedron(FINEST))
    levels = []
    while True:
        texels.setflags(write=False)
        levels.append(SphereField(size, texels))
        if size <= 33:
            return tuple(levels)
        texels = _halve(texels, size)
        size = (size + 1) // 2


def sphere_fields(radius_px: float) -> SphereField:
    """The level with about one texel a pixel for a fruit of this radius."""
    levels = _pyramid()
    for level in reversed(levels):
        if level.size >= 2.6 * radius_px:
            return level
    return levels[0]
