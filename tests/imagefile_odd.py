"""Pictures that are odd but legal, each as a file and as the pixels that it shows, worked out without a decoder."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

from imagefile_cases import Tags, bmp, grey_tiff, jpeg_of, png, png_chunk

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 32, 64


def colours(height: int = HEIGHT, width: int = WIDTH) -> Picture:
    """Sixteen-pixel squares of one colour each, all different: JPEG keeps them, and no turn or flip leaves them as they are."""
    rows, columns = np.mgrid[0:height, 0:width] // 16
    return np.stack([40 + 50 * columns, 220 - 60 * rows, 30 + 40 * rows + 20 * columns], axis=-1).astype(np.uint8)


def greys() -> Picture:
    return colours()[..., 0].copy()


def tripled(grey: Picture) -> Picture:
    return np.repeat(grey[..., None], 3, axis=2)


def saved(picture: PillowImage.Image, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, kind, **options)
        return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = PillowImage.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


UNDO: dict[int, Callable[[Picture], Picture]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}
"""What a camera with this orientation stores of a shown picture."""


def stored(orientation: int) -> PillowImage.Image:
    return PillowImage.fromarray(np.ascontiguousarray(UNDO[orientation](colours())))


def turned_jpeg(orientation: int) -> bytes:
    return saved(stored(orientation), "JPEG", quality=95, subsampling=0, exif=exif(orientation))


@dataclass(frozen=True)
class Case:
    """A file and the picture that it shows, within a number of grey levels."""

    name: str
    content: bytes
    shown: Picture
    within: int = 0


def orientation_cases() -> list[Case]:
    jpegs = [Case(f"jpeg exif {n}", turned_jpeg(n), colours(), 3) for n in UNDO]
    raw = exif(6)[6:]
    turned = np.ascontiguousarray(UNDO[6](colours()))
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in turned))
    height, width = turned.shape[:2]
    return [
        *jpegs,
        Case("png exif 6", saved(stored(6), "PNG", exif=exif(6)), colours()),
        Case("png exif 6 behind the pixels", png(width, height, 8, 2, rows, late=png_chunk(b"eXIf", raw)), colours()),
        *[Case(f"tiff orientation {n}", saved(stored(n), "TIFF", tiffinfo={274: n}), colours()) for n in (3, 6, 8)],
        Case("webp exif 8", saved(stored(8), "WEBP", lossless=True, exif=exif(8)), colours()),
        Case(
            "jpeg damaged exif",
            saved(PillowImage.fromarray(colours()), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff"),
            colours(),
            3,
        ),
        Case("jpeg orientation 9", saved(PillowImage.fromarray(colours()), "JPEG", quality=95, subsampling=0, exif=exif(9)), colours(), 3),
    ]


def ycck_jpeg() -> tuple[bytes, Picture]:
    """A CMYK JPEG marked as YCCK, with the colour that its Y, Cb, Cr and K then mean."""
    cmyk = np.broadcast_to(np.array([90, 110, 150, 40], np.uint8), (16, 16, 4))
    data = bytearray(saved(PillowImage.fromarray(np.ascontiguousarray(cmyk), "CMYK"), "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    luma, blue, red, key = (255.0 - v for v in (90, 110, 150, 40))  # Adobe stores inverted values
    rgb_inverted = [luma + 1.402 * (red - 128), luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128), luma + 1.772 * (blue - 128)]
    colour = [np.clip(255 - v, 0, 255) * key / 255 for v in rgb_inverted]
    return bytes(data), np.broadcast_to(np.array(colour).round().astype(np.uint8), (16, 16, 3)).copy()


def colour_cases() -> list[Case]:
    rgb, grey = colours(), greys()
    image, grey_image = PillowImage.fromarray(rgb), PillowImage.fromarray(grey)
    alpha = PillowImage.fromarray(np.where(grey > 100, 255, 0).astype(np.uint8))
    rgba, la = image.copy(), PillowImage.merge("LA", (grey_image, alpha))
    rgba.putalpha(alpha)
    palette = image.quantize(16, dither=PillowImage.Dither.NONE)
    bilevel = grey_image.point(lambda level: 255 * (level > 100), "1")
    two = tripled(np.where(grey > 100, 255, 0).astype(np.uint8))
    cmyk = np.stack([rgb[..., 0], rgb[..., 1], rgb[..., 2], np.full_like(grey, 30)], axis=-1)
    from_cmyk = ((255 - cmyk[..., :3].astype(float)) * (255 - 30) / 255).round().astype(np.uint8)
    ycck, from_ycck = ycck_jpeg()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return [
        Case("jpeg cmyk", saved(PillowImage.fromarray(cmyk, "CMYK"), "JPEG", quality=100, subsampling=0), from_cmyk, 4),
        Case("jpeg ycck", ycck, from_ycck, 5),
        Case("tiff cmyk", saved(PillowImage.fromarray(cmyk, "CMYK"), "TIFF"), from_cmyk, 1),
        Case("tiff ycbcr jpeg", saved(image, "TIFF", compression="jpeg", quality=95), rgb, 4),
        Case("png grey", saved(grey_image, "PNG"), tripled(grey)),
        Case("jpeg grey", saved(grey_image, "JPEG", quality=95), tripled(grey), 2),
        Case("png grey and alpha", saved(la, "PNG"), tripled(grey)),
        Case("png palette", saved(palette, "PNG"), rgb),
        Case("png palette, one colour transparent", saved(palette, "PNG", transparency=3), rgb),
        Case("png palette, alpha of each colour", saved(palette, "PNG", transparency=bytes(range(0, 160, 10))), rgb),
        Case("gif transparent", saved(palette, "GIF", transparency=3), rgb),
        Case("png bilevel", saved(bilevel, "PNG"), two),
        Case("tiff bilevel fax", saved(bilevel, "TIFF", compression="group4"), two),
        Case("bmp bilevel", saved(bilevel, "BMP"), two),
        Case("png alpha", saved(rgba, "PNG"), rgb),
        Case("webp alpha", saved(rgba, "WEBP", lossless=True, exact=True), rgb),
        Case("png one colour transparent", saved(image, "PNG", transparency=(40, 220, 30)), rgb),
        Case("png with a foreign ICC profile", saved(image, "PNG", icc_profile=profile), rgb),
        Case("bmp 32 bits", bmp(WIDTH, -HEIGHT, 32, np.dstack([rgb[..., ::-1], grey]).tobytes()), rgb),
        Case("tiff lzw, big-endian magic", saved(image, "TIFF", compression="tiff_lzw"), rgb),
        Case("tiff of 64-bit offsets", saved(image, "TIFF", big_tiff=True), rgb),
    ]


def wide_cases() -> list[Case]:
    """More than 8 bits a channel: a ramp over the whole range, 256 levels of which must be left."""
    ramp = np.linspace(0, 65_535, 512).astype(np.uint16).reshape(4, 128)
    levels = (ramp // 256).astype(np.uint8)
    big = ramp.astype(">u2")
    rgb = np.stack([ramp, ramp[::-1], 65_535 - ramp], axis=-1)
    shown = (rgb // 256).astype(np.uint8)
    grey_alpha = np.stack([ramp, ramp[::-1]], axis=-1)

    def rows(samples: NDArray[np.uint16]) -> bytes:
        return zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))

    twelve = (ramp >> 4).reshape(4, 64, 2).astype(np.uint32)
    pairs = (twelve[..., 0] << 12) | twelve[..., 1]
    packed = b"".join(int(pair).to_bytes(3, "big") for pair in pairs.ravel())
    signed: Tags = {339: ("H", 2)}
    return [
        Case("png 16-bit grey", png(128, 4, 16, 0, rows(ramp)), tripled(levels)),
        Case("png 16-bit rgb", png(128, 4, 16, 2, rows(rgb)), shown),
        Case("png 16-bit grey and alpha", png(128, 4, 16, 4, rows(grey_alpha)), tripled(levels)),
        Case("png 16-bit rgba", png(128, 4, 16, 6, rows(np.dstack([rgb, ramp]))), shown),
        Case("tiff 16-bit little-endian", grey_tiff(128, 4, 16, ramp.tobytes()), tripled(levels)),
        Case("tiff 16-bit big-endian", grey_tiff(128, 4, 16, big.tobytes(), ">"), tripled(levels)),
        Case("tiff 12-bit", grey_tiff(128, 4, 12, packed), tripled(levels)),
        Case("tiff 16-bit signed", grey_tiff(128, 4, 16, (ramp >> 1).tobytes(), more=signed), tripled(levels)),
        Case("tiff 32-bit", grey_tiff(128, 4, 32, ramp.astype("<i4").tobytes(), more=signed), tripled(levels)),
        Case("tiff float 0 to 1", saved(PillowImage.fromarray((levels / 255).astype(np.float32)), "TIFF"), tripled(levels)),
        Case("tiff float 0 to 255", saved(PillowImage.fromarray(levels.astype(np.float32)), "TIFF"), tripled(levels)),
    ]


def shape_cases() -> list[Case]:
    image = PillowImage.fromarray(colours())
    others = [PillowImage.new("RGB", image.size, colour) for colour in ("black", "white")]
    frames = {"save_all": True, "append_images": others, "duration": 100}
    strip = np.broadcast_to(np.array([200, 90, 40], np.uint8), (1, 65_500, 3))
    jpeg = saved(image, "JPEG", quality=95, subsampling=0)
    return [
        Case("gif animated", saved(image.quantize(16, dither=PillowImage.Dither.NONE), "GIF", **frames), colours()),
        Case("webp animated", saved(image, "WEBP", lossless=True, **frames), colours()),
        Case("png animated", saved(image, "PNG", **frames), colours()),
        Case("tiff of three pages", saved(image, "TIFF", save_all=True, append_images=others), colours()),
        Case("mpo of three pictures", saved(image, "MPO", quality=95, subsampling=0, save_all=True, append_images=others), colours(), 3),
        Case("png 1 x 1", png(1, 1, 8, 2, zlib.compress(b"\0\1\2\3")), np.array([[[1, 2, 3]]], np.uint8)),
        Case("gif 1 x 1", saved(PillowImage.new("RGB", (1, 1), (9, 9, 9)), "GIF"), np.full((1, 1, 3), 9, np.uint8)),
        Case("jpeg 65500 x 1", jpeg_of((65_500, 1), quality=95), strip, 3),
        Case("jpeg 1 x 65500", jpeg_of((1, 65_500), quality=95), strip.transpose(1, 0, 2), 3),
        Case("jpeg progressive", saved(image, "JPEG", quality=95, subsampling=0, progressive=True), colours(), 3),
        Case("jpeg with bytes behind its end", jpeg + bytes(1000), colours(), 3),
        Case("webp lossless", saved(image, "WEBP", lossless=True), colours()),
        Case("bmp", saved(image, "BMP"), colours()),
    ]


PILLOW = int(PIL.__version__.partition(".")[0])
SINCE = {"jpeg damaged exif": 11, "mpo of three pictures": 12}
"""Pillow versions before which a case cannot be read (damaged EXIF ended the decoder) or be written (broken small MPO files)."""
CASES = [case for case in [*orientation_cases(), *colour_cases(), *wide_cases(), *shape_cases()] if SINCE.get(case.name, 0) <= PILLOW]


def levels_off(made: Picture, case: Case) -> int:
    """The largest difference to what the case shows, 255 if the shapes differ."""
    return int(np.abs(made.astype(int) - case.shown).max()) if made.shape == case.shown.shape else 255


def count_right(load: Callable[[bytes], Picture], cases: list[Case]) -> int:
    return sum(levels_off(load(case.content), case) <= case.within for case in cases)


def naive(content: bytes) -> Picture:
    """The negative control: Pillow as most scripts use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(PillowImage.open(io.BytesIO(content)).convert("RGB"))
