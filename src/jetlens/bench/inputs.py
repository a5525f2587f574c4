"""The pictures a run is measured on: real ones, as the bytes of their files, so that decoding is measured too."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image as PillowImage

from jetlens.data.base import PartName
from jetlens.data.samples import is_orange_line_model
from jetlens.errors import DataError, UsageError
from jetlens.evaluate import ORANGE_LINE, dataset
from jetlens.frame import Image
from jetlens.imagefile import IMAGE_SUFFIXES
from jetlens.spec import ModelSpec

__all__ = ["Pictures", "find_pictures"]

_JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures by name, each as the bytes of an image file."""

    names: tuple[str, ...]
    contents: tuple[bytes, ...]

    @property
    def sha256(self) -> str:
        """Of all files' bytes, in their order."""
        digest = hashlib.sha256()
        for content in self.contents:
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def find_pictures(spec: ModelSpec, images: Path | None, data: str | None, count: int, *, layout: str | None = None) -> Pictures:
    """The pictures of a folder (or one file), else the first of the dataset, else of the orange line for models of that line.

    Raises:
        DataError: there is no picture.
        UsageError: nothing is given and the model has none of its own.
    """
    if images is not None:
        files = [images] if images.is_file() else sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"--images {images}: no picture there; give a picture or a folder of .jpg, .png and the like")
        chosen = [files[i * len(files) // min(count, len(files))] for i in range(min(count, len(files)))]
        return Pictures(tuple(str(path) for path in chosen), tuple(path.read_bytes() for path in chosen))
    if data is None and not is_orange_line_model(spec):
        raise UsageError(f"{spec.name} has no pictures of its own: give --images FOLDER, or --data with labelled ones")
    split: PartName | None = None
    samples = list(islice(dataset(data or ORANGE_LINE, spec, count, layout=layout, split=split), count))
    contents = [sample.image.read_bytes() if isinstance(sample.image, Path) else _jpeg(sample.image) for sample in samples]
    return Pictures(tuple(sample.name for sample in samples), tuple(contents))


def _jpeg(image: Image) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(image).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()
