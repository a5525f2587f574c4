"""Image files as a stream, and a stream as a folder of images."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from PIL import Image as PillowImage

from jetlens.errors import ImageError, InputError, OutputError
from jetlens.frame import Frame, Image
from jetlens.imagefile import image_size, load_image
from jetlens.media.base import StreamInfo, finish, scratch_path

__all__ = ["WRITTEN_SUFFIXES", "ImageFilesSource", "ImageFolderSink", "write_image"]

WRITTEN_SUFFIXES: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""Lower-case suffixes of images that can be written, and Pillow's names for them."""
JPEG_QUALITY: Final = 92


def write_image(path: Path, image_rgb: Image) -> None:
    """Writes one picture in the format of its suffix, complete or not at all.

    Raises:
        OutputError: the suffix is no image's, or the file cannot be written.
    """
    kind = WRITTEN_SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise OutputError(f"{path}: images are written as {', '.join(WRITTEN_SUFFIXES)}, not {path.suffix or 'without a suffix'}")
    scratch = scratch_path(path)
    try:
        # PNG level 1: measured 4 times faster than 6 on photos, for a file a tenth larger.
        PillowImage.fromarray(image_rgb).save(scratch, kind, quality=JPEG_QUALITY, compress_level=1)
        os.replace(scratch, path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}") from None


class ImageFilesSource:
    """Image files, one frame each, in the order given; sizes may differ.

    A file that cannot be read is left out and named when the stream ends.
    """

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self._paths = tuple(paths)
        self._name = name
        size_hw = (0, 0)
        for path in self._paths:
            with suppress(ImageError):
                size_hw = image_size(path)
                break
        self._info = StreamInfo(size_hw, 0.0, len(self._paths), name, "pillow")

    @property
    def info(self) -> StreamInfo:
        """The facts of the stream; the size is the first readable picture's."""
        return self._info

    def __iter__(self) -> Iterator[Frame]:
        failures: list[ImageError] = []
        index = 0
        for path in self._paths:
            try:
                image = load_image(path)
            except ImageError as error:
                failures.append(error)
                continue
            yield Frame(image, index, float(index), time.monotonic(), str(path))
            index += 1
        if len(self._paths) == 1 and failures:
            raise failures[0]
        if failures:
            raise InputError(f"{self._name}: {len(failures)} of {len(self._paths)} images cannot be read; the first: {failures[0]}")

    def close(self) -> None:
        """Nothing stays open between pictures."""

    def __enter__(self) -> ImageFilesSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ImageFolderSink:
    """A folder of numbered PNG files, ``000000.png`` and on."""

    note = ""

    def __init__(self, folder: Path, info: StreamInfo) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made for images of {info.name}: {error.strerror}") from None

    def write(self, frame: Frame) -> None:
        """Writes one picture under the frame's number."""
        write_image(self._folder / f"{frame.index:06d}.png", frame.image_rgb)

    def close(self) -> None:
        """Every picture is complete already."""

    def discard(self) -> None:
        """Keeps the pictures: each is complete by itself."""

    def __enter__(self) -> ImageFolderSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finish(self, error)
