"""One scene: its style, the fruit on its belt, and the picture and the truth of any moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jetlens.data.orange_line.camera import Camera, expose
from jetlens.data.orange_line.conveyor import BELTS, ROLLER_COLOURS, RUBBER_COLOURS, SLAT_COLOURS, Belt, Conveyor
from jetlens.data.orange_line.defects import linear
from jetlens.data.orange_line.fields import random_stream
from jetlens.data.orange_line.fruit import Fruit, Matrix, grow
from jetlens.data.orange_line.render import Canvas, Lights, Placed, draw_fruit, draw_shadow
from jetlens.data.orange_line.truth import LineTruth, read_truth
from jetlens.frame import Image

__all__ = ["Scene", "Style", "draw_style"]

FRUIT_KEPT = 256
MARGIN = 1.3


@dataclass(frozen=True, slots=True)
class Style:
    """What a scene looks like, drawn from its seed; lengths are over the image height.

    Attributes:
        radius: mean radius of the fruit.
        ripeness: mean ripeness, 0 yellow to 1 deep orange.
        pitch: distance between the places for fruit in a lane.
        vacancy: share of the places that stay empty.
        speed: travel of the belt in a second.
        direction: 1 to the right, -1 to the left.
        slip: share of free rolling with which the fruit turn as they travel.
    """

    belt: Belt
    camera: Camera
    lights: Lights
    radius: float
    ripeness: float
    pitch: float
    vacancy: float
    speed: float
    direction: int
    slip: float


def _direction(azimuth: float, elevation_deg: float) -> Matrix:
    elevation = math.radians(elevation_deg)
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def _kernel(sigma_px: float, streak_px: float) -> tuple[float, ...]:
    """Weights of a symmetric kernel, the middle first: a Gaussian run along a streak."""
    reach = min(12, math.ceil(2.2 * sigma_px + streak_px / 2))
    if sigma_px < 0.2 and streak_px < 0.5:
        return (1.0,)
    sigma = max(sigma_px, 0.3)
    points = [streak_px * (k / 8 - 0.5) for k in range(9)]
    weights = [sum(math.exp(-((k - p) ** 2) / (2 * sigma * sigma)) for p in points) for k in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return tuple(weight / total for weight in weights)


def _belt(rng: np.random.Generator, radius: float, crowded: bool) -> Belt:
    kind = BELTS[int(rng.integers(len(BELTS)))]
    colours = {"rubber": RUBBER_COLOURS, "rollers": ROLLER_COLOURS, "slats": SLAT_COLOURS}[kind]
    light = float(rng.uniform(0.85, 1.15))
    r, g, b = (min(235.0, value * light * float(rng.uniform(0.97, 1.03))) for value in colours[int(rng.integers(len(colours)))])
    top, bottom = float(rng.uniform(0.02, 0.08)), float(rng.uniform(0.92, 0.98))
    return Belt(kind, linear(r, g, b), top, bottom, lanes=max(1, int((bottom - top) / ((1.65 if crowded else 2.02) * radius))))


def draw_style(seed: int, size_hw: tuple[int, int], fps: float, wide: bool) -> Style:
    """Draw a style; wide ones vary more than one production line would."""
    rng = random_stream(seed, "wide style" if wide else "style")

    def between(low: float, high: float, stretch: float = 0.0) -> float:
        return float(rng.uniform(low - stretch, high + stretch) if wide else rng.uniform(low, high))

    radius = between(0.145, 0.175, 0.035)
    belt = _belt(rng, radius, crowded=wide and bool(rng.random() < 0.25))
    azimuth = float(rng.uniform(0, 2 * math.pi))
    lights = Lights(
        key=_direction(azimuth, between(48, 66, 10)),
        fill=_direction(azimuth + between(1.8, 4.4), between(40, 60, 8)),
        key_strength=between(0.55, 0.75, 0.15),
        fill_strength=between(0.12, 0.3, 0.08),
        sky=between(0.34, 0.5, 0.1),
        bounce=between(0.03, 0.08),
        sharpness=int(rng.integers(5, 7)),
    )
    speed = between(0.22, 0.34, 0.1)
    pixels = size_hw[0] / 360
    sigma, streak = between(0.35, 0.65, 0.15) * pixels, speed * size_hw[0] / fps * between(0.1, 0.45)
    if wide and rng.random() < 0.12:
        sigma *= 1.6
    warmth, tint, exposure = between(-0.05, 0.05, 0.05), between(-0.02, 0.02, 0.01), between(0.9, 1.1, 0.18)
    camera = Camera(
        gains=(exposure * (1 + warmth), exposure * (1 + tint), exposure * (1 - warmth)),
        slope=(between(-0.14, 0.14, 0.1), between(-0.12, 0.12, 0.1)),
        vignette=between(0.05, 0.25, 0.05),
        blur_x=_kernel(sigma, streak),
        blur_y=_kernel(sigma, 0.0),
        noise=between(1.2, 2.6, 0.7) if not wide or rng.random() < 0.85 else float(rng.uniform(4, 7)),
        flicker=0.006,
    )
    return Style(
        belt=belt,
        camera=camera,
        lights=lights,
        radius=radius,
        ripeness=between(0.25, 0.8, 0.2),
        pitch=2 * radius * between(1.03, 1.35, 0.13),
        vacancy=between(0.06, 0.2, 0.05),
        speed=speed,
        direction=1 if rng.random() < 0.5 else -1,
        slip=between(0.04, 0.14) if belt.kind == "rollers" else between(0.0, 0.04),
    )


class Scene:
    """A conveyor with fruit; the picture of a moment depends on the seed and the moment alone.

    Args:
        seed: of everything.
        size_hw: of the pictures.
        fps: frames in a second.
        wide: vary the style widely, for single pictures.
    """

    def __init__(self, seed: int, size_hw: tuple[int, int], fps: float, wide: bool = False) -> None:
        self.seed = seed
        self._wide = wide
        self.size_hw = size_hw
        self.style = draw_style(seed, size_hw, fps, wide)
        self._px_per_frame = self.style.speed * size_hw[0] / fps
        self._conveyor = Conveyor(seed, self.style.belt, size_hw, travels=not wide)
        self._light_map = self.style.camera.light_map(size_hw)
        self._grow = lru_cache(maxsize=FRUIT_KEPT)(self._grow_fruit)

    def render(self, index: int) -> tuple[Image, LineTruth]:
        """The picture and the truth of frame `index`."""
        canvas, fruits = self.draw(index)
        truth = read_truth(canvas, fruits)
        return expose(canvas.light, self.style.camera, self._light_map, self.seed, index), truth

    def draw(self, index: int) -> tuple[Canvas, list[Placed]]:
        """Frame `index` before the camera, and the fruit drawn in it, the farther ones first."""
        style = self.style
        canvas = Canvas(
            light=self._conveyor.picture(style.direction * self._px_per_frame * index),
            owner=np.zeros(self.size_hw, np.int64),
            label=np.zeros(self.size_hw, np.uint8),
        )
        fruits = self.fruits(index)
        key = style.lights.key
        for placed in fruits:
            draw_shadow(canvas, placed, (-0.5 * float(key[0]), -0.5 * float(key[1])), reach=1.38, depth=0.5)
        for placed in fruits:
            draw_shadow(canvas, placed, (0.0, 0.0), reach=1.17, depth=0.5)
            draw_fruit(canvas, placed, style.lights)
        return canvas, fruits

    def fruits(self, index: int) -> list[Placed]:
        """The fruit in or near the picture at frame `index`, the farther ones first."""
        height, width = self.size_hw
        style, found = self.style, []
        pitch = style.pitch * height
        reach = 1.2 * MARGIN * style.radius * height
        travel = self._px_per_frame * index
        for lane in range(style.belt.lanes):
            # place j starts at start - j * pitch along the travel; those from -reach to width + reach are seen
            start = width + (0.5 * (lane % 2) + 0.2) * pitch + travel
            first = max(0, math.ceil((start - width - reach - pitch) / pitch))
            last = math.floor((start + reach + pitch) / pitch)
            for place in range(first, last + 1):
                fruit, along, y = self._grow(lane, place)
                at = start - (place - along) * pitch
                if fruit is not None and -reach < at < width + reach:
                    found.append(self._place(fruit, place * style.belt.lanes + lane + 1, at, y * height))
        found.sort(key=lambda placed: (placed.y, placed.tracker_id))
        return found

    def _place(self, fruit: Fruit, tracker_id: int, along_px: float, y: float) -> Placed:
        height, width = self.size_hw
        radius = fruit.radius * height
        direction = self.style.direction
        x = along_px if direction > 0 else width - along_px
        turn = direction * self.style.slip * (along_px - width / 2) / radius
        cosine, sine = math.cos(turn), math.sin(turn)
        roll = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
        rotation: Matrix = (roll[:, :, None] * fruit.pose[None, :, :]).sum(axis=1)
        return Placed(fruit, tracker_id, x, y, radius, rotation)

    def _grow_fruit(self, lane: int, place: int) -> tuple[Fruit | None, float, float]:
        """The fruit of a place (None: empty), its shift along the lane in pitches, its y over the image height."""
        style = self.style
        rng = random_stream(self.seed, "fruit of a still" if self._wide else "fruit", lane, place)
        if rng.random() < style.vacancy:
            return None, 0.0, 0.0
        fruit = grow(rng, style.radius, style.ripeness)
        lane_height = (style.belt.bottom - style.belt.top) / style.belt.lanes
        y = style.belt.top + lane_height * (lane + 0.5 + float(rng.uniform(-0.12, 0.12)))
        return fruit, float(rng.uniform(-0.12, 0.12)), y
