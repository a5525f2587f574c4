"""Pictures that tell their number after any lossy codec."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def coded_image(index: int, size_hw: tuple[int, int] = (96, 160)) -> NDArray[np.uint8]:
    """A picture with the 8 bits of its index as black and white stripes: readable after any lossy codec."""
    image = np.full((*size_hw, 3), 128, np.uint8)
    width = size_hw[1] // 8
    for bit in range(8):
        image[:, bit * width : (bit + 1) * width] = 235 if index >> bit & 1 else 20
    return image


def read_code(image: NDArray[np.uint8]) -> int:
    width = image.shape[1] // 8
    return sum(1 << bit for bit in range(8) if image[:, bit * width + 2 : (bit + 1) * width - 2].mean() > 128)
