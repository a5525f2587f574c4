"""What every dataset is: pictures with their truth, read one at a time; and the errors that name a bad label."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetlens.data.samples import Sample, Truth
from jetlens.errors import DataError, InputError
from jetlens.frame import Image
from jetlens.imagefile import IMAGE_SUFFIXES, image_size
from jetlens.results import Detections
from jetlens.spec import TaskName

__all__ = [
    "IGNORED",
    "Dataset",
    "LabelError",
    "Listed",
    "ListedFiles",
    "MeanStd",
    "Part",
    "PartName",
    "Subset",
    "boxes_truth",
    "checked_size",
    "pictures_in",
    "read_annotation",
    "readable",
]

MeanStd: TypeAlias = "tuple[tuple[float, ...], tuple[float, ...]]"
"""Mean and standard deviation of the channels R, G, B in grey levels (0 to 255)."""

Part: TypeAlias = Literal["train", "val", "test", ""]
"""Which part of a dataset its own folders or lists put a picture into; empty where they say nothing."""

PartName = Literal["train", "val", "test", "all"]

IGNORED: Final = 255
"""Mask id of pixels that count in no class, such as VOC's borders and CamVid's void."""

GAP: Final = re.compile(r"class \d+")
"""What an id is called that a dataset declares and does not name."""

_LARGEST_ANNOTATION: Final = 1 << 24
_SLACK: Final = 0.005
"""Boxes may leave the picture by this share of its side and a pixel, as rounding in label files makes them do; they are clipped."""


class LabelError(DataError):
    """The truth of one picture cannot be used.

    Attributes:
        code: a stable word for programs; the table stands in ``jetlens.data.check``.
        file: where the truth was read, or the picture it belongs to.
        why: the reason in words.
    """

    def __init__(self, code: str, file: str | Path, why: str) -> None:
        self.code = code
        self.file = str(file)
        self.why = why
        super().__init__(f"{self.file[-150:]}: {why[:120]} [{code}]")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.file, self.why)


class Dataset(Protocol):
    """Pictures with their truth.

    Reading a sample raises ImageError or LabelError where its files are bad: name it, leave it out and go on.

    Attributes:
        labels: names by class id; ids have no gaps.
        origin: what the dataset is, for checkpoints and records.
    """

    task: TaskName
    labels: tuple[str, ...]
    origin: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def mean_std(self) -> MeanStd | None:
        """The published values of a known dataset; None elsewhere: ``compute_mean_std`` measures them."""


class Listed(ABC):
    """A dataset whose pictures are listed when it is opened and read when they are asked for.

    Attributes:
        parts: of each picture, which part the dataset itself puts it into.
    """

    def __init__(self, task: TaskName, labels: Sequence[str], origin: str, parts: Sequence[Part]) -> None:
        self.task: TaskName = task
        self.labels = tuple(labels)
        self.origin = origin
        self.parts = tuple(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.image(index), self.truth(index), self.name(index))

    @abstractmethod
    def image(self, index: int) -> Image | Path:
        """The picture, or the file that holds it."""

    @abstractmethod
    def truth(self, index: int) -> Truth:
        """What is true of a picture.

        Raises:
            ImageError: the picture's or the mask's file cannot be read.
            LabelError: the truth is missing, malformed or does not fit the picture.
        """

    def name(self, index: int) -> str:
        """What messages call a picture."""
        return str(self.image(index))

    def content(self, index: int) -> Path | bytes:
        """The stored picture, by which equal ones are told: its file, or its bytes."""
        image = self.image(index)
        return image if isinstance(image, Path) else image.tobytes()

    def missing_truth(self, index: int) -> LabelError | None:
        """What is to be said of a picture that reads as one without objects because its label file is absent."""
        return None

    def mean_std(self) -> MeanStd | None:
        """Published values, if there are any."""
        return None


class ListedFiles(Listed):
    """A dataset whose pictures are files."""

    def __init__(self, task: TaskName, labels: Sequence[str], origin: str, files: Sequence[Path], parts: Sequence[Part]) -> None:
        super().__init__(task, labels, origin, parts)
        self._files = tuple(files)

    def image(self, index: int) -> Path:
        """The picture's file."""
        return self._files[index]


class Subset:
    """Some pictures of a dataset; see ``Dataset``."""

    def __init__(self, whole: Dataset, indices: Sequence[int] | NDArray[Any], about: str) -> None:
        self.task: TaskName = whole.task
        self.labels = whole.labels
        self.origin = f"{whole.origin}, {about}"
        self.indices: NDArray[np.int64] = np.asarray(indices, np.int64)
        self._whole = whole

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self._whole[int(self.indices[index])]

    def mean_std(self) -> MeanStd | None:
        """Published values, if there are any."""
        return self._whole.mean_std()


def readable(samples: Dataset | Iterable[Sample]) -> Iterator[Sample | InputError]:
    """The samples; in the place of one whose files are bad the error. After an error only a dataset or a sequence can go on."""
    if not isinstance(samples, Sized):
        yield from samples
        return
    for index in range(len(samples)):
        try:
            yield samples[index]
        except InputError as error:
            yield error


def boxes_truth(file: str | Path, xyxy: Any, class_id: Any, size_hw: tuple[int, int], labels: tuple[str, ...]) -> Detections:
    """True boxes in pixels of the picture, clipped to it.

    Raises:
        LabelError: a number is not finite, a class is unknown, or a box has no area or lies off the picture.
    """
    boxes = np.asarray(xyxy, np.float64).reshape(-1, 4)
    ids = np.asarray(class_id, np.int64).reshape(-1)
    sides = np.array([size_hw[1], size_hw[0]] * 2, np.float64)
    slack = 1 + _SLACK * sides
    clipped = np.clip(boxes, 0, sides)
    checks = (
        ("not-a-number", ~np.isfinite(boxes).all(axis=1), "has a coordinate that is no finite number"),
        ("unknown-class", (ids < 0) | (ids >= len(labels)), f"has a class that is not one of the {len(labels)}"),
        ("degenerate-box", ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1), "has no width or no height"),
        ("box-off-image", ((boxes < -slack) | (boxes > sides + slack)).any(axis=1), f"leaves the picture of {size_hw[1]}x{size_hw[0]}"),
        ("degenerate-box", ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1), "has no width or no height inside the picture"),
    )
    for code, wrong, why in checks:
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            shown = ", ".join(f"{value:.6g}" for value in boxes[first])
            raise LabelError(code, file, f"box {first + 1} ({shown}) {why}")
    return Detections(clipped.astype(np.float32), np.ones(len(boxes), np.float32), ids, size_hw, labels)


def pictures_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The picture files of a folder by suffix, sorted; hidden ones are left out."""
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and not _hidden(path.relative_to(folder)) and path.is_file()
    )


def read_annotation(file: Path) -> bytes:
    """What stands in a file with the truth of one picture.

    Raises:
        LabelError: it is missing, cannot be read, or is larger than 16 MiB.
    """
    try:
        if file.stat().st_size > _LARGEST_ANNOTATION:
            raise LabelError("bad-label", file, "is larger than 16 MiB; an annotation is a small file")
        return file.read_bytes()
    except FileNotFoundError:
        raise LabelError("missing-label", file, "there is no such annotation") from None
    except OSError as error:
        raise LabelError("bad-label", file, f"cannot be read ({error.strerror or error})") from None


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)


def checked_size(picture: Path, said_hw: tuple[int, int] | None, file: str | Path) -> tuple[int, int]:
    """The picture's height and width; what a label file says they are must agree.

    Raises:
        ImageError: the picture's header cannot be read.
        LabelError: the label file is of a picture of another size.
    """
    real = image_size(picture)
    if said_hw is not None and said_hw != real:
        raise LabelError("size-mismatch", file, f"is of a picture of {said_hw[1]}x{said_hw[0]}; {picture.name} has {real[1]}x{real[0]}")
    return real
