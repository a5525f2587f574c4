"""YOLO's layout: data.yaml, images/ and labels/ with one text file a picture; boxes and polygons as shares of its sides."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import LabelError, Listed, ListedFiles, Part, boxes_truth, checked_size, pictures_in
from jetlens.data.layouts import Layout
from jetlens.data.layouts.image_folder import PART_FOLDERS
from jetlens.data.maskfile import Region, paint_regions
from jetlens.data.samples import Truth
from jetlens.errors import DataError
from jetlens.imagefile import IMAGE_SUFFIXES
from jetlens.labels import read_labels
from jetlens.spec import TaskName

__all__ = ["LAYOUT"]

_LARGEST_LABELS: Final = 1 << 24
_PROBED: Final = 50
_Shape = tuple[int, "NDArray[np.float64]"]


class _Yolo(ListedFiles):
    def __init__(self, task: TaskName, root: Path, labels: Sequence[str], files: Sequence[Path], parts: Sequence[Part]) -> None:
        names = ("background", *labels) if task == "segmentation" else labels
        super().__init__(task, names, f"YOLO layout {root}", files, parts)

    def truth(self, index: int) -> Truth:
        """The boxes, also those around polygons; or the mask of the polygons. Without a label file there is no object."""
        picture = self._files[index]
        file = _label_file(picture)
        size_hw = checked_size(picture, None, file)
        shapes = _read_shapes(file)
        sides = np.array([size_hw[1], size_hw[0]], np.float64)
        if self.task == "segmentation":
            return paint_regions([self._region(shape, sides, file) for shape in shapes], size_hw)
        boxes = np.array([_around(points * sides) for _, points in shapes]).reshape(-1, 4)
        return boxes_truth(file, boxes, [class_id for class_id, _ in shapes], size_hw, self.labels)

    def missing_truth(self, index: int) -> LabelError | None:
        """A picture without objects has an empty label file; one without a file may have lost it."""
        file = _label_file(self._files[index])
        return None if file.is_file() else LabelError("missing-label", self._files[index], f"has no label file {file.name}")

    def _region(self, shape: _Shape, sides: NDArray[np.float64], file: Path) -> Region:
        class_id, points = shape
        corners = points * sides
        # The same checks as those of boxes.
        boxes_truth(file, _around(corners), [class_id], (int(sides[1]), int(sides[0])), self.labels[1:])
        if len(points) == 2:
            (left, top), (right, bottom) = corners
            corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return class_id + 1, [corners]


def _around(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]) if len(corners) > 2 else corners.reshape(-1)


def _label_file(picture: Path) -> Path:
    """Where YOLO looks: the last folder ``images`` becomes ``labels``, the suffix ``.txt``."""
    parts = list(picture.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_shapes(file: Path) -> list[_Shape]:
    """Class ids and points, as shares of the sides: two corners of a box, or the corners of a polygon."""
    if not file.exists():
        return []
    try:
        if file.stat().st_size > _LARGEST_LABELS:
            raise LabelError("bad-label", file, "is larger than 16 MiB; a label file has one line an object")
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError("bad-label", file, f"is no readable text ({str(error)[:60]})") from None
    return [_shape(line.split(), file, number) for number, line in enumerate(lines, 1) if line.strip()]


def _shape(words: list[str], file: Path, number: int) -> _Shape:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise LabelError("bad-label", file, f"line {number} holds something that is no number") from None
    count = len(values)
    if count != 5 and (count < 7 or count % 2 == 0):
        raise LabelError("bad-label", file, f"line {number} has {count} numbers; a box has 5, a polygon 1 and an even number from 6 on")
    if not all(math.isfinite(value) for value in values):
        raise LabelError("not-a-number", file, f"line {number} holds a value that is no finite number")
    if not values[0].is_integer():
        raise LabelError("bad-label", file, f"line {number} begins with {words[0][:20]}; a class id is a whole number")
    if count > 5:
        return int(values[0]), np.array(values[1:]).reshape(-1, 2)
    centre, size = np.array(values[1:3]), np.array(values[3:])
    return int(values[0]), np.stack([centre - size / 2, centre + size / 2])


def _description(root: Path) -> Path | None:
    """The YAML file that describes the dataset, or the list of classes where there is none."""
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") else None
    found = sorted(
        [*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda path: (path.name not in ("data.yaml", "dataset.yaml"), path.name)
    )
    described = next((path for path in found if re.search(r"^(train|val|test)\s*:", _text(path), re.MULTILINE)), None)
    if described is not None and re.search(r"^names\s*:", _text(described), re.MULTILINE):
        return described
    classes = root / "classes.txt"
    return classes if classes.is_file() and (root / "labels").is_dir() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace") if path.stat().st_size < _LARGEST_LABELS else ""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _fits(root: Path) -> bool:
    return (root.is_dir() or root.is_file()) and _description(root) is not None


def _files(root: Path) -> Iterator[tuple[Path, Part]]:
    description = _description(root)
    if description is None:
        return
    home = description.parent
    if description.suffix == ".txt":
        yield from _under_images(home)
        return
    entries = _entries(_text(description))
    base = home / entries.get("path", [""])[0]
    found: list[tuple[Path, Part]] = []
    for name in ("train", "val", "test"):
        for entry in entries.get(name, []):
            # Exported sets say ../train/images of folders that lie beside the file.
            places = (base / entry, home / entry, home / re.sub(r"^(\.\./)+", "", entry))
            place = next((place for place in places if place.exists()), None)
            found += [(file, PART_FOLDERS[name]) for file in _listed(place, home)] if place is not None else []
    if not found:
        said = ", ".join(entry for name in ("train", "val", "test") for entry in entries.get(name, []))
        raise DataError(f"{description}: none of its folders ({said[:80] or 'train, val, test'}) holds a picture below {base}")
    # One folder may be named for two parts; a picture stays in the first.
    yield from {file: (file, part) for file, part in reversed(found)}.values()


def _under_images(home: Path) -> Iterator[tuple[Path, Part]]:
    for file in pictures_in(home / "images", deep=True) if (home / "images").is_dir() else []:
        yield file, PART_FOLDERS.get(file.relative_to(home / "images").parts[0], "")


def _listed(place: Path, home: Path) -> list[Path]:
    """The pictures of a folder, or of a text file that lists them."""
    if place.is_dir():
        return pictures_in(place, deep=True)
    lines = [line.strip() for line in _text(place).splitlines()]
    return [
        place.parent / line if (place.parent / line).exists() else home / line
        for line in lines
        if Path(line).suffix.lower() in IMAGE_SUFFIXES
    ]


def _entries(text: str) -> dict[str, list[str]]:
    """The values of path, train, val and test in the YAML file: a text or a list of texts."""
    entries: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        item = re.match(r"\s*-\s+(.+)$", line)
        pair = re.match(r"(\w+)\s*:\s*(.*)$", line)
        if pair:
            key = pair[1]
            values = pair[2].strip("[] ").split(",") if pair[2].startswith("[") else [pair[2]]
            entries[key] = [value.strip(" '\"") for value in values if value.strip(" '\"")]
        elif item and key:
            entries[key].append(item[1].strip(" '\""))
    return entries


def _tasks(root: Path) -> tuple[TaskName, ...]:
    """Segmentation too where one of the first label files holds a polygon."""
    for file, _ in list(_files(root))[:_PROBED]:
        path = _label_file(file)
        if path.is_file() and any(len(line.split()) > 6 for line in _text(path).splitlines()):
            return "detection", "segmentation"
    return ("detection",)


def _open(root: Path, task: TaskName) -> Listed:
    description = _description(root)
    assert description is not None
    labels = tuple(name or f"class {i}" for i, name in enumerate(read_labels(description)))
    rows = sorted(_files(root))
    return _Yolo(task, root, labels, [file for file, _ in rows], [part for _, part in rows])


LAYOUT = Layout("yolo", "data.yaml with names, images/ and labels/*.txt", _fits, _tasks, _open)
