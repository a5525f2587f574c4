"""Colour spaces by OpenCV: RGB, grey, HSV and CIE LAB channel by channel, and a threshold by hue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import GateError, UsageError
from jetlens.frame import Image
from jetlens.learn.views import Look, Panel, as_gray_picture, opencv

__all__ = ["Colors", "hue_range", "plain_gray_and_hsv"]

_AB = 70
_ROUNDING = {"gray": 1.0, "hue": 2.0, "saturation": 2.0, "value": 0.0}
"""Levels (for the hue: degrees) that OpenCV's fixed-point arithmetic may be off."""


@dataclass(frozen=True, slots=True)
class Colors:
    """See ``View``.

    Attributes:
        hue: from and to, in degrees on the circle; from 340 to 20 goes through red.
        saturation: at least so much, 0 to 1: the hue of a grey pixel means nothing.
        value: at least so much, 0 to 1.
    """

    hue: tuple[float, float] = (10.0, 50.0)
    saturation: float = 0.4
    value: float = 0.25
    name: ClassVar[str] = "colors"

    @property
    def text(self) -> tuple[str, ...]:
        """The explanation."""
        return (
            "gray: Y = 0.299·R + 0.587·G + 0.114·B (ITU-R BT.601): the eye is most sensitive to green.",
            "HSV: V = max(R, G, B); S = (V - min(R, G, B)) / V; H is the angle of the colour: 0° red, 120° green, 240° blue. OpenCV stores H/2 in a byte.",
            "LAB: L is lightness as people see it, a goes from green to red, b from blue to yellow; equal distances look about equally different.",
            f"Threshold: keep pixels with H from {self.hue[0]:g}° to {self.hue[1]:g}°, S >= {self.saturation:g} and V >= {self.value:g}. Light and shadow "
            "change V and hardly H, so a hue finds a colour where a threshold in RGB does not.",
        )

    def __call__(self, image: Image) -> Look:
        """Twelve panels: the picture and its channels in four spaces, then the pixels of the hue.

        Raises:
            GateError: OpenCV's grey or HSV values are not what the formulas give.
        """
        cv2 = opencv()
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        differences = _checked(image, gray, hsv)
        degrees, first, last = hsv[..., 0].astype(np.float32) * 2, *self.hue
        within = (degrees >= first) & (degrees <= last) if first <= last else (degrees >= first) | (degrees <= last)
        mask = within & (hsv[..., 1] >= 255 * self.saturation) & (hsv[..., 2] >= 255 * self.value)
        bright = np.stack([hsv[..., 0], np.maximum(hsv[..., 1], 60), np.full_like(gray, 230)], axis=-1)
        kept = np.where(mask[..., None], image, np.repeat((gray // 4)[..., None], 3, axis=-1)).astype(np.uint8)
        panels = (
            Panel("picture", image),
            *(Panel(name, _plane(image[..., index])) for index, name in enumerate(("R", "G", "B"))),
            Panel("gray", _plane(gray)),
            Panel("H, as colour", cv2.cvtColor(bright, cv2.COLOR_HSV2RGB)),
            Panel("S", _plane(hsv[..., 1])),
            Panel("V", _plane(hsv[..., 2])),
            Panel(f"hue {first:g} to {last:g} degrees", kept),
            Panel("L", _plane(lab[..., 0])),
            # Grey is 128; the ends of the range are colours that no camera sees.
            *(Panel(name, as_gray_picture(lab[..., index], 128 - _AB, 128 + _AB)) for index, name in ((1, "a"), (2, "b"))),
        )
        means = {
            name: float(plane.mean())
            for name, plane in zip(
                "RGBSVLab", (*np.moveaxis(image, -1, 0), hsv[..., 1], hsv[..., 2], *np.moveaxis(lab, -1, 0)), strict=True
            )
        }
        share = float(mask.mean())
        lines = (
            f"{share:.2%} of the pixels have the hue",
            f"means (0 to 255): {', '.join(f'{name} {value:.1f}' for name, value in means.items())}",
            "plain code and OpenCV differ by at most "
            + ", ".join(f"{value:.3g} {'degrees' if name == 'hue' else 'levels'} in {name}" for name, value in differences.items())
            + " (it rounds to bytes)",
        )
        return Look(panels, 4, lines, {"hue_share": share, "mean": means, "largest_difference": differences})


def hue_range(text: str) -> tuple[float, float]:
    """From and to in degrees, out of ``FROM-TO``.

    Raises:
        UsageError: it is no such pair.
    """
    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*-\s*(\d{1,3}(?:\.\d+)?)\s*", text)
    if found is None or max(float(found[1]), float(found[2])) > 360:
        raise UsageError(f"--hue {text!r}: give FROM-TO in degrees, 0 to 360, such as 10-50, or 340-20 for red")
    return float(found[1]), float(found[2])


def plain_gray_and_hsv(image: Image) -> dict[str, NDArray[np.float64]]:
    """Grey 0 to 255, hue in degrees, saturation and value 0 to 255, by the formulas: each [height, width]."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    safe = np.where(spread == 0, 1, spread)
    angle = np.where(value == red, (green - blue) / safe, np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    return {
        "gray": 0.299 * red + 0.587 * green + 0.114 * blue,
        "hue": np.where(spread == 0, 0, (60 * angle) % 360),
        "saturation": 255 * spread / np.where(value == 0, 1, value),
        "value": value,
    }


def _checked(image: Image, gray: NDArray[Any], hsv: NDArray[Any]) -> dict[str, float]:
    """How far OpenCV is from the formulas, at most."""
    plain = plain_gray_and_hsv(image)
    theirs = {"gray": gray, "hue": hsv[..., 0].astype(np.float64) * 2, "saturation": hsv[..., 1], "value": hsv[..., 2]}
    differences = {}
    for name, values in plain.items():
        distance = np.abs(values - theirs[name])
        if name == "hue":
            distance = np.minimum(distance, 360 - distance)
        differences[name] = float(distance.max(initial=0.0))
        if differences[name] > _ROUNDING[name]:
            raise GateError(f"{name} by OpenCV is off by {differences[name]:.3g}; rounding explains {_ROUNDING[name]:g}")
    return differences


def _plane(values: NDArray[Any]) -> Image:
    return as_gray_picture(values, 0, 255)
