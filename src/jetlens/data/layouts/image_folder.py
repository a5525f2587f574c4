"""Image folders: one folder a class, as torchvision reads them; all of it once more under train, val and test where these exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from jetlens.data.base import Listed, ListedFiles, MeanStd, Part, pictures_in
from jetlens.data.layouts import Layout
from jetlens.errors import DataError
from jetlens.spec import TaskName

__all__ = ["LAYOUT", "PART_FOLDERS", "ClassifiedFiles", "part_folders"]

PART_FOLDERS: Final[dict[str, Part]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders are called that hold a part of a dataset."""


class ClassifiedFiles(ListedFiles):
    """Picture files, each of one class."""

    def __init__(
        self,
        labels: Sequence[str],
        origin: str,
        files: Sequence[Path],
        class_ids: Sequence[int],
        parts: Sequence[Part],
        known: MeanStd | None = None,
    ) -> None:
        super().__init__("classification", labels, origin, files, parts)
        self._class_ids = tuple(class_ids)
        self._known = known

    def truth(self, index: int) -> int:
        """The class id."""
        return self._class_ids[index]

    def mean_std(self) -> MeanStd | None:
        """Published values, if there are any."""
        return self._known


_NO_CLASSES: Final = frozenset({"images", "labels", "masks", "annotations", "jpegimages"})
"""What other layouts call their folders: alone they are no classes."""


def part_folders(root: Path) -> dict[Part, Path]:
    """The folders of a root that hold its parts; the root itself where it has none."""
    found: dict[Part, Path] = {}
    for folder in _folders(root):
        part = PART_FOLDERS.get(folder.name.casefold())
        if part is not None:
            found.setdefault(part, folder)
    return found if "train" in found or "val" in found else {"": root}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _fits(root: Path) -> bool:
    if not root.is_dir():
        return False
    folders = [folder for place in part_folders(root).values() for folder in _folders(place)]
    return any(_holds_picture(folder) for folder in folders) and not {folder.name.casefold() for folder in folders} <= _NO_CLASSES


def _holds_picture(folder: Path) -> bool:
    return bool(pictures_in(folder)) or bool(pictures_in(folder, deep=True))


def _open(root: Path, task: TaskName) -> Listed:
    rows = list(_rows(root))
    labels = sorted({label for _, label, _ in rows})
    ids = {label: class_id for class_id, label in enumerate(labels)}
    listed = [(file, ids[label], part) for files, label, part in rows for file in files]
    if not listed:
        raise DataError(f"{root}: no picture in it; expected {root}/CLASS/PICTURE with one folder a class")
    files, class_ids, parts = zip(*listed, strict=True)
    return ClassifiedFiles(labels, f"image folder {root}", files, class_ids, parts)


def _rows(root: Path) -> Iterator[tuple[list[Path], str, Part]]:
    for part, place in part_folders(root).items():
        for folder in _folders(place):
            files = pictures_in(folder, deep=True)
            # An empty folder is a class that lacks pictures; one with other files is no class.
            if files or not any(folder.iterdir()):
                yield files, folder.name, part


LAYOUT = Layout("image-folder", "one folder a class, or train/CLASS and val/CLASS", _fits, lambda root: ("classification",), _open)
