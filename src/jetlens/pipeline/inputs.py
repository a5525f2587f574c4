"""What a command's INPUT words stand for, and the names of what is written for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from jetlens.errors import ImageError, InputError, UsageError
from jetlens.fetch import fetch, is_url
from jetlens.frame import Image
from jetlens.imagefile import NETWORK_MAX_PIXELS, load_image
from jetlens.media.base import Source
from jetlens.media.hardware import split_decoder
from jetlens.media.images import WRITTEN_SUFFIXES
from jetlens.media.live.address import shown
from jetlens.media.sources import SOURCES, is_camera, is_video, list_files, open_source, scheme_of

__all__ = ["Input", "OutputNames", "expand"]

_UNFIT = re.compile(r"[^\w.\- ()\[\]+,=@]+")
_LONGEST_STEM = 120


@dataclass(frozen=True, slots=True)
class Input:
    """One picture or one stream.

    Attributes:
        text: the path or address to open.
        name: how it is called in messages and in JSON: the path, or the address without credentials and query.
    """

    text: str
    name: str
    kind: Literal["image", "url", "stream"]

    def image(self) -> Image:
        """Reads the picture: uint8 [height, width, 3], RGB.

        Raises:
            ImageError: it cannot be read.
            NetworkError: its address cannot be fetched.
        """
        if self.kind != "url":
            return load_image(self.text)
        content = fetch(self.text)
        try:
            return load_image(content, max_pixels=NETWORK_MAX_PIXELS)
        except ImageError as error:
            raise ImageError(error.code, self.name, error.why) from None

    def stream(self) -> Source:
        """Opens the stream."""
        return open_source(self.text)


def expand(texts: Iterable[str]) -> Iterator[Input | InputError]:
    """Every picture and stream that files, folders, patterns and addresses stand for; an error takes the place of what is not there.

    Raises:
        UsageError: an address of a kind that cannot be opened.
    """
    for text in texts:
        scheme = scheme_of(text)
        if is_url(text) and scheme:
            yield Input(text, _public(text), "url")
        elif scheme == "test" and "live=1" not in urlsplit(text).query.split("&"):
            yield Input(text, text, "stream")
        elif scheme in SOURCES or is_camera(text):
            raise UsageError(
                f"{shown(text)}: a camera never ends; `jetlens run` reads it, predict takes files, addresses of images and test://"
            )
        elif scheme:
            raise UsageError(
                f"{shown(text)}: inputs are files, folders, patterns, image addresses (http://, https://) and test://, not {scheme}:"
            )
        else:
            place, _ = split_decoder(text)
            yield from _files(place, text[len(place) :])


def _files(place: str, decoder: str) -> Iterator[Input | InputError]:
    try:
        files = list_files(place)
    except InputError as error:
        yield error
        return
    for file in files:
        yield Input(f"{file}{decoder}", str(file), "stream" if is_video(file) else "image")


def _public(url: str) -> str:
    """An address without what may be secret in it: user, password, query, fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class OutputNames:
    """Gives each input a file name in one folder: never an input's own file, never the same twice in one run."""

    def __init__(self, folder: Path, inputs: Sequence[Input]) -> None:
        self._folder = folder
        self._inputs = {identity for entry in inputs if entry.kind != "url" and (identity := _identity(Path(entry.name)))}
        self._given: set[str] = set()

    def image(self, entry: Input) -> Path:
        """Where the overlay of a picture goes: in the picture's own format where that can be written, else PNG."""
        stem, suffix = _name(entry)
        return self._free(stem, suffix if suffix.lower() in WRITTEN_SUFFIXES else ".png")

    def mask(self, overlay: Path) -> Path:
        """Where the colour mask goes that belongs to an overlay."""
        return self._free(f"{overlay.stem}.mask", ".png")

    def video(self, entry: Input) -> Path:
        """Where the overlay of a stream goes."""
        return self._free(_name(entry)[0], ".mp4")

    def _free(self, stem: str, suffix: str) -> Path:
        number = 1
        while True:
            path = self._folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
            key = path.name.casefold()  # some file systems take both cases for one name
            if key not in self._given and _identity(path) not in self._inputs:
                self._given.add(key)
                return path
            number += 1


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file that exists, the same for all its links."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _name(entry: Input) -> tuple[str, str]:
    """Stem and suffix for what is written."""
    if "://" in entry.name:
        parts = urlsplit(entry.name)
        last = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc
    else:
        last = Path(entry.name).name
    path = Path(_UNFIT.sub("_", last).strip(". ") or "image")
    return path.stem[:_LONGEST_STEM], path.suffix
