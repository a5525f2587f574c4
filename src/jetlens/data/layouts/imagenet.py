"""The layout of ImageNet (ILSVRC 2012): train/nXXXXXXXX/PICTURE, and val/ with or without class folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from jetlens.data.base import Listed, Part, pictures_in
from jetlens.data.layouts import Layout
from jetlens.data.layouts.image_folder import ClassifiedFiles, part_folders
from jetlens.data.statistics import IMAGENET_MEAN_STD
from jetlens.errors import DataError
from jetlens.labels import labels as shipped_labels
from jetlens.spec import TaskName

__all__ = ["LAYOUT", "synset_labels"]

_SYNSET: Final = re.compile(r"n\d{8}(?=$|[ _.-])")
_LISTS: Final = ("LOC_val_solution.csv", "val.txt", "val_labels.txt", "val/val.txt", "val/val_labels.txt")


@cache
def synset_labels() -> dict[str, str]:
    """The names of the 1,000 classes by their WordNet synset, in the order of class ids."""
    synsets = files("jetlens").joinpath("assets", "labels", "imagenet_synsets.txt").read_text(encoding="ascii").split()
    return dict(zip(synsets, shipped_labels("imagenet"), strict=True))


def _home(root: Path) -> Path:
    """The folder that holds train and val: the root, or the place where the official archive puts them."""
    official = root / "ILSVRC" / "Data" / "CLS-LOC"
    return official if official.is_dir() else root


def _fits(root: Path) -> bool:
    if not root.is_dir():
        return False
    for place in part_folders(_home(root)).values():
        folders = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if folders and all(_SYNSET.match(path.name) for path in folders):
            return True
    return any(_SYNSET.match(path.name) for path in pictures_in(_home(root))[:1])


def _open(root: Path, task: TaskName) -> Listed:
    home = _home(root)
    rows = [row for part, place in part_folders(home).items() for row in _rows(root, place, part)]
    if not rows:
        raise DataError(f"{root}: no picture in it; expected train/nXXXXXXXX/PICTURE and val/")
    names = synset_labels()
    synsets = sorted({synset for _, synset, _ in rows})
    ids = {synset: class_id for class_id, synset in enumerate(synsets)}
    labels = [names.get(synset, synset) for synset in synsets]
    pictures, kinds, parts = zip(*rows, strict=True)
    return ClassifiedFiles(labels, f"ImageNet layout {root}", pictures, [ids[kind] for kind in kinds], parts, IMAGENET_MEAN_STD)


def _rows(root: Path, place: Path, part: Part) -> Iterator[tuple[Path, str, Part]]:
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        found = _SYNSET.match(folder.name)
        if found:
            yield from ((file, found[0], part) for file in pictures_in(folder))
    loose = pictures_in(place)
    listed = _validation_list(root) if loose and not all(_SYNSET.match(file.name) for file in loose) else {}
    for file in loose:
        # A list speaks of validation; the training archive writes the synset before each name.
        found = _SYNSET.match(file.name)
        synset = listed.get(file.stem) or (found[0] if found else None)
        if synset is None:
            raise DataError(
                f"{file}: nothing says its class; put val/ into class folders, or LOC_val_solution.csv or val.txt (PICTURE CLASS) beside val/"
            )
        yield file, synset, part


def _validation_list(root: Path) -> dict[str, str]:
    """The synsets of loose validation pictures by file stem, from the list of the challenge (CSV) or one of ``PICTURE CLASS`` lines."""
    path = next((root / name for name in _LISTS if (root / name).is_file()), None)
    if path is None:
        return {}
    order = list(synset_labels())
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = re.split(r"[,\s]+", line.strip())
        if len(words) < 2 or words[0] == "ImageId":
            continue
        kind = words[1]
        if kind.isdecimal() and int(kind) < len(order):
            kind = order[int(kind)]
        if not _SYNSET.fullmatch(kind):
            raise DataError(f"{path}:{number}: {kind[:40]!r} is no synset (nXXXXXXXX) and no class id from 0 to {len(order) - 1}")
        table[Path(words[0]).stem] = kind
    return table


LAYOUT = Layout("imagenet", "train/nXXXXXXXX/PICTURE and val/", _fits, lambda root: ("classification",), _open)
