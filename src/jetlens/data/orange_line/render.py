"""Draws one fruit into a canvas of linear light, and the truth of the same pixels with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetlens.data.orange_line.defects import Peel, blend, linear
from jetlens.data.orange_line.fields import Float, sphere_fields, step
from jetlens.data.orange_line.fruit import Fruit, Matrix

__all__ = ["Canvas", "Lights", "Placed", "draw_fruit", "draw_shadow"]


@dataclass(frozen=True, slots=True)
class Lights:
    """A key light, a fill light and a sky; directions are unit vectors in the view (z to the camera)."""

    key: Matrix
    fill: Matrix
    key_strength: float
    fill_strength: float
    sky: float
    bounce: float
    sharpness: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A fruit at one moment: centre and radius in pixels, rotation from its coordinates to the view."""

    fruit: Fruit
    tracker_id: int
    x: float
    y: float
    radius: float
    rotation: Matrix


@dataclass(frozen=True, slots=True)
class Canvas:
    """The picture in linear light [H, W, 3], the tracker id of the fruit on top of each pixel (0: none) and its defect."""

    light: Float
    owner: NDArray[np.int64]
    label: NDArray[np.uint8]

    def window(self, x: float, y: float, half_x: float, half_y: float) -> tuple[slice, slice] | None:
        """Rows and columns of a box about a point, cut at the border; None when nothing is left."""
        height, width = self.owner.shape
        top, bottom = max(0, int(y - half_y)), min(height, int(y + half_y) + 2)
        left, right = max(0, int(x - half_x)), min(width, int(x + half_x) + 2)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def _grid(rows: slice, columns: slice, placed_x: float, placed_y: float, radius: float) -> tuple[Float, Float]:
    """Pixel centres relative to a point, in radii: x [1, w] and y [h, 1]."""
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - placed_x)) * np.float32(1 / radius)
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - placed_y)) * np.float32(1 / radius)
    return x[None, :], y[:, None]


def draw_shadow(canvas: Canvas, placed: Placed, offset: tuple[float, float], reach: float, depth: float) -> None:
    """Darken a soft ellipse below a fruit; reach and offset are in radii."""
    x, y = placed.x + offset[0] * placed.radius, placed.y + offset[1] * placed.radius
    window = canvas.window(x, y, reach * placed.radius, reach * placed.radius)
    if window is None:
        return
    gx, gy = _grid(*window, x, y, placed.radius * reach)
    fall = np.maximum(1 - gx * gx - gy * gy, 0)
    fall = np.minimum(fall * np.float32(1.6), 1)
    canvas.light[window] *= (1 - np.float32(depth) * fall * fall * (3 - 2 * fall))[..., None]


def _surface(placed: Placed, rows: slice, columns: slice) -> tuple[Float, Float, Float]:
    """The visible surface of the ellipsoid: cover [h, w], and position and normal in the fruit's coordinates [3, h, w]."""
    fruit, rotation = placed.fruit, placed.rotation
    a = (rotation[:, None, :, None] * rotation[None, :, None, :] * fruit.shape).sum(axis=(2, 3))
    x, y = _grid(rows, columns, placed.x, placed.y, placed.radius)
    bend = np.ones(1, np.float32)
    for axis in fruit.lumps[:3]:
        p, q = (sum(float(rotation[k, j]) * axis[j] for j in range(3)) for k in range(2))
        bend = bend * (np.float32(p) * x + np.float32(q) * y)
    bend = 1 + np.float32(fruit.lumps[3]) * np.minimum(np.maximum(bend * 3, -1), 1)
    x, y = x * bend, y * bend
    sxx, sxy, syy = (a[i, j] - a[i, 2] * a[j, 2] / a[2, 2] for i, j in ((0, 0), (0, 1), (1, 1)))
    outline = np.float32(sxx) * x * x + np.float32(2 * sxy) * x * y + np.float32(syy) * y * y
    cover = (1 - np.sqrt(outline)) * np.float32(placed.radius) + np.float32(0.5)
    cover = np.minimum(np.maximum(cover, 0), 1)
    shrink = 1 / np.sqrt(np.maximum(outline, 1))  # pixels just outside take the surface of the rim
    x, y = x * shrink, y * shrink
    depth = np.sqrt(np.maximum(1 - outline, 0) * np.float32(1 / a[2, 2]))
    z = depth - np.float32(a[0, 2] / a[2, 2]) * x - np.float32(a[1, 2] / a[2, 2]) * y
    r = rotation.astype(np.float32)
    point = np.stack([r[0, k] * x + r[1, k] * y + r[2, k] * z for k in range(3)])
    m = fruit.shape.astype(np.float32)
    normal = np.stack([m[k, 0] * point[0] + m[k, 1] * point[1] + m[k, 2] * point[2] for k in range(3)])
    normal /= np.sqrt(normal[0] * normal[0] + normal[1] * normal[1] + normal[2] * normal[2])
    return cover, point, normal


def _mark_poles(peel: Peel, fruit: Fruit) -> None:
    """Paint the stem with its star and, opposite, the navel."""
    along = peel.along(fruit.stem)
    s = np.asarray(fruit.stem)
    first = np.cross(s, np.array([1.0, 0, 0]) if abs(s[0]) < 0.7 else np.array([0, 1.0, 0]))
    first = first / np.sqrt((first * first).sum())
    second = np.cross(s, first)
    x = peel.along((float(first[0]), float(first[1]), float(first[2])))
    y = peel.along((float(second[0]), float(second[1]), float(second[2])))
    squared = x * x + y * y
    if float(along.max()) > 0.9:
        near = np.where(along > 0, squared, np.float32(4))
        blend(peel.albedo, linear(168, 150, 52), np.float32(0.55) * step(0.06, 0.0, near))
        x2, y2 = x * x, y * y
        star = x * (x2 * x2 - 10 * x2 * y2 + 5 * y2 * y2) / np.maximum(squared * squared * np.sqrt(squared), np.float32(1e-6))
        edge = np.float32(fruit.calyx) * (1 + np.float32(0.42) * star) + np.float32(0.012) * peel.rough
        leaf = step(0.1, -0.1, (np.sqrt(near) - edge) * np.float32(10))
        blend(peel.albedo, linear(*((104, 118, 56) if fruit.green else (124, 104, 58))), np.float32(0.9) * leaf)
        blend(peel.albedo, linear(178, 164, 118), np.float32(0.85) * step(0.0022, 0.0006, near))
        peel.dull(np.float32(0.8) * leaf)
    if float(along.min()) < -0.9:
        near = np.sqrt(np.where(along < 0, squared, np.float32(4))) + np.float32(0.03) * peel.rough
        crease = step(0.045, 0.0, np.abs(near - np.float32(0.10)))
        blend(peel.albedo, linear(190, 106, 26), np.float32(0.6) * crease)
        blend(peel.albedo, linear(226, 170, 84), np.float32(0.45) * step(0.09, 0.05, near))
        blend(peel.albedo, linear(122, 74, 30), np.float32(0.85) * step(0.04, 0.015, near))


def _peel(placed: Placed, point: Float) -> tuple[Peel, Float]:
    """The unblemished peel at surface points, and its bumps [3, h, w]."""
    fruit = placed.fruit
    u = point / np.sqrt(point[0] * point[0] + point[1] * point[1] + point[2] * point[2])
    field = sphere_fields(placed.radius).sample(u[0], u[1], u[2])
    bump, (pore, low, tint, rough, web) = field[:3], field[3:]
    albedo = np.empty_like(u)
    ripe, pale, green = fruit.peel
    albedo[:] = np.array(ripe, np.float32)[:, None, None]
    peel = Peel(u, albedo, np.ones(u.shape[1:], np.float32), np.zeros(u.shape[1:], np.uint8), pore, low, tint, rough, web)
    along = peel.along(fruit.stem)
    blend(albedo, pale, step(-0.7, 0.9, low + np.float32(0.7) * along))
    if fruit.green > 0:
        blend(albedo, green, np.float32(0.8) * step(1.1 - fruit.green, 2.0 - fruit.green, tint + np.float32(0.8) * along))
    albedo *= 1 - np.float32(0.34) * pore + np.float32(0.06) * rough
    blend(albedo, linear(118, 74, 34), np.float32(fruit.specks) * pore * step(0.55, 1.0, tint - low))
    _mark_poles(peel, fruit)
    for defect in fruit.defects:
        defect.paint(peel)
    return peel, bump


def _shade(peel: Peel, bumps: Float, normal: Float, facing: Float, placed: Placed, lights: Lights) -> Float:
    """Light that leaves the surface, [3, h, w]."""
    fruit = placed.fruit
    bumped = normal + np.float32(fruit.bump) * bumps

    def lit(direction: Matrix) -> Float:
        d = (placed.rotation * direction[:, None]).sum(axis=0).astype(np.float32)
        cosine: Float = bumped[0] * d[0] + bumped[1] * d[1] + bumped[2] * d[2]
        return cosine

    def highlight(direction: Matrix, doublings: int) -> Float:
        half = direction + np.array([0.0, 0.0, 1.0])
        value: Float = np.maximum(lit(half / np.sqrt((half * half).sum())), 0)
        value = np.minimum(value, np.float32(1.02))
        for _ in range(doublings):
            value = value * value
        return value

    key = np.maximum((lit(lights.key) + np.float32(0.25)) * np.float32(0.8), 0)
    fill = np.maximum(lit(lights.fill), 0)
    open_sky = np.minimum(np.maximum(np.float32(0.42) + np.float32(0.62) * facing, 0), 1)
    diffuse = np.float32(lights.key_strength) * key + np.float32(lights.fill_strength) * fill + np.float32(lights.sky) * open_sky
    diffuse *= open_sky
    out: Float = peel.albedo * diffuse
    out += peel.albedo * (np.float32(lights.bounce) * (1 - facing))
    shine = np.float32(0.55 * lights.key_strength) * highlight(lights.key, lights.sharpness)
    shine += np.float32(0.45 * lights.fill_strength) * highlight(lights.fill, lights.sharpness)
    shine += np.float32(0.03 * lights.key_strength) * highlight(lights.key, 3)
    shine *= np.float32(fruit.gloss) * peel.gloss
    out += shine
    return out


def draw_fruit(canvas: Canvas, placed: Placed, lights: Lights) -> None:
    """Draw a fruit over what is there; it owns the pixels that it covers by at least one half."""
    window = canvas.window(placed.x, placed.y, 1.2 * placed.radius, 1.2 * placed.radius)
    if window is None:
        return
    cover, point, normal = _surface(placed, *window)
    peel, bumps = _peel(placed, point)
    toward = placed.rotation[2].astype(np.float32)
    facing = normal[0] * toward[0] + normal[1] * toward[1] + normal[2] * toward[2]
    light = _shade(peel, bumps, normal, facing, placed, lights)
    target = canvas.light[window]
    target += (light.transpose(1, 2, 0) - target) * cover[..., None]
    owned = cover >= 0.5
    canvas.owner[window][owned] = placed.tracker_id
    canvas.label[window][owned] = peel.label[owned]
