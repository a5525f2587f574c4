"""Convolution: a kernel slid over a picture, in plain code, step by step, and beside what the libraries give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.learn.lesson import LIMIT, Lesson, compared, largest_difference
from jetlens.learn.numbers import short
from jetlens.learn.pictures import gray_levels, reduced
from jetlens.ops.opencv import cv2_if_there
from jetlens.registry import installed, require

__all__ = ["Step", "convolution", "convolve", "steps"]

STEPS = 3
_USUAL_WEIGHTS = 16.0
"""Sum of a kernel's absolute weights up to which single precision stays well within the limit on pixels from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One position of the kernel.

    Attributes:
        row: of the result; ``column`` likewise.
        patch: what the kernel lies on, [kernel height, kernel width], grey levels.
        products: the patch times the kernel, element by element.
    """

    row: int
    column: int
    patch: NDArray[np.float64]
    products: NDArray[np.float64]

    @property
    def total(self) -> float:
        """The sum of the products: the pixel of the result."""
        return float(self.products.sum())


def convolve(levels: NDArray[np.float64], kernel: NDArray[np.float64], stride: int = 1, padding: int = 0) -> NDArray[np.float64]:
    """What a convolution layer of one channel computes, in plain loops: [h, w] to [(h + 2p - kh) // s + 1, (w + 2p - kw) // s + 1].

    Raises:
        UsageError: the kernel is larger than the padded picture.
    """
    padded = np.pad(levels, padding)
    kernel_h, kernel_w = kernel.shape
    height, width = ((side - k) // stride + 1 for side, k in zip(padded.shape, kernel.shape, strict=True))
    if padded.shape[0] < kernel_h or padded.shape[1] < kernel_w:
        raise UsageError(
            f"the kernel of {kernel_h}x{kernel_w} is larger than the picture of {padded.shape[0]}x{padded.shape[1]} with its padding"
        )
    result = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            patch = padded[top : top + kernel_h, left : left + kernel_w]
            result[row, column] = (patch * kernel).sum()
    return result


def steps(levels: NDArray[np.float64], kernel: NDArray[np.float64], at: tuple[int, int], stride: int = 1, padding: int = 0) -> list[Step]:
    """The kernel at a place of the result and at the next two to the right, as far as there are any."""
    padded = np.pad(levels, padding)
    last = (padded.shape[1] - kernel.shape[1]) // stride
    row, first = at[0], min(at[1], max(0, last - STEPS + 1))
    found = []
    for column in range(first, min(first + STEPS, last + 1)):
        top, left = row * stride, column * stride
        patch = padded[top : top + kernel.shape[0], left : left + kernel.shape[1]]
        found.append(Step(row, column, patch, patch * kernel))
    return found


def convolution(
    image: Image,
    kernel: NDArray[np.float64],
    name: str,
    output: Path,
    *,
    stride: int = 1,
    padding: int | None = None,
    at: str | None = None,
) -> Lesson:
    """Slides a kernel over the grey levels of a picture, compares with the libraries that are installed, and draws it.

    Args:
        padding: zeros around the picture; None takes half the kernel, which with stride 1 keeps the size where its sides are equal and odd.
        at: ``ROW,COLUMN`` of the result whose sum is shown; None takes the strongest answer.

    Raises:
        GateError: a library gives another result.
    """
    from jetlens.learn.convolution_picture import draw_convolution
    from jetlens.learn.pictures import place

    levels = gray_levels(reduced(image))
    padding = (max(kernel.shape) - 1) // 2 if padding is None else padding
    result = convolve(levels, kernel, stride, padding)
    limit = LIMIT * max(1.0, float(np.abs(kernel).sum()) / _USUAL_WEIGHTS)
    lines, differences = compared("on pixels from 0 to 1", result / 255, _libraries(levels / 255, kernel, stride, padding), limit)
    spot = _telling(levels, kernel, result, stride, padding) if at is None else place(at, (result.shape[0], result.shape[1]))
    shown = steps(levels, kernel, spot, stride, padding)
    flipped = _difference_to_turned(levels, kernel, result, stride, padding)
    draw_convolution(levels, kernel, result, shown, output, name=name, stride=stride, padding=padding)
    return Lesson(
        f"convolution with {name}",
        _text(kernel, stride, padding, flipped),
        (
            f"picture {levels.shape[1]}x{levels.shape[0]}, kernel {kernel.shape[0]}x{kernel.shape[1]}, stride {stride}, padding {padding}: "
            f"result {result.shape[1]}x{result.shape[0]} (width x height)",
            *_steps_in_words(shown, kernel),
            *lines,
        ),
        {
            "kernel": kernel.tolist(),
            "stride": stride,
            "padding": padding,
            "picture_hw": list(levels.shape),
            "result_hw": list(result.shape),
            "result_range": [float(result.min()), float(result.max())],
            "steps": [{"at": [step.row, step.column], "patch": step.patch.tolist(), "products": step.products.tolist(), "sum": step.total} for step in shown],
            "largest_difference": differences,
            "allowed_difference": limit,
            "difference_to_flipped_kernel": flipped,
        },
        (output,),
    )  # fmt: skip


def _difference_to_turned(
    levels: NDArray[np.float64], kernel: NDArray[np.float64], result: NDArray[np.float64], stride: int, padding: int
) -> float:
    """How far the result is from that of the kernel after half a turn, which mathematics calls the convolution."""
    turned = kernel[::-1, ::-1]
    if np.array_equal(turned, kernel):
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(levels, padding), (kernel.shape[0], kernel.shape[1]))[::stride, ::stride]
    return largest_difference(result, np.einsum("ijab,ab->ij", windows, turned))


def _telling(
    levels: NDArray[np.float64], kernel: NDArray[np.float64], result: NDArray[np.float64], stride: int, padding: int
) -> tuple[int, int]:
    """Where the result is furthest from what an even surface would give; away from the border, where the padding's black makes an edge."""
    rows, columns = (
        np.clip(np.arange(n) * stride - padding + k // 2, 0, side - 1)
        for n, k, side in zip(result.shape, kernel.shape, levels.shape, strict=True)
    )
    change = np.abs(result - kernel.sum() * levels[np.ix_(rows, columns)])
    top, left = (min(8, side // 4) for side in result.shape)
    inner = change[top : result.shape[0] - top, left : result.shape[1] - left]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    return int(row) + top, max(0, int(column) + left - 1)


def _libraries(pixels: NDArray[np.float64], kernel: NDArray[np.float64], stride: int, padding: int) -> dict[str, NDArray[Any]]:
    """The same by every library that is here, in single precision as networks compute."""
    single, weights = pixels.astype(np.float32), kernel.astype(np.float32)
    found: dict[str, NDArray[Any]] = {}
    if installed("torch"):
        torch = require("torch", extra="train", why="the comparison")
        given, kernels = (torch.from_numpy(array)[None, None] for array in (single, weights))
        found["torch.nn.functional.conv2d"] = torch.nn.functional.conv2d(given, kernels, stride=stride, padding=padding)[0, 0].numpy()
    cv2 = cv2_if_there()
    if cv2 is not None:
        # filter2D knows no stride, and with this anchor its pixel is the sum over the patch below and to the right of it.
        padded = np.pad(single, padding)
        full = cv2.filter2D(padded, cv2.CV_32F, weights, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
        rows, columns = (side - k + 1 for side, k in zip(padded.shape, kernel.shape, strict=True))
        found["cv2.filter2D"] = full[:rows:stride, :columns:stride]
    return found


def _steps_in_words(shown: Sequence[Step], kernel: NDArray[np.float64]) -> list[str]:
    words = []
    for number, step in enumerate(shown, 1):
        words.append(f"step {number}, row {step.row}, column {step.column}: the sum of all products is {short(step.total)}")
        if number == 1 and kernel.size <= 25:
            for levels, weights, products in zip(step.patch, kernel, step.products, strict=True):
                terms = " + ".join(f"{short(level)}·{short(float(weight))}" for level, weight in zip(levels, weights, strict=True))
                words.append(f"    {terms} = {short(float(products.sum()))}")
    return words


def _text(kernel: NDArray[np.float64], stride: int, padding: int, flipped: float) -> tuple[str, ...]:
    total = float(kernel.sum())
    if abs(total) < 1e-9:
        kind = "The weights add up to 0: an even surface gives 0, and only changes of brightness answer."
    elif abs(total - 1) < 1e-9:
        kind = "The weights add up to 1: an even surface keeps its brightness."
    else:
        kind = f"The weights add up to {total:g}: an even surface of brightness b gives {total:g}·b."
    other = (
        "This kernel is the same after half a turn, so both are equal here."
        if flipped == 0
        else f"For this kernel the two differ by up to {short(flipped)} grey levels on this picture."
    )
    return (
        f"y[i, j] = Σ_a Σ_b k[a, b] · x[i·{stride} + a - {padding}, j·{stride} + b - {padding}], with x = 0 outside the picture.",
        "The kernel is laid on the picture, each weight is multiplied with the pixel under it, and the products are added: that is one pixel of the result.",
        kind,
        "Networks and cv2.filter2D compute this cross-correlation and call it convolution; mathematics turns the kernel by 180° first. "
        + other,
    )
