"""Pictures and masks in two folders, paired by name: images/ and masks/, or X/ and Xannot/ as CamVid has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from jetlens.data.base import IGNORED, LabelError, Listed, Part, pictures_in
from jetlens.data.layouts import Layout
from jetlens.data.layouts.image_folder import PART_FOLDERS
from jetlens.data.maskfile import checked_ids, read_mask
from jetlens.data.samples import Truth
from jetlens.errors import DataError, ImageError, InputError
from jetlens.imagefile import image_size
from jetlens.labels import read_labels
from jetlens.spec import TaskName

__all__ = ["CAMVID", "LAYOUT"]

CAMVID: Final = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""The classes of CamVid's masks of 12 ids, of which the last is void."""

_MASK_FOLDERS: Final = ("masks", "annotations", "labels", "SegmentationClass")
_LABEL_FILES: Final = ("labels.txt", "classes.txt", "labels.json", "data.yaml")
_UNCOUNTED: Final = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})
_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff", ".gif")
_ENDINGS: Final = ("", "_mask", "_labelIds", "_L")


class _Masks(Listed):
    """The void class is the last one or none: it becomes 255."""

    def __init__(self, root: Path, labels: Sequence[str], rows: Sequence[tuple[Path, Path, Part]]) -> None:
        self._void = len(labels) - 1 if labels[-1].casefold() in _UNCOUNTED else None
        super().__init__("segmentation", labels[: self._void], f"masks {root}", [part for _, _, part in rows])
        self._rows = tuple(rows)

    def image(self, index: int) -> Path:
        """The picture's file."""
        return self._rows[index][0]

    def truth(self, index: int) -> Truth:
        """The mask."""
        picture, folder, _ = self._rows[index]
        file = _mask_of(picture, folder)
        mask = read_mask(file, image_size(picture))
        if self._void is not None:
            mask[mask == self._void] = IGNORED
        return checked_ids(mask, len(self.labels), file)


def _mask_of(picture: Path, folder: Path) -> Path:
    """The mask of a picture by its name, the usual endings and suffixes; the plain name where there is none."""
    names = [f"{picture.stem}{ending}{suffix}" for ending in _ENDINGS for suffix in _SUFFIXES]
    return next((folder / name for name in names if (folder / name).is_file()), folder / f"{picture.stem}.png")


def _folders(root: Path) -> Iterator[tuple[Path, Path, Part]]:
    """Folders of pictures with those of their masks."""
    if not root.is_dir():
        return
    for name, part in PART_FOLDERS.items():
        if (root / name).is_dir() and (root / f"{name}annot").is_dir():
            yield root / name, root / f"{name}annot", part
    for masks in _MASK_FOLDERS:
        yield from _under_images(root / "images", root / masks, "")
        for name, part in PART_FOLDERS.items():
            yield from _under_images(root / name / "images", root / name / masks, part)


def _under_images(images: Path, masks: Path, part: Part) -> Iterator[tuple[Path, Path, Part]]:
    """The two folders themselves, or folders of parts inside both."""
    if not images.is_dir() or not masks.is_dir():
        return
    inner = [(name, inside) for name, inside in PART_FOLDERS.items() if (images / name).is_dir() and (masks / name).is_dir()]
    if not inner and any(path.suffix.lower() in _SUFFIXES for path in masks.iterdir()):
        yield images, masks, part
    for name, inside in inner:
        if any(path.suffix.lower() in _SUFFIXES for path in (masks / name).iterdir()):
            yield images / name, masks / name, inside


def _labels(root: Path, rows: Sequence[tuple[Path, Path, Part]]) -> tuple[str, ...]:
    """A list that lies in the folder; CamVid's where the folders are called as its are; else a number for each id up to the largest."""
    for name in _LABEL_FILES:
        if (root / name).is_file():
            try:
                return tuple(label or f"class {i}" for i, label in enumerate(read_labels(root / name)))
            except InputError as error:
                raise DataError(str(error)) from None
    if all(folder.name.endswith("annot") for _, folder, _ in rows):
        return (*CAMVID, "void")
    largest = 0
    for picture, folder, _ in rows:
        try:
            mask = read_mask(_mask_of(picture, folder), image_size(picture))
        except (ImageError, LabelError):
            continue  # named when its picture is read
        largest = max(largest, int(mask[mask != IGNORED].max(initial=0)))
    return tuple(f"class {i}" for i in range(max(2, largest + 1)))


def _open(root: Path, task: TaskName) -> Listed:
    rows = [(picture, masks, part) for images, masks, part in _folders(root) for picture in pictures_in(images)]
    if not rows:
        raise DataError(f"{root}: no picture in it; expected images/ and masks/, paired by name")
    return _Masks(root, _labels(root, rows), rows)


LAYOUT = Layout(
    "masks",
    "images/ and masks/ paired by name, or train/ and trainannot/",
    lambda root: any(_folders(root)),
    lambda root: ("segmentation",),
    _open,
)
