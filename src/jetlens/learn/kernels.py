"""Kernels by name, and those that a user types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UnknownNameError, UsageError

__all__ = ["KERNELS", "read_kernel"]

LARGEST = 15
_LARGEST_WEIGHT = 1e4

KERNELS: Final[Mapping[str, NDArray[np.float64]]] = {
    "identity": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float64),
    "blur": np.full((3, 3), 1 / 9),
    "gaussian": np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256,
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float64),
    "emboss": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float64),
    "sobel-x": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float64),
    "sobel-y": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], np.float64),
    "prewitt-x": np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], np.float64),
    "laplacian": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float64),
    "outline": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float64),
}


def read_kernel(text: str) -> tuple[NDArray[np.float64], str]:
    """A kernel and its name, out of a name of KERNELS or of numbers: commas between columns, semicolons between rows.

    Raises:
        UnknownNameError: no kernel has that name.
        UsageError: the numbers are no rectangle, too many or too large.
    """
    if text in KERNELS:
        return KERNELS[text], text
    if not any(letter.isdigit() for letter in text):
        raise UnknownNameError("kernel", text, KERNELS)
    example = 'give rows of numbers, such as "-1,0,1;-2,0,2;-1,0,1"'
    try:
        rows = [[float(cell) for cell in row.split(",")] for row in text.strip().strip(";").split(";")]
    except ValueError:
        raise UsageError(f"--kernel {text[:60]!r} holds something that is no number; {example}") from None
    if len({len(row) for row in rows}) != 1:
        raise UsageError(f"--kernel {text[:60]!r}: its rows have {', '.join(str(len(row)) for row in rows)} numbers; {example}")
    kernel = np.array(rows, np.float64)
    if max(kernel.shape) > LARGEST:
        raise UsageError(f"--kernel is {kernel.shape[0]}x{kernel.shape[1]}; at most {LARGEST}x{LARGEST} is taken")
    if not np.isfinite(kernel).all() or np.abs(kernel).max() > _LARGEST_WEIGHT:
        raise UsageError(f"--kernel {text[:60]!r}: a weight is no number between -10000 and 10000")
    return kernel, "your kernel"
