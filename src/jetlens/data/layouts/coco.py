"""COCO's layout: JSON annotations and folders of pictures; boxes, polygons and run lengths, category ids with gaps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import LabelError, Listed, Part, boxes_truth, checked_size
from jetlens.data.layouts import Layout
from jetlens.data.layouts.image_folder import PART_FOLDERS
from jetlens.data.maskfile import Region, checked_ids, decode_runs, paint_regions, polygon_of, read_mask, unpack_runs
from jetlens.data.samples import Truth
from jetlens.errors import DataError
from jetlens.spec import TaskName

__all__ = ["LAYOUT"]

_OTHER_KINDS: Final = re.compile(r"captions|keypoints|panoptic|stuff|image_info")
_LONE_NAMES: Final = ("annotations.json", "_annotations.coco.json", "instances.json", "coco.json")
_PART_WORD: Final = re.compile(r"train|valid|val|test")


@dataclass(frozen=True, slots=True)
class _Picture:
    """A row of ``images``, with the file and the annotations that belong to it."""

    file: Path
    said_hw: tuple[int, int] | None
    mask_file: Path | None
    annotations: Sequence[Mapping[str, Any]]
    said_in: Path
    image_id: Any


class _Coco(Listed):
    def __init__(self, task: TaskName, root: Path, files: Sequence[tuple[Part, Path]]) -> None:
        tables = [_read(path) for _, path in files]
        self._ids, names = _categories(files, tables)
        masks = _mask_classes(tables)
        if task == "segmentation":
            names = list(masks or ("background", *names))
        self._painted = task == "segmentation" and not masks
        rows = [(picture, part) for (part, path), table in zip(files, tables, strict=True) for picture in _pictures(root, path, table)]
        self._pictures = [picture for picture, _ in rows]
        super().__init__(task, names, f"COCO layout {root}", [part for _, part in rows])

    def image(self, index: int) -> Path:
        """The picture's file."""
        return self._pictures[index].file

    def truth(self, index: int) -> Truth:
        """The boxes without those of crowds; or the mask, crowds painted as their class."""
        picture = self._pictures[index]
        where = f"{picture.said_in.name}, image id {picture.image_id} ({picture.file.name})"
        size_hw = checked_size(picture.file, picture.said_hw, where)
        if self.task == "segmentation" and not self._painted:
            mask_file = picture.mask_file or picture.said_in
            return checked_ids(read_mask(mask_file, size_hw), len(self.labels), mask_file)
        if self.task == "segmentation":
            return paint_regions([self._region(row, size_hw, where) for row in picture.annotations], size_hw)
        rows = [row for row in picture.annotations if not row.get("iscrowd")]
        boxes = np.array([_box(row, where) for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes_truth(where, boxes, [self._class_id(row, where) for row in rows], size_hw, self.labels)

    def _class_id(self, row: Mapping[str, Any], where: str) -> int:
        category = row.get("category_id")
        if not isinstance(category, int) or category not in self._ids:
            raise LabelError(
                "unknown-class", where, f"an annotation has category_id {str(category)[:20]!r}, which 'categories' does not hold"
            )
        return self._ids[category]

    def _region(self, row: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> Region:
        class_id = self._class_id(row, where) + 1
        shape = row.get("segmentation")
        try:
            if isinstance(shape, dict):
                return class_id, _run_lengths(shape, size_hw)
            if not isinstance(shape, list) or not shape:
                raise LabelError("missing-mask", where, f"annotation {str(row.get('id'))[:20]} has no segmentation")
            return class_id, [polygon_of(polygon) for polygon in shape]
        except (TypeError, ValueError, OverflowError) as error:
            raise LabelError("bad-label", where, f"annotation {str(row.get('id'))[:20]}: {str(error)[:80]}") from None


def _box(row: Mapping[str, Any], where: str) -> list[float]:
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        raise LabelError(
            "bad-label", where, f"annotation {str(row.get('id'))[:20]}: bbox is {str(box)[:40]}; it must be [x, y, width, height]"
        )
    return [float(value) for value in box]


def _run_lengths(shape: Mapping[str, Any], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    if list(shape.get("size", ())) != list(size_hw):
        raise ValueError(f"its run lengths are for {shape.get('size')}, the picture is {list(size_hw)}")
    counts = shape.get("counts")
    return decode_runs(unpack_runs(counts) if isinstance(counts, str) else [int(run) for run in counts or ()], size_hw)


def _annotation_files(root: Path) -> list[tuple[Part, Path]]:
    """The files of instances with the part that their name or folder tells."""
    if root.is_file():
        return [("", root)] if root.suffix.lower() == ".json" else []
    found = sorted((root / "annotations").glob("*.json"))
    found += [root / name for name in _LONE_NAMES if (root / name).is_file()]
    for name in PART_FOLDERS:
        found += [root / name / lone for lone in _LONE_NAMES if (root / name / lone).is_file()]
    found = [path for path in found if not _OTHER_KINDS.search(path.stem)]
    instances = [path for path in found if path.stem.startswith("instances")]
    return [(_part(path), path) for path in instances or found]


def _part(path: Path) -> Part:
    word = _PART_WORD.search(path.stem) or _PART_WORD.fullmatch(path.parent.name)
    return PART_FOLDERS[word[0]] if word else ""


@lru_cache(maxsize=2)
def _parsed(path: Path, _changed: tuple[int, int]) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no valid JSON ({str(error)[:100]}); copy or export it again") from None
    if not isinstance(table, dict) or not all(_rows_of(table, key) is not None for key in ("images", "annotations", "categories")):
        raise DataError(f"{path}: is no COCO file; it needs the lists 'images', 'annotations' and 'categories'")
    return table


def _read(path: Path) -> dict[str, Any]:
    status = path.stat()
    return _parsed(path, (status.st_mtime_ns, status.st_size))


def _rows_of(table: Mapping[str, Any], key: str) -> list[dict[str, Any]] | None:
    rows = table.get(key)
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


def _categories(files: Sequence[tuple[Part, Path]], tables: Sequence[Mapping[str, Any]]) -> tuple[dict[int, int], list[str]]:
    """Class ids without gaps by category id, and the names; all files must agree."""
    names: dict[int, str] = {}
    for (_, path), table in zip(files, tables, strict=True):
        for row in table["categories"]:
            category, name = row.get("id"), row.get("name")
            if type(category) is not int or not isinstance(name, str):
                raise DataError(f"{path}: a category is {str(row)[:60]}; it needs a whole number 'id' and a text 'name'")
            if names.setdefault(category, name) != name:
                raise DataError(
                    f"{path}: category {category} is {name[:40]!r} here and {names[category][:40]!r} elsewhere; make them agree"
                )
    ids = {category: class_id for class_id, category in enumerate(sorted(names))}
    return ids, [names[category] for category in ids]


def _mask_classes(tables: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes of the masks that ``jetlens data orange-line`` writes beside the boxes; empty for other files."""
    classes = tables[0].get("info", {}).get("classes", []) if isinstance(tables[0].get("info"), dict) else []
    own = all("mask_file" in row for table in tables for row in table["images"])
    return tuple(str(name) for name in classes) if own and isinstance(classes, (list, tuple)) else ()


def _pictures(root: Path, path: Path, table: Mapping[str, Any]) -> Iterator[_Picture]:
    rows: dict[Any, list[Mapping[str, Any]]] = {}
    for row in table["annotations"]:
        rows.setdefault(str(row.get("image_id")), []).append(row)
    home = root
    if root.is_file():
        home = root.parent.parent if root.parent.name == "annotations" else root.parent
    year = path.stem.removeprefix("instances_")
    places = [home / "images" / year, home / year, home / "images", path.parent, home, home / "images" / _part(path), home / _part(path)]
    for row in table["images"]:
        name = _inside(row.get("file_name"), path)
        place = next((place for place in places if (place / name).is_file()), None)
        if place is None:
            place = next((place for place in places[:3] if place.is_dir()), home)
        elif place != places[0]:
            places.remove(place)
            places.insert(0, place)
        height, width = row.get("height"), row.get("width")
        said_hw = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        mask_file = home / _inside(row["mask_file"], path) if "mask_file" in row else None
        image_id = row.get("id")
        yield _Picture(place / name, said_hw, mask_file, rows.get(str(image_id), ()), path, image_id)


def _inside(name: Any, path: Path) -> str:
    """A file's name that stays inside the dataset."""
    pure = PurePosixPath(name) if isinstance(name, str) and name else None
    if pure is None or pure.is_absolute() or ".." in pure.parts or "\0" in str(pure):
        raise DataError(f"{path}: file_name {str(name)[:60]!r} must be a relative name inside the folder")
    return str(pure)


def _open(root: Path, task: TaskName) -> Listed:
    return _Coco(task, root, _annotation_files(root))


def _tasks(root: Path) -> tuple[TaskName, ...]:
    tables = [_read(path) for _, path in _annotation_files(root)]
    shaped = any(row.get("segmentation") for table in tables for row in table["annotations"])
    return ("detection", "segmentation") if shaped or (tables and _mask_classes(tables)) else ("detection",)


LAYOUT = Layout("coco", "annotations/*.json and folders of pictures", lambda root: bool(_annotation_files(root)), _tasks, _open)
