"""Edges by OpenCV: Sobel's gradient, the Laplacian, and Canny's thin lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.learn.views import Look, Panel, as_gray_picture, opencv

__all__ = ["Edges"]

LARGEST_THRESHOLD = 1500.0


@dataclass(frozen=True, slots=True)
class Edges:
    """See ``View``.

    Attributes:
        low: gradient from which on a pixel may go on an edge, in Canny.
        high: gradient from which on a pixel begins an edge.
        sigma: of the Gaussian blur before all of them, in pixels; 0 for none.
    """

    low: float = 50.0
    high: float = 120.0
    sigma: float = 1.0
    name: ClassVar[str] = "edges"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= LARGEST_THRESHOLD:
            raise UsageError(f"--low {self.low:g}, --high {self.high:g}: give 0 <= low <= high <= {LARGEST_THRESHOLD:g}")

    @property
    def text(self) -> tuple[str, ...]:
        """The explanation."""
        return (
            "Sobel: Gx and Gy are the convolutions with [-1 0 1; -2 0 2; -1 0 1] and its transpose; |G| = sqrt(Gx² + Gy²), the direction is atan2(Gy, Gx).",
            "Laplacian: ∂²g/∂x² + ∂²g/∂y², here [0 1 0; 1 -4 1; 0 1 0]: grey is 0, and an edge lies where it changes its sign.",
            f"Canny (1986): blur, gradient, keep only the maxima across the edge, begin lines where |G| >= {self.high:g} and go on where |G| >= {self.low:g}.",
            f"A Gaussian blur of σ = {self.sigma:g} pixels comes first, since every derivative makes noise larger.",
        )

    def __call__(self, image: Image) -> Look:
        """Six panels: the picture, both gradients, their size with the direction as colour, the Laplacian, Canny."""
        cv2 = opencv()
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.sigma > 0:
            gray = cv2.GaussianBlur(gray, (0, 0), self.sigma)
        across = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3)
        down = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3)
        size, angle = cv2.cartToPolar(across, down, angleInDegrees=True)
        laplacian = cv2.Laplacian(gray, cv2.CV_32F, ksize=1)
        # The L2 norm, so that the thresholds mean the same as the gradient beside them.
        canny = cv2.Canny(across.astype(np.int16), down.astype(np.int16), self.low, self.high, L2gradient=True)
        strong = max(1.0, float(np.percentile(size, 99.5)))
        bend = max(1.0, float(np.percentile(np.abs(laplacian), 99.5)))
        coloured = np.stack([angle / 2, np.full_like(angle, 255), np.clip(size * (255 / strong), 0, 255)], axis=-1).astype(np.uint8)
        share = float((canny > 0).mean())
        panels = (
            Panel("picture", image),
            Panel("Sobel x: Gx", as_gray_picture(across, -strong, strong)),
            Panel("Sobel y: Gy", as_gray_picture(down, -strong, strong)),
            Panel("size of the gradient, direction as colour", cv2.cvtColor(coloured, cv2.COLOR_HSV2RGB)),
            Panel("Laplacian", as_gray_picture(laplacian, -bend, bend)),
            Panel(f"Canny, {self.low:g} and {self.high:g}", as_gray_picture(canny, 0, 255)),
        )
        lines = (
            f"gradient: mean {float(size.mean()):.2f}, largest {float(size.max()):.1f} grey levels (Sobel adds up to 8 times the step from pixel to pixel)",
            f"Canny keeps {share:.2%} of the pixels; {float((size >= self.high).mean()):.2%} have |G| >= {self.high:g}",
        )
        numbers = {
            "gradient_mean": float(size.mean()),
            "gradient_max": float(size.max()),
            "laplacian_mean_abs": float(np.abs(laplacian).mean()),
            "canny_share": share,
            "strong_share": float((size >= self.high).mean()),
        }
        return Look(panels, 3, lines, numbers)
