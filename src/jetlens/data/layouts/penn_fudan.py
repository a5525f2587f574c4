"""The layout of the Penn-Fudan pedestrians: PNGImages, PedMasks (one id a person) and Annotation (boxes in text files)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from jetlens.data.base import IGNORED, LabelError, Listed, ListedFiles, boxes_truth, checked_size, pictures_in, read_annotation
from jetlens.data.layouts import Layout
from jetlens.data.maskfile import read_mask
from jetlens.data.samples import Truth
from jetlens.imagefile import image_size
from jetlens.spec import TaskName

__all__ = ["LAYOUT"]

_FOLDERS: Final[dict[TaskName, str]] = {"detection": "Annotation", "segmentation": "PedMasks"}
_BOX: Final = re.compile(r"^Bounding box for object \d+ .*: *\((.+?),(.+?)\) *- *\((.+?),(.+?)\)", re.MULTILINE)
_SIZE: Final = re.compile(r"^Image size \(X x Y x C\) *: *(\d+) x (\d+)", re.MULTILINE)
_COUNT: Final = re.compile(r"^Objects with ground truth *: *(\d+)", re.MULTILINE)


class _PennFudan(ListedFiles):
    def __init__(self, task: TaskName, root: Path, files: Sequence[Path]) -> None:
        labels = ("background", "person") if task == "segmentation" else ("person",)
        super().__init__(task, labels, f"Penn-Fudan layout {root}", files, [""] * len(files))
        self._root = root

    def truth(self, index: int) -> Truth:
        """The people's boxes, or the mask of all people."""
        picture = self._files[index]
        if self.task == "segmentation":
            file = self._root / "PedMasks" / f"{picture.stem}_mask.png"
            people = read_mask(file, image_size(picture))
            return np.where(people == IGNORED, people, people > 0).astype(np.uint8)
        file = self._root / "Annotation" / f"{picture.stem}.txt"
        text = read_annotation(file).decode("utf-8", errors="replace")
        said = _SIZE.search(text)
        size_hw = checked_size(picture, (int(said[2]), int(said[1])) if said else None, file)
        boxes = _BOX.findall(text)
        count = _COUNT.search(text)
        if count is None or int(count[1]) != len(boxes):
            raise LabelError("bad-label", file, f"names {count[1] if count else 'no number of'} objects and holds {len(boxes)} boxes")
        try:
            # Pixels count from 1 and the last one is included.
            corners = np.array([[float(value) for value in box] for box in boxes]).reshape(-1, 4) - [1, 1, 0, 0]
        except ValueError:
            raise LabelError("bad-label", file, "a bounding box holds something that is no number") from None
        return boxes_truth(file, corners, np.zeros(len(boxes), np.int64), size_hw, self.labels)


def _pictures(root: Path) -> Path | None:
    return next((root / name for name in ("PNGImages", "Images") if (root / name).is_dir()), None)


def _tasks(root: Path) -> tuple[TaskName, ...]:
    return tuple(task for task, folder in _FOLDERS.items() if (root / folder).is_dir())


def _fits(root: Path) -> bool:
    return root.is_dir() and _pictures(root) is not None and bool(_tasks(root))


def _open(root: Path, task: TaskName) -> Listed:
    folder = _pictures(root)
    return _PennFudan(task, root, [] if folder is None else pictures_in(folder))


LAYOUT = Layout("penn-fudan", "PNGImages with PedMasks or Annotation", _fits, _tasks, _open)
