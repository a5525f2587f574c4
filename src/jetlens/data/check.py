"""What is wrong with a dataset: every picture, label and mask is read, and every problem has a code, a file and a reason.

codes of pictures   those of jetlens.imagefile (missing, empty, truncated, damaged, not-an-image ...), also of mask files, and
wrong-extension     the suffix is another format's, or none of a picture although the file holds one (it is not listed then)
duplicate           the same pixels as another picture of the dataset
leakage             the same pixels in training and in validation or test
missing-label       no label file (an object-free picture has an empty one)
bad-label           a line, element or row that is not of the format
unknown-class       a class that the dataset does not declare
not-a-number        a coordinate is NaN or infinite
degenerate-box      no width or no height
box-off-image       farther off the picture than rounding explains
size-mismatch       the label says another size than the picture has
missing-mask, mask-size, mask-colors, unknown-mask-id
empty-class         no picture of the training part (of the whole, where there is none) has it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import GAP, LabelError, Listed, Part
from jetlens.data.layouts import LAYOUTS, Layout
from jetlens.data.opening import detect_layout, open_listed
from jetlens.data.samples import Truth
from jetlens.errors import DataError, ImageError
from jetlens.imagefile import IMAGE_SUFFIXES, load_image
from jetlens.imagefile.formats import HEAD_BYTES, SUFFIXES, sniff
from jetlens.results import Detections
from jetlens.spec import TaskName

__all__ = ["Problem", "Report", "check_dataset"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: a word for programs, the picture or file it was found at, and the reason."""

    code: str
    file: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check read and found."""

    layout: str
    tasks: tuple[TaskName, ...]
    labels: tuple[str, ...]
    pictures: int
    problems: tuple[Problem, ...]


def check_dataset(source: str | Path, *, layout: str | None = None, on_picture: Callable[[int, int], None] | None = None) -> Report:
    """Reads every picture of a folder and its truth for every task that the layout has.

    Args:
        on_picture: called with the number of pictures read so far and of all.

    Raises:
        DataError: the folder is in no known layout, or its description cannot be read at all.
    """
    first = open_listed(source, layout=layout)
    root = Path(source)
    kind: Layout = LAYOUTS.load(layout) if layout else detect_layout(root)
    tasks = kind.tasks(root)
    listings = [first, *(open_listed(root, task, layout=kind.name) for task in tasks if task != first.task)]
    total = sum(len(listing) for listing in listings)
    seen = _Pictures()
    problems: dict[Problem, None] = {}
    done = 0
    for listing in listings:
        counts = np.zeros(len(listing.labels), np.int64)
        for index in range(len(listing)):
            for problem in (*seen.look(listing, index), *_label_problems(listing, index, counts)):
                problems.setdefault(problem)
            done += 1
            if on_picture is not None:
                on_picture(done, total)
        problems.update(dict.fromkeys(_empty_classes(listing, counts)))
    problems.update(dict.fromkeys(_unlisted(seen.files)))
    return Report(kind.name, tasks, first.labels, len(seen), tuple(problems))


class _Pictures:
    """Decodes each picture once, and remembers its pixels' hash."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self._first: dict[bytes, tuple[str, Part]] = {}
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def look(self, listing: Listed, index: int) -> Iterator[Problem]:
        """The problems of a picture that was not looked at before."""
        name = listing.name(index)
        if name in self._names:
            return
        self._names.add(name)
        try:
            image = listing.image(index)
            if isinstance(image, Path):
                self.files.add(image)
                pixels = load_image(image)
            else:
                pixels = image
        except ImageError as error:
            yield Problem(error.code, name, error.why)
            return
        if isinstance(image, Path):
            yield from _suffix_problem(image)
        digest = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()
        part = listing.parts[index]
        other = self._first.setdefault(digest, (name, part))
        if other[0] != name:
            leaks = "train" in (part, other[1]) and part != other[1]
            where = f"in {other[1]}, this one in {part}" if leaks else "in this dataset"
            yield Problem("leakage" if leaks else "duplicate", name, f"has the same pixels as {other[0]} {where}")


def _suffix_problem(file: Path) -> Iterator[Problem]:
    kind = _kind(file)
    if kind is not None and file.suffix.lower() not in SUFFIXES[kind]:
        yield Problem("wrong-extension", str(file), f"holds {kind}, its suffix is {file.suffix or 'missing'}; rename it")


def _kind(file: Path) -> str | None:
    """The format that a file's first bytes tell, if it is a picture's."""
    try:
        with file.open("rb") as stream:
            return sniff(stream.read(HEAD_BYTES), file.name)
    except (OSError, ImageError):
        return None


def _unlisted(files: Iterable[Path]) -> Iterator[Problem]:
    """Pictures beside those of the dataset that no suffix shows."""
    for folder in sorted({file.parent for file in files}):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            hidden = file.name.startswith(".") or file.suffix.lower() in IMAGE_SUFFIXES or not file.is_file()
            if not hidden and (kind := _kind(file)) is not None:
                why = f"holds {kind} and is in no list, as its suffix is {file.suffix or 'missing'}; rename it"
                yield Problem("wrong-extension", str(file), why)


def _label_problems(listing: Listed, index: int, counts: NDArray[np.int64]) -> Iterator[Problem]:
    """What is wrong with the truth of a picture; counts the classes in it, of the training part where there is one."""
    name = listing.name(index)
    absent = listing.missing_truth(index)
    if absent is not None:
        yield Problem(absent.code, name, absent.why)
    try:
        truth = listing.truth(index)
    except LabelError as error:
        yield Problem(error.code, error.file, error.why)
        return
    except ImageError as error:
        if error.file != name:  # of the mask; the picture's own is named already
            yield Problem(error.code, error.file, error.why)
        return
    except DataError as error:
        yield Problem("bad-label", name, str(error))
        return
    if listing.parts[index] in ("train", "") or "train" not in listing.parts:
        _count(truth, counts)


def _count(truth: Truth, counts: NDArray[np.int64]) -> None:
    if isinstance(truth, int):
        counts[truth] += 1
    elif isinstance(truth, Detections):
        counts += np.bincount(truth.class_id, minlength=len(counts))
    else:
        counts += np.bincount(truth.ravel(), minlength=256)[: len(counts)]


def _empty_classes(listing: Listed, counts: NDArray[np.int64]) -> Iterator[Problem]:
    whole = "the training part" if "train" in listing.parts else "the dataset"
    for class_id in np.flatnonzero(counts == 0):
        label = listing.labels[int(class_id)]
        if not GAP.fullmatch(label):
            yield Problem("empty-class", label, f"is in no picture of {whole} that can be read")
