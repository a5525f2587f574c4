"""open_sink: where a stream of frames goes, told by the name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jetlens.errors import OutputError
from jetlens.media.base import Sink, StreamInfo
from jetlens.media.images import ImageFolderSink
from jetlens.registry import Table, installed

__all__ = ["ENCODERS", "open_sink", "open_video_sink"]

ENCODERS: Final = Table("video encoder", {"av": "jetlens.media.pyav:PyAvSink", "cv2": "jetlens.media.opencv:OpenCvSink"})
"""Packages that encode video, the preferred one first."""
_VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv")


def open_sink(path: str | Path, info: StreamInfo, *, encoder: str | None = None) -> Sink:
    """A video file for the suffixes .mp4, .m4v, .mov and .mkv, a folder of PNG files for a name without a suffix.

    Raises:
        OutputError: the suffix is another one, or nothing can be written there.
    """
    target = Path(path)
    if target.suffix.lower() in _VIDEO_SUFFIXES and not target.is_dir():
        return open_video_sink(target, info, encoder)
    if target.suffix and not target.is_dir():
        raise OutputError(f"{target}: video is written to {', '.join(_VIDEO_SUFFIXES)}; a name without a suffix is a folder of images")
    return ImageFolderSink(target, info)


def open_video_sink(path: Path, info: StreamInfo, encoder: str | None = None) -> Sink:
    """H.264 through PyAV, MPEG-4 through OpenCV where PyAV is not installed; the folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from None
    chosen = encoder or next((package for package in ENCODERS if installed(package)), next(iter(ENCODERS)))
    sink: Sink = ENCODERS.load(chosen)(path, info)
    return sink
