"""Motion of boxes: a constant-velocity Kalman filter for many boxes at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Motion", "corners", "started"]

_POSITION, _VELOCITY = 1 / 20, 1 / 160
"""Standard deviations in heights of the box: of a measured centre or side, and of what a velocity changes by in a frame."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Where T boxes are, how they move, and how sure that is.

    Centre x, centre y, width and height are four independent filters of position and velocity, so that a covariance is three numbers.

    Attributes:
        position: float64 [T, 4], centre x, centre y, width, height in pixels.
        velocity: float64 [T, 4], change in a frame.
        variance: of the position [T, 4].
        shared: covariance of position and velocity [T, 4].
        velocity_variance: [T, 4].
    """

    position: NDArray[np.float64]
    velocity: NDArray[np.float64]
    variance: NDArray[np.float64]
    shared: NDArray[np.float64]
    velocity_variance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, index: NDArray[np.generic]) -> Motion:
        return Motion(*(getattr(self, row.name)[index] for row in fields(self)))

    def joined(self, other: Motion) -> Motion:
        """These boxes, then the others."""
        return Motion(*(np.concatenate([getattr(self, row.name), getattr(other, row.name)]) for row in fields(self)))

    def predicted(self, frames: float) -> Motion:
        """Where the boxes are some frames later if they go on as they do; a box never shrinks below a pixel."""
        height = self._height()
        moved = self.position + self.velocity * frames
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        return Motion(
            moved,
            self.velocity,
            self.variance + 2 * frames * self.shared + frames**2 * self.velocity_variance + frames * (_POSITION * height) ** 2,
            self.shared + frames * self.velocity_variance,
            self.velocity_variance + frames * (_VELOCITY * height) ** 2,
        )

    def corrected(self, rows: NDArray[np.int64], xyxy: NDArray[np.float32]) -> Motion:
        """With the boxes [M, 4] seen for the given rows [M]."""
        part = self[rows]
        noise = (_POSITION * part._height()) ** 2
        gain = part.variance / (part.variance + noise)
        velocity_gain = part.shared / (part.variance + noise)
        surprise = _centres(xyxy) - part.position
        better = Motion(
            part.position + gain * surprise,
            part.velocity + velocity_gain * surprise,
            (1 - gain) * part.variance,
            (1 - gain) * part.shared,
            part.velocity_variance - velocity_gain * part.shared,
        )
        arrays = {}
        for row in fields(self):
            array = getattr(self, row.name).copy()
            array[rows] = getattr(better, row.name)
            arrays[row.name] = array
        return replace(self, **arrays)

    def _height(self) -> NDArray[np.float64]:
        return np.maximum(self.position[:, 3:4], 1)


def started(xyxy: NDArray[np.float32]) -> Motion:
    """Boxes [M, 4] that were seen for the first time: at rest, and of quite unknown velocity."""
    position = _centres(xyxy)
    height = np.maximum(position[:, 3:4], 1)
    ones = np.ones((1, 4))
    return Motion(
        position,
        np.zeros_like(position),
        (2 * _POSITION * height * ones) ** 2,
        np.zeros_like(position),
        (10 * _VELOCITY * height * ones) ** 2,
    )


def corners(motion: Motion) -> NDArray[np.float32]:
    """Left, top, right, bottom of the boxes: float32 [T, 4]."""
    half = motion.position[:, 2:] / 2
    return np.concatenate([motion.position[:, :2] - half, motion.position[:, :2] + half], axis=1).astype(np.float32)


def _centres(xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    boxes = xyxy.astype(np.float64)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
