"""Mean and standard deviation of a dataset's pixels: the published ones, and how they are measured."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import Dataset, MeanStd
from jetlens.errors import DataError, ImageError
from jetlens.models.options import IMAGENET_MEAN, IMAGENET_STD
from jetlens.ops.images import resize_into
from jetlens.spec import PreprocessSpec

__all__ = ["CIFAR10_MEAN_STD", "IMAGENET_MEAN_STD", "compute_mean_std"]

IMAGENET_MEAN_STD: Final[MeanStd] = (IMAGENET_MEAN, IMAGENET_STD)
CIFAR10_MEAN_STD: Final[MeanStd] = ((125.307, 122.950, 113.865), (62.993, 62.089, 66.705))
"""Of the true training images; those of a lossy copy differ in the first decimal."""

_LEAST_STD: Final = 1.0


def compute_mean_std(dataset: Dataset, size: tuple[int, int] = (224, 224), limit: int = 2000) -> MeanStd:
    """Mean and standard deviation of the channels over the pixels of ``limit`` pictures, evenly spread, each resized to ``size``.

    Pictures that cannot be read are left out. A channel without any variation gets the standard deviation 1, by which it can be divided.

    Raises:
        DataError: no picture can be read.
    """
    total, square, pixels = np.zeros(3), np.zeros(3), 0
    canvas = np.empty((*size, 3), np.uint8)
    spec = PreprocessSpec(size)
    count = min(limit, len(dataset))
    for number in range(count):
        try:
            resize_into(dataset[number * len(dataset) // count].pixels(), spec, canvas)
        except (ImageError, DataError):
            continue
        values = canvas.reshape(-1, 3).astype(np.float64)
        total += values.sum(axis=0)
        square += np.square(values).sum(axis=0)
        pixels += len(values)
    if not pixels:
        raise DataError(f"{dataset.origin}: no picture can be read, so mean and std are unknown; jetlens data check names what is wrong")
    mean = total / pixels
    std = np.sqrt(np.maximum(square / pixels - mean**2, _LEAST_STD**2))
    return _rounded(mean), _rounded(std)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)
