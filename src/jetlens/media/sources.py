"""open_source: a file, a folder, a pattern or an address becomes a stream of frames."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Final

from jetlens.errors import InputError, UsageError
from jetlens.imagefile import IMAGE_SUFFIXES
from jetlens.media.base import Source
from jetlens.media.containers import VIDEO_SUFFIXES, sniff_container
from jetlens.media.hardware import SOFTWARE, split_decoder
from jetlens.media.images import ImageFilesSource
from jetlens.media.live.address import shown
from jetlens.registry import Table, installed

__all__ = ["DECODERS", "SOURCES", "is_camera", "is_video", "list_files", "open_source", "open_video", "scheme_of"]

SOURCES: Final = Table(
    "source",
    {
        "test": "jetlens.media.generated:generated_source",
        "rtsp": "jetlens.media.live.rtsp:rtsp_source",
        "rtsps": "jetlens.media.live.rtsp:rtsp_source",
        "http": "jetlens.media.live.mjpeg:mjpeg_source",
        "https": "jetlens.media.live.mjpeg:mjpeg_source",
        "v4l2": "jetlens.media.live.v4l2:v4l2_source",
        "csi": "jetlens.media.live.csi:csi_source",
    },
)
"""Schemes of addresses, ``SCHEME://...``, to what takes the whole address and opens it."""
DECODERS: Final = Table("video decoder", {SOFTWARE: "jetlens.media.pyav:PyAvSource", "cv2": "jetlens.media.opencv:OpenCvSource"})
"""Packages that decode video, the preferred one first; the first reads files for the decoders of ``HARDWARE`` too."""
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]+):", re.IGNORECASE)
_CAMERA: Final = re.compile(r"(?:/dev/video)?[0-9]{1,3}")
_NO_CHOICE: Final = "#decoder= stands behind one video file or an rtsp:// address, and this is neither"
_FOLDER_SUFFIXES: Final = IMAGE_SUFFIXES | VIDEO_SUFFIXES


def scheme_of(text: str) -> str:
    """The scheme of an address in lower case; an empty text for a file that is there and for anything without one."""
    found = _SCHEME.match(text)
    return "" if found is None or Path(text).exists() else found[1].lower()


def is_camera(text: str) -> bool:
    """Whether it names a camera of this machine: ``0`` or ``/dev/video0``, and no file of that name."""
    return _CAMERA.fullmatch(text) is not None and not Path(text).is_file()


def is_video(path: Path) -> bool:
    """Whether a file is to be read as a video: by its first bytes, or by its suffix where they tell nothing."""
    try:
        if not path.is_file():  # opening a FIFO waits for its writer
            return False
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return sniff_container(head) is not None or (path.suffix.lower() in VIDEO_SUFFIXES and not _looks_like_image(head))


def _looks_like_image(head: bytes) -> bool:
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")) or head[8:12] == b"WEBP"


def list_files(text: str) -> list[Path]:
    """The image and video files that a path, a folder or a pattern stands for, in natural order (2 before 10).

    Raises:
        InputError: there is none.
        UsageError: the text is empty.
    """
    if not text:
        raise UsageError("an input is empty; give a file, a folder or a pattern ('.' is the current folder)")
    path = Path(text)
    if path.is_dir():
        found = [entry for entry in path.iterdir() if entry.suffix.lower() in _FOLDER_SUFFIXES and entry.is_file()]
        if not found:
            deeper = any(entry.is_dir() for entry in path.iterdir())
            hint = (
                f"folders inside it are not searched; a pattern does: '{path}/**/*.jpg'"
                if deeper
                else "looked for .jpg, .png, .mp4 and others"
            )
            raise InputError(f"{text}: the folder holds no image and no video; {hint}")
        return sorted(found, key=_natural)
    if path.exists() or not glob.has_magic(text):
        return [path]
    found = [entry for entry in map(Path, glob.glob(text, recursive=True)) if entry.is_file()]
    if not found:
        raise InputError(f"{text}: no file matches this pattern")
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in re.split(r"(\d+)", str(path)) if part)


def open_video(path: Path, name: str | None = None, decoder: str | None = None) -> Source:
    """Opens a local video file with PyAV, in hardware where that decodes it, or with OpenCV where PyAV is not installed.

    Raises:
        VideoError: it is no video, or no frame of it decodes.
        MissingDependencyError: neither is installed, or the decoder that was asked for is not here.
        UnknownNameError: no decoder has this name.
    """
    package = next((package for package in DECODERS if installed(package)), SOFTWARE)
    if decoder is not None:
        package = decoder if decoder in DECODERS else SOFTWARE
    source: Source = DECODERS.load(package)(path, name, *([] if package == "cv2" else [decoder]))
    return source


def open_source(uri: str | Path, *, decoder: str | None = None) -> Source:
    """Opens a video file, an image file, a folder or pattern of images, or a camera: an address of ``SOURCES``, ``0`` or ``/dev/video0``.

    Cameras are live: they connect when they are iterated, come back by themselves and never end (``jetlens.media.live``).

    Args:
        decoder: of a video file: a name of ``DECODERS`` or ``HARDWARE``, also given as ``line.mp4#decoder=av``; None chooses.

    Raises:
        InputError: nothing is there, or it cannot be used.
        UsageError: an address of a kind that cannot be opened.
    """
    address = str(uri)
    text, asked = split_decoder(address)
    scheme = scheme_of(text)
    if is_camera(text):
        scheme, text = "v4l2", f"v4l2:///dev/video{int(text.removeprefix('/dev/video'))}"
    if scheme in SOURCES:
        by_network = scheme.startswith("rtsp")
        if asked and not by_network:
            raise UsageError(f"{shown(text)}: {_NO_CHOICE}")
        source: Source = SOURCES.load(scheme)(address if by_network else text)
        return source
    if scheme:
        raise UsageError(
            f"{shown(text)}: sources are local files, folders, patterns, cameras (0, /dev/video0) and "
            f"{', '.join(f'{name}://' for name in SOURCES)}, not {scheme}:"
        )
    files = list_files(text)
    if len(files) == 1 and is_video(files[0]):
        return open_video(files[0], text, asked or decoder)
    if asked and files[0].exists():
        raise UsageError(f"{text}: {_NO_CHOICE}")
    images = [file for file in files if not is_video(file)]
    if not images:
        raise InputError(f"{text}: {len(files)} videos; open them one at a time")
    return ImageFilesSource(images, text)
