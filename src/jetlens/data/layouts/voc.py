"""PASCAL VOC's layout: JPEGImages, Annotations (XML boxes), SegmentationClass (palette masks) and lists in ImageSets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element

from jetlens.data.base import LabelError, Listed, ListedFiles, Part, boxes_truth, checked_size, pictures_in
from jetlens.data.layouts import Layout
from jetlens.data.maskfile import checked_ids, read_mask
from jetlens.data.samples import Truth
from jetlens.data.xmlfile import read_xml
from jetlens.errors import DataError, InputError
from jetlens.imagefile import IMAGE_SUFFIXES, image_size
from jetlens.labels import labels as shipped_labels
from jetlens.labels import read_labels
from jetlens.spec import TaskName

__all__ = ["LAYOUT"]

_FOLDERS: Final[dict[TaskName, str]] = {"detection": "Annotations", "segmentation": "SegmentationClass"}
_PARTS: Final[tuple[Part, ...]] = ("train", "val", "test")


class _Voc(ListedFiles):
    def __init__(self, task: TaskName, home: Path, labels: Sequence[str], rows: Sequence[tuple[Path, Part]]) -> None:
        super().__init__(task, labels, f"VOC layout {home}", [file for file, _ in rows], [part for _, part in rows])
        self._home = home
        self._ids = {label: class_id for class_id, label in enumerate(self.labels)}

    def truth(self, index: int) -> Truth:
        """The boxes without the difficult ones, as VOC scores them; or the mask, its borders 255."""
        picture = self._files[index]
        if self.task == "segmentation":
            file = self._home / "SegmentationClass" / f"{picture.stem}.png"
            return checked_ids(read_mask(file, image_size(picture)), len(self.labels), file)
        file = self._home / "Annotations" / f"{picture.stem}.xml"
        root = read_xml(file)
        size_hw = checked_size(picture, _said_size(root), file)
        objects = [thing for thing in root.iter("object") if (thing.findtext("difficult") or "0").strip() != "1"]
        return boxes_truth(
            file, [_box(thing, file) for thing in objects], [self._class_id(thing, file) for thing in objects], size_hw, self.labels
        )

    def _class_id(self, thing: Element, file: Path) -> int:
        name = (thing.findtext("name") or "").strip()
        if name not in self._ids:
            raise LabelError("unknown-class", file, f"an object is {name[:40]!r}, which is none of the {len(self.labels)} classes")
        return self._ids[name]


def _box(thing: Element, file: Path) -> list[float]:
    """Corners; VOC counts pixels from 1 and includes the last one."""
    try:
        left, top, right, bottom = (float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise LabelError("bad-label", file, "a bndbox has no four numbers xmin, ymin, xmax, ymax") from None
    return [left - 1, top - 1, right, bottom]


def _said_size(root: Element) -> tuple[int, int] | None:
    height, width = (root.findtext(f"size/{key}") or "0" for key in ("height", "width"))
    return (int(height), int(width)) if height.strip().isdecimal() and width.strip().isdecimal() and int(height) and int(width) else None


def _home(root: Path) -> Path | None:
    """The folder with JPEGImages: the root, or VOC2012 or VOCdevkit/VOC2012 in it; the latest year if there are several."""
    if not root.is_dir():
        return None
    places = [root, *sorted(root.glob("VOC[0-9]*"), reverse=True), *sorted(root.glob("VOCdevkit/VOC[0-9]*"), reverse=True)]
    return next((place for place in places if (place / "JPEGImages").is_dir() and _tasks_of(place)), None)


def _tasks_of(home: Path) -> tuple[TaskName, ...]:
    return tuple(task for task, folder in _FOLDERS.items() if (home / folder).is_dir())


def _tasks(root: Path) -> tuple[TaskName, ...]:
    home = _home(root)
    return () if home is None else _tasks_of(home)


def _rows(home: Path, task: TaskName) -> Iterator[tuple[Path, Part]]:
    """The pictures of the lists in ImageSets; where there are none, every picture."""
    by_stem = {file.stem: file for file in pictures_in(home / "JPEGImages")}
    lists = home / "ImageSets" / ("Main" if task == "detection" else "Segmentation")
    listed: dict[str, Part] = {}
    for part in _PARTS:
        file = lists / f"{part}.txt"
        if file.is_file():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.strip():
                    listed.setdefault(line.split()[0], part)
    if not listed:
        yield from ((file, "") for file in by_stem.values())
        return
    for stem, part in listed.items():
        name = Path(stem).name
        yield (
            by_stem.get(name.rpartition(".")[0] if Path(name).suffix.lower() in IMAGE_SUFFIXES else name)
            or home / "JPEGImages" / f"{name}.jpg",
            part,
        )


def _labels(home: Path, task: TaskName) -> tuple[str, ...]:
    """A list that lies in the folder; else VOC's own classes, or for boxes the names that occur where others do."""
    voc = shipped_labels("voc")
    for name in ("labels.txt", "classes.txt"):
        if (home / name).is_file():
            try:
                own = read_labels(home / name)
            except InputError as error:
                raise DataError(str(error)) from None
            return own if task == "detection" or own[0].casefold() == "background" else ("background", *own)
    if task == "segmentation":
        return voc
    names: set[str] = set()
    for file in sorted((home / "Annotations").glob("*.xml")):
        try:
            names |= {(thing.findtext("name") or "").strip() for thing in read_xml(file).iter("object")}
        except LabelError:
            continue  # named when its picture is read
    names.discard("")
    return voc[1:] if names <= set(voc[1:]) else tuple(sorted(names))


def _open(root: Path, task: TaskName) -> Listed:
    home = _home(root)
    assert home is not None
    return _Voc(task, home, _labels(home, task), list(_rows(home, task)))


LAYOUT = Layout("voc", "JPEGImages with Annotations or SegmentationClass", lambda root: _home(root) is not None, _tasks, _open)
