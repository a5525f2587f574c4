"""The model that reads coded pictures, as a worker of an isolated session opens it; some pictures make it fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coded_cameras import ReadingSession
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions


class FailingReader(ReadingSession):
    """Raises on pictures whose number ends in the bytes that the model's bytes name."""

    def __init__(self, model: bytes) -> None:
        super().__init__(work_s=0.005)
        self.every = int(model or b"0")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        number = int(pixels[0, 0, 1, 0]) + 256 * int(pixels[0, 0, 2, 0])
        if self.every and number % self.every == self.every - 1:
            raise RuntimeError("the device is lost")
        return super().run(inputs)


def open_reader(model: bytes, backend: str, options: SessionOptions) -> tuple[FailingReader, str]:
    return FailingReader(model), backend
