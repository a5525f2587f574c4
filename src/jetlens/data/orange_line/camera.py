"""The camera: light over the field of view, defocus and motion blur, response curve and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jetlens.data.orange_line.fields import Float, grain, random_stream
from jetlens.frame import Image

__all__ = ["Camera", "expose"]

CURVE_STEPS = 4096
CURVE_TOP = 1.6
"""Linear light at which the response is white."""


@dataclass(frozen=True, slots=True)
class Camera:
    """How a scene is taken.

    Attributes:
        gains: exposure times white balance of red, green, blue.
        slope: change of light across the width and the height.
        vignette: loss of light in the corners.
        blur_x, blur_y: weights of symmetric blur kernels, the middle first.
        noise: standard deviation in grey levels.
        flicker: standard deviation of the exposure from frame to frame.
    """

    gains: tuple[float, float, float]
    slope: tuple[float, float]
    vignette: float
    blur_x: tuple[float, ...]
    blur_y: tuple[float, ...]
    noise: float
    flicker: float

    def light_map(self, size_hw: tuple[int, int]) -> Float:
        """Factor on the light of every pixel, [H, W, 3]."""
        height, width = size_hw
        x = (np.arange(width, dtype=np.float32) + np.float32(0.5 - width / 2)) * np.float32(2 / width)
        y = (np.arange(height, dtype=np.float32) + np.float32(0.5 - height / 2)) * np.float32(2 / height)
        x, y = x[None, :], y[:, None]
        grey = 1 + np.float32(self.slope[0]) * x + np.float32(self.slope[1]) * y - np.float32(self.vignette / 2) * (x * x + y * y)
        return grey[..., None] * np.array(self.gains, np.float32)


@lru_cache(maxsize=1)
def _curve() -> Float:
    """Grey levels of linear light in CURVE_STEPS steps: a gamma with a soft shoulder."""
    light = np.linspace(0, CURVE_TOP, CURVE_STEPS)
    soft = np.where(light < 0.7, light, 0.7 + 0.3 * (1 - np.exp(-(light - 0.7) / 0.3)) / (1 - np.exp(-3.0)))
    return (255 * np.clip(soft, 0, 1) ** (1 / 2.2)).astype(np.float32)


def _blur(light: Float, kernel: tuple[float, ...], axis: int) -> Float:
    """Convolve along an axis; at the border the edge pixels are kept."""
    reach = len(kernel) - 1
    if reach == 0 or light.shape[axis] <= 2 * reach:
        return light
    length = light.shape[axis] - 2 * reach

    def part(offset: int) -> Float:
        index = slice(reach + offset, reach + offset + length)
        return light[:, index] if axis == 1 else light[index]

    inner = part(0) * np.float32(kernel[0])
    for k in range(1, reach + 1):
        inner += (part(-k) + part(k)) * np.float32(kernel[k])
    part(0)[...] = inner
    return light


def expose(light: Float, camera: Camera, light_map: Float, seed: int, index: int) -> Image:
    """Turn linear light [H, W, 3] into a picture; light is used up."""
    rng = random_stream(seed, "sensor", index)
    light *= light_map
    light = _blur(_blur(light, camera.blur_x, 1), camera.blur_y, 0)
    steps = np.float32((1 + camera.flicker * float(rng.standard_normal())) * (CURVE_STEPS - 1) / CURVE_TOP)
    light *= steps
    np.minimum(light, CURVE_STEPS - 1, out=light)
    levels = _curve().take(light.astype(np.int16)).ravel()
    noise, start = grain(), int(rng.integers(len(grain())))
    done = 0
    while done < len(levels):
        piece = noise[start : start + len(levels) - done]
        levels[done : done + len(piece)] += np.float32(camera.noise) * piece
        done, start = done + len(piece), 0
    levels += np.float32(0.5)
    np.minimum(levels, 255, out=levels)
    np.maximum(levels, 0, out=levels)
    return levels.astype(np.uint8).reshape(light.shape)
