"""Image folders: one folder a class, as torchvision reads them; folders are matched to labels by name or by class id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jetlens.data.samples import Sample
from jetlens.errors import DataError
from jetlens.imagefile import IMAGE_SUFFIXES

__all__ = ["image_folder"]

_SYNSET = re.compile(r"^n\d{8}[ _-]+")


def image_folder(root: Path, labels: Sequence[str], count: int | None = None) -> list[Sample]:
    """The pictures under ``root``/CLASS/ with their class ids; ``count`` of them, evenly spread, if given.

    A folder is a class by its name (case, ``_`` and a leading synset number aside; one of several comma-separated names is enough)
    or, where it is a number that is no label, by its id.

    Raises:
        DataError: there is no such folder or no picture in it, or a folder's name is no class of the labels.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give a folder with one folder a class")
    ids = _ids_by_name(labels)
    samples, unknown = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        class_id = _class_id(folder.name, ids, len(labels))
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if class_id is None:
            unknown += [folder.name] if files else []
            continue
        samples += [Sample(file, class_id, str(file)) for file in files]
    if unknown:
        raise DataError(
            f"{root}: {len(unknown)} folders are no class of this model, such as {unknown[0][:60]!r}; "
            f"its {len(labels)} labels begin with {', '.join(labels[:4])[:80]}: rename the folders to labels or class ids"
        )
    if not samples:
        raise DataError(f"{root}: no picture in it; expected {root}/CLASS/PICTURE with one folder a class")
    if count is None or count >= len(samples):
        return samples
    return [samples[i * len(samples) // count] for i in range(count)]


def _ids_by_name(labels: Sequence[str]) -> dict[str, int]:
    """Class ids by every plain form of their labels; the first of equal names stays."""
    ids: dict[str, int] = {}
    for class_id, label in enumerate(labels):
        for name in (label, *label.split(",")):
            if name.strip():
                ids.setdefault(_plain(name), class_id)
    return ids


def _class_id(folder: str, ids: dict[str, int], classes: int) -> int | None:
    found = ids.get(_plain(folder))
    if found is None and folder.isdecimal() and int(folder) < classes:
        return int(folder)
    return found


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", _SYNSET.sub("", name.strip().casefold())))
