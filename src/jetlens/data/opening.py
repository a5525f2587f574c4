"""open_dataset: a folder in any layout, or the orange line, as one dataset; and its stable split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import Dataset, Listed, PartName, Subset
from jetlens.data.layouts import LAYOUTS, Layout
from jetlens.data.stills import OrangeLineStills
from jetlens.errors import DataError, ImageError, UnknownNameError, UsageError
from jetlens.spec import TaskName

__all__ = ["ORANGE_LINE", "detect_layout", "open_dataset", "open_listed", "parts_of", "take_split"]

ORANGE_LINE: Final = "orange-line"
_PARTS: Final = ("train", "val", "test", "all")
_HASHED_BYTES: Final = 1 << 16
_ARCHIVES: Final = (".tar", ".tgz", ".gz", ".zip", ".xz", ".bz2")


def open_dataset(
    source: str | Path,
    task: TaskName | None = None,
    split: PartName = "all",
    *,
    layout: str | None = None,
    val_fraction: float = 0.1,
) -> Dataset:
    """A folder of pictures with their truth, or ``orange-line``.

    Where the folder has no validation part of its own, ``val`` is drawn from the training part by a hash of each picture's bytes: equal
    pictures fall on one side, and no picture changes sides when others come.

    Args:
        task: the layout's usual one if not given.
        layout: a name of ``LAYOUTS``; told from the folder if not given.

    Raises:
        DataError: there is no such dataset, it is empty, or it has no such part.
        UsageError: the layout has no truth for the task, or the split is no such name.
    """
    if split not in _PARTS:
        raise UnknownNameError("split", split, _PARTS)
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}; give a share between 0 and 1, such as 0.1")
    if str(source) == ORANGE_LINE:
        return OrangeLineStills(task or "segmentation", split)
    return take_split(open_listed(source, task, layout=layout), split, val_fraction)


def take_split(listed: Listed, split: PartName, val_fraction: float = 0.1) -> Dataset:
    """The part of an opened dataset; see ``open_dataset``."""
    if split not in _PARTS:
        raise UnknownNameError("split", split, _PARTS)
    if split == "all":
        return listed
    chosen = parts_of(listed, val_fraction)[split]
    if not len(chosen):
        has = ", ".join(sorted({part for part in listed.parts if part})) or "one part, of which train and val are drawn by hash"
        raise DataError(f"{listed.origin}: there is no picture for the {split} part; the dataset has {has} ({len(listed)} pictures)")
    return Subset(listed, chosen, f"{split} ({len(chosen)} of {len(listed)})")


def open_listed(source: str | Path, task: TaskName | None = None, *, layout: str | None = None) -> Listed:
    """The whole of a folder in its layout; see ``open_dataset``."""
    root = Path(source)
    # A known name is told from an unknown one before the folder is looked at.
    chosen: Layout | None = None if layout is None else LAYOUTS.load(layout)
    if not root.exists():
        raise DataError(f"{str(source)[-150:]}: no such dataset; give {ORANGE_LINE} or a folder (layouts: {', '.join(LAYOUTS)})")
    if root.is_file() and root.suffix.lower() in _ARCHIVES:
        raise DataError(f"{root}: is an archive; unpack it first, then give the folder")
    if chosen is None:
        chosen = detect_layout(root, task)
    elif not chosen.fits(root):
        raise DataError(f"{root}: is not in layout {chosen.name}, which has {chosen.expects}; leave --layout away to have it told")
    tasks = chosen.tasks(root)
    if task is not None and task not in tasks:
        raise UsageError(f"{root}: layout {chosen.name} ({chosen.expects}) has no truth for {task}; it has {', '.join(tasks)}")
    listed = chosen.open(root, task or tasks[0])
    if not len(listed):
        raise DataError(f"{root}: no picture in it; layout {chosen.name} has {chosen.expects}")
    return listed


def detect_layout(root: Path, task: TaskName | None = None) -> Layout:
    """The layout that a folder is in; of several the first that has truth for the task.

    Raises:
        DataError: it is in none.
    """
    fitting: list[Layout] = []
    for name in LAYOUTS:
        layout: Layout = LAYOUTS.load(name)
        # A folder of folders with pictures fits almost anything: that is the last guess.
        if not layout.fits(root) or (fitting and name == "image-folder"):
            continue
        if task is None or task in layout.tasks(root):
            return layout
        fitting.append(layout)
    if fitting:
        return fitting[0]
    if root.is_file():
        raise DataError(f"{str(root)[-100:]}: is a file that is no dataset; give the folder of the pictures and their labels")
    raise DataError(
        f"{str(root)[-100:]}: no picture in it that lies in a known layout ({', '.join(LAYOUTS)}); the simplest has one folder a class: CLASS/PICTURE"
    )


def parts_of(listed: Listed, val_fraction: float = 0.1) -> dict[str, NDArray[np.int64]]:
    """The indices of train, val and test: the dataset's own parts, and ``val`` drawn from ``train`` where it has none.

    What ``val`` holds too is left out of ``train``.
    """
    own = {part: np.flatnonzero([p == part for p in listed.parts]) for part in ("train", "val", "test", "")}
    train = np.sort(np.concatenate([own["train"], own[""]]))
    val = own["val"]
    if not len(val):
        held = _held_out(listed, train.tolist(), val_fraction)
        train, val = train[~held], train[held]
    else:
        # A picture on both sides would flatter the validation: training gives it up.
        train = train[~_doubled(listed, train.tolist(), val.tolist())]
    return {"train": train, "val": val, "test": own["test"]}


def _held_out(listed: Listed, indices: Sequence[int], fraction: float) -> NDArray[np.bool_]:
    """Of each picture whether its hash puts it into validation; of very few pictures the one with the lowest hash at least."""
    place = np.array([_place(listed.content(i)) for i in indices])
    held = place < fraction
    if len(place) > 1 and not held.any():
        held = place == place.min()
    return held


def _doubled(listed: Listed, indices: Sequence[int], others: Sequence[int]) -> NDArray[np.bool_]:
    """Of each picture whether it is among the others too; only those of one length are read."""
    lengths: dict[int, list[int]] = {}
    for other in others:
        lengths.setdefault(_length(listed.content(other)), []).append(other)
    # Hashed once a length: many pictures may share one, as all of CIFAR-10 do.
    places: dict[int, set[float]] = {}
    doubled = np.zeros(len(indices), np.bool_)
    for row, index in enumerate(indices):
        length = _length(listed.content(index))
        if length in lengths:
            if length not in places:
                places[length] = {_place(listed.content(other)) for other in lengths[length]}
            doubled[row] = _place(listed.content(index)) in places[length]
    return doubled


def _length(content: Path | bytes) -> int:
    try:
        return content.stat().st_size if isinstance(content, Path) else len(content)
    except OSError:
        return -1


def _place(content: Path | bytes) -> float:
    """Where a picture stands between 0 and 1: a hash of its length and its first 64 KiB, so that large sets open fast."""
    if isinstance(content, Path):
        try:
            length = content.stat().st_size
            with content.open("rb") as file:
                head = file.read(_HASHED_BYTES)
        except OSError as error:
            # What cannot be read is named when it is read; until then it has some place.
            length, head = 0, str(ImageError("unreadable", content.name, str(error.errno))).encode()
    else:
        length, head = len(content), content[:_HASHED_BYTES]
    digest = hashlib.blake2b(length.to_bytes(8, "little") + head, digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
