"""Opening, checking, decoding and turning one image; every failure becomes an ImageError."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from jetlens.errors import ImageError
from jetlens.frame import Image
from jetlens.imagefile.formats import HEAD_BYTES, declared_size, has_more_scans, is_cut, open_picture, sniff
from jetlens.imagefile.levels import rgb_pixels
from jetlens.imagefile.sources import ImageSource, open_stream, said, source_name

DEFAULT_MAX_PIXELS: Final = 89_478_485
"""A quarter GiB of RGB; also where Pillow begins to warn of decompression bombs."""
NETWORK_MAX_PIXELS: Final = 33_177_600
"""7680 x 4320: the limit for images that come from elsewhere (URLs, requests)."""
_ORIENTATION: Final = 0x0112
_TRANSPOSITIONS: Final = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
# A tile of a tiled TIFF is decoded whole, however small the picture.
_MAX_TILE_PIXELS: Final = 4096 * 4096
# Encoders write 10 to 20; each costs a pass over all pixels and may be a few bytes long.
_MAX_JPEG_SCANS: Final = 100
_MAX_PNG_CHUNKS: Final = 65_536
# How Pillow says that a file is sound and of a variant that it has no decoder for.
_VARIANT_WORDS: Final = ("unsupported", "unknown pixel mode", "not available", "not configured", "cannot decode")


def load_image(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """Decode one image to uint8 [height, width, 3], RGB, C-contiguous, writable, upright.

    Raises ImageError with a code of the module's table, whatever is wrong with the source.
    """
    with _opened(source, max_pixels) as (picture, name):
        orientation = _orientation(picture)
        picture.load()
        if picture.format == "TIFF":
            # Pillow turns TIFFs by their tag while it loads them; newer ones by XMP too, and then forget it.
            tags: Any = picture.tag_v2  # type: ignore[attr-defined]
            orientation = 1 if _ORIENTATION in tags else _orientation(picture)
        upright = picture.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else picture
        return rgb_pixels(upright, picture, name)


def image_size(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Height and width of what load_image would return, read from the header alone."""
    with _opened(source, max_pixels) as (picture, _):
        width, height = _stored_size(picture)
        return (width, height) if _orientation(picture) >= 5 else (height, width)


@contextmanager
def _opened(source: ImageSource, max_pixels: int) -> Iterator[tuple[ImageFile, str]]:
    """Pillow's picture of a source with its header read and its size allowed, and the source's name; all failures become ImageError."""
    name = source_name(source)
    with open_stream(source, name) as stream:
        kind = "image"
        try:
            head = stream.read(HEAD_BYTES)
            stream.seek(0)
            kind = sniff(head, name)
            declared = declared_size(kind, head)
            if declared is not None:
                _check_size(declared, kind, name, max_pixels)
            picture = open_picture(kind, stream)
            _check_size(_stored_size(picture), kind, name, max_pixels)
            _check_work(picture, stream, name, max_pixels)
            yield picture, name
        except ImageError:
            raise
        except Exception as error:  # the decoders raise whatever their parsing runs into
            raise _translated(error, kind, stream, name) from error


def _stored_size(picture: ImageFile) -> tuple[int, int]:
    """Width and height before orientation; Pillow versions differ in whether a TIFF's size is already turned."""
    if picture.format == "TIFF":
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        return int(tags[256]), int(tags[257])
    return picture.size


def _check_size(size_wh: tuple[int, int], kind: str, name: str, max_pixels: int) -> None:
    width, height = size_wh
    if width <= 0 or height <= 0:
        raise ImageError("zero-size", name, f"its {kind} header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError("too-large", name, f"its {kind} header says {width} x {height} pixels; at most {max_pixels:,} are allowed")


def _check_work(picture: ImageFile, stream: BinaryIO, name: str, max_pixels: int) -> None:
    """Refuses what costs far more to decode than its size tells: huge tiles, countless progressive scans."""
    if picture.format == "TIFF":
        tags: Any = picture.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags.get(322, 0)), int(tags.get(323, 0))
        if width * height > max(max_pixels, _MAX_TILE_PIXELS):
            raise ImageError("too-large", name, f"its TIFF tiles are {width} x {height} pixels; at most {max_pixels:,} are allowed")
    if picture.info.get("progressive") and has_more_scans(stream, _MAX_JPEG_SCANS):
        raise ImageError("too-large", name, f"its JPEG has more than {_MAX_JPEG_SCANS} progressive scans")


def _orientation(picture: ImageFile) -> int:
    """EXIF orientation, 1 to 8; never decodes the picture."""
    try:
        if picture.format == "PNG":
            if "exif" not in picture.info and picture.fp is not None:
                late = _late_exif(picture.fp)
                if late:
                    picture.info["exif"] = late
            # PngImageFile.getexif would decode all pixels to look behind them.
            value = PillowImage.Image.getexif(picture).get(_ORIENTATION, 1)
        else:
            value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata never costs the user the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _late_exif(stream: Any) -> bytes:
    """The eXIf chunk of a PNG wherever it stands, even behind the pixels."""
    position = stream.tell()
    try:
        stream.seek(8)
        for _ in range(_MAX_PNG_CHUNKS):
            header = stream.read(8)
            if len(header) < 8 or header[4:] == b"IEND":
                break
            length = int.from_bytes(header[:4], "big")
            if header[4:] == b"eXIf" and length <= 2**16:
                return b"Exif\0\0" + bytes(stream.read(length))
            stream.seek(length + 4, os.SEEK_CUR)
        return b""
    finally:
        stream.seek(position)


def _translated(error: Exception, kind: str, stream: BinaryIO, name: str) -> ImageError:
    """The ImageError that says what a decoder's exception means."""
    if isinstance(error, MemoryError):
        return ImageError("too-large", name, f"not enough memory to decode this {kind}")
    if isinstance(error, (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning)):
        return ImageError("too-large", name, f"Pillow takes this {kind} for a decompression bomb")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError("unreadable", name, f"reading failed: {error.strerror}")
    reason = said(error)
    if "truncated" in reason.lower() or is_cut(kind, stream):
        return ImageError("truncated", name, f"the {kind} ends before its picture does: {reason}")
    if "not identified by this driver" in reason:
        return ImageError("zero-size", name, f"its {kind} header gives no width and height, or a size of 0")
    if isinstance(error, ImportError) or any(word in reason.lower() for word in _VARIANT_WORDS):
        return ImageError("unsupported-format", name, f"Pillow does not read this kind of {kind}: {reason}")
    return ImageError("damaged", name, f"the {kind} cannot be decoded: {reason}")
