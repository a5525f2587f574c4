"""The one image loader: bytes of a file in, uint8 RGB pixels out.

Formats are told by their first bytes, whatever the suffix: JPEG (and MPO, its first picture), PNG, WebP, BMP, TIFF, GIF.
What every picture goes through, on every road into jetlens:

    orientation   EXIF (or XMP) orientation 1 to 8 is applied; a damaged EXIF block counts as none
    animation     the first frame (of APNG: the default picture), the first page of a TIFF, the first picture of an MPO
    alpha         dropped, the colours under it kept: what torchvision, cv2 and ultralytics train and predict with
    palette, grey, bilevel, YCbCr, CMYK (Adobe's inversion undone by Pillow): converted to RGB without a colour profile
    ICC profile   ignored, as torchvision and cv2 do
    16 bits       the high byte (12 bits: the high 8 bits), so that the full range becomes 0 to 255, in grey as in colour
    32-bit ints   must lie in 0 to 65535 (Pillow's own convention) and become their high byte; anything else is refused
    float         finite and within 0 to 1 (times 255) or within 0 to 255 (as they are), rounded; anything else is refused

Codes of the ImageError that every failure becomes:

    missing             there is no such file
    not-a-file          a directory, FIFO, socket or device
    unreadable          the system refuses to open or to read it
    empty               0 bytes
    not-an-image        the bytes are of no known image format
    unsupported-format  a known format that is not in the list above
    zero-size           a width or height of 0
    too-large           more pixels or bytes than allowed, told by the header before anything is decoded, or out of memory
    truncated           the file ends before its picture does
    damaged             the picture cannot be decoded
    unsupported-pixels  values that have no agreed meaning as grey levels or RGB

Decoding happens in this thread, so several may load at once; Pillow's global settings are never changed.
Pillow's warnings (odd metadata) pass through Python's own filters; libtiff may print a line about a damaged TIFF.
"""

from jetlens.imagefile.formats import IMAGE_SUFFIXES
from jetlens.imagefile.loader import DEFAULT_MAX_PIXELS, NETWORK_MAX_PIXELS, image_size, load_image
from jetlens.imagefile.sources import MAX_FILE_BYTES, ImageSource

__all__ = ["DEFAULT_MAX_PIXELS", "IMAGE_SUFFIXES", "MAX_FILE_BYTES", "NETWORK_MAX_PIXELS", "ImageSource", "image_size", "load_image"]
