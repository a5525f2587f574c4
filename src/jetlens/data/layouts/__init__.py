"""How datasets lie on disk: a table of layouts, the first that fits a folder is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jetlens.data.base import Listed
from jetlens.registry import Table
from jetlens.spec import TaskName

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS = Table(
    "layout",
    {
        "cifar10": "jetlens.data.layouts.cifar10:LAYOUT",
        "coco": "jetlens.data.layouts.coco:LAYOUT",
        "voc": "jetlens.data.layouts.voc:LAYOUT",
        "penn-fudan": "jetlens.data.layouts.penn_fudan:LAYOUT",
        "yolo": "jetlens.data.layouts.yolo:LAYOUT",
        "masks": "jetlens.data.layouts.masks:LAYOUT",
        "imagenet": "jetlens.data.layouts.imagenet:LAYOUT",
        "image-folder": "jetlens.data.layouts.image_folder:LAYOUT",
    },
)
"""In the order in which a folder is tried."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which datasets lie on disk.

    Attributes:
        expects: what it looks like, for messages.
        fits: whether a folder or file looks like it; reads no picture.
        tasks: what it has truth for, the usual one first.
        open: lists the pictures of a folder for a task.
    """

    name: str
    expects: str
    fits: Callable[[Path], bool]
    tasks: Callable[[Path], tuple[TaskName, ...]]
    open: Callable[[Path, TaskName], Listed]
