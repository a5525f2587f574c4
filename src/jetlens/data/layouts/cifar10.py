"""CIFAR-10: the official binary and pickle files, and JPEG copies in .npz; none of them runs code. The download asks first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import Listed, MeanStd, Part
from jetlens.data.layouts import Layout
from jetlens.data.layouts.pickled import read_pickled_data
from jetlens.data.statistics import CIFAR10_MEAN_STD
from jetlens.errors import DataError, ImageError, NetworkError
from jetlens.frame import Image
from jetlens.imagefile import load_image
from jetlens.labels import labels as shipped_labels
from jetlens.registry import require
from jetlens.spec import TaskName

__all__ = ["LAYOUT", "Cifar10", "download"]

_SIDE: Final = 32
_PIXELS: Final = 3 * _SIDE * _SIDE
_CLASSES: Final = 10
_BATCHES: Final[dict[str, Part]] = {**{f"data_batch_{k}": "train" for k in range(1, 6)}, "test_batch": "test"}
_FOLDERS: Final = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
_NPZ_FILES: Final[dict[str, Part]] = {"cifar10_train_jpeg.npz": "train", "cifar10_test_jpeg.npz": "test"}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pictures uint8 [N, 32, 32, 3] or encoded ones, their class ids and their file."""

    file: Path
    part: Part
    pictures: NDArray[np.uint8] | Sequence[bytes]
    class_ids: NDArray[np.int64]


class Cifar10(Listed):
    """The pictures of CIFAR-10, in memory."""

    def __init__(self, root: Path, batches: Sequence[_Batch]) -> None:
        self._batches = tuple(batches)
        self._starts = np.cumsum([0, *(len(batch.class_ids) for batch in batches)])
        parts = [batch.part for batch in batches for _ in range(len(batch.class_ids))]
        lossy = " (JPEG copy)" if any(batch.file.suffix == ".npz" for batch in batches) else ""
        super().__init__("classification", shipped_labels("cifar10"), f"CIFAR-10{lossy} {root}", parts)

    def image(self, index: int) -> Image:
        """The picture, uint8 [32, 32, 3]."""
        batch, place = self._at(index)
        stored = batch.pictures[place]
        if isinstance(stored, np.ndarray):
            return stored
        picture = load_image(stored)
        if picture.shape != (_SIDE, _SIDE, 3):
            raise ImageError("damaged", self.name(index), f"the picture is {picture.shape[1]}x{picture.shape[0]}, not {_SIDE}x{_SIDE}")
        return picture

    def truth(self, index: int) -> int:
        """The class id."""
        batch, place = self._at(index)
        return int(batch.class_ids[place])

    def name(self, index: int) -> str:
        """The batch and the place in it."""
        batch, place = self._at(index)
        return f"{batch.file.name}[{place}]"

    def content(self, index: int) -> bytes:
        """The stored bytes."""
        batch, place = self._at(index)
        stored = batch.pictures[place]
        return stored if isinstance(stored, bytes) else stored.tobytes()

    def mean_std(self) -> MeanStd:
        """Those of the true training images."""
        return CIFAR10_MEAN_STD

    def arrays(self, part: Part) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All pictures of a part, uint8 [N, 32, 32, 3], and their class ids [N]."""
        images = [
            batch.pictures if isinstance(batch.pictures, np.ndarray) else np.stack([load_image(stored) for stored in batch.pictures])
            for batch in self._batches
            if batch.part == part
        ]
        if not images:
            raise DataError(f"{self.origin}: there is no {part} part")
        return np.concatenate(images), np.concatenate([batch.class_ids for batch in self._batches if batch.part == part])

    def _at(self, index: int) -> tuple[_Batch, int]:
        if not 0 <= index < len(self.parts):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batches[number], index - int(self._starts[number])


def download(folder: Path) -> Path:
    """Fetches CIFAR-10 from where torchvision knows it, checks its hash and unpacks it into the folder; reads nothing in it.

    Raises:
        NetworkError: it cannot be had; what was there before stays.
        MissingDependencyError: torchvision is not installed.
    """
    require("torchvision", extra="train", why="the download of CIFAR-10")
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        folder.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(CIFAR10.url, str(folder), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
    except (OSError, RuntimeError, ValueError) as error:  # what urllib and torchvision raise
        why = " ".join(str(error).split())[:100]
        raise NetworkError(
            f"CIFAR-10 could not be downloaded to {folder} ({why}); check the network, or fetch {CIFAR10.filename} elsewhere and unpack it there"
        ) from None
    return folder


def _files(root: Path) -> Iterator[tuple[Path, Part]]:
    """The batches of the first form that is there."""
    if root.is_file():
        if root.name in _NPZ_FILES:
            yield root, _NPZ_FILES[root.name]
        return
    for folder in _FOLDERS:
        for suffix in (".bin", ""):
            found = [(root / folder / f"{name}{suffix}", part) for name, part in _BATCHES.items()]
            found = [(file, part) for file, part in found if file.is_file()]
            if found:
                yield from found
                return
    yield from ((root / name, part) for name, part in _NPZ_FILES.items() if (root / name).is_file())


def _open(root: Path, task: TaskName) -> Listed:
    batches = [_READERS[file.suffix](file, part) for file, part in _files(root)]
    for batch in batches:
        wrong = (batch.class_ids < 0) | (batch.class_ids >= _CLASSES)
        if wrong.any() or len(batch.class_ids) != len(batch.pictures):
            raise DataError(f"{batch.file}: {len(batch.pictures)} pictures need as many labels from 0 to 9; copy or download it again")
    return Cifar10(root, batches)


def _read_binary(file: Path, part: Part) -> _Batch:
    raw = np.fromfile(file, np.uint8)
    if not raw.size or raw.size % (1 + _PIXELS):
        raise DataError(f"{file}: {raw.size} bytes are not a whole number of records of {1 + _PIXELS}; copy or download it again")
    rows = raw.reshape(-1, 1 + _PIXELS)
    return _Batch(file, part, _as_pictures(rows[:, 1:]), rows[:, 0].astype(np.int64))


def _read_pickled(file: Path, part: Part) -> _Batch:
    content = read_pickled_data(file)
    # Python 3 writes the keys of Python 2's texts as bytes.
    table = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in _mapping(content).items()}
    data, class_ids = table.get("data"), table.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(f"{file}: is no batch of CIFAR-10; it needs 'data', uint8 [N, {_PIXELS}], and 'labels'")
    if not isinstance(class_ids, list) or not all(type(value) is int for value in class_ids):
        raise DataError(f"{file}: its 'labels' are no list of whole numbers; CIFAR-100 and other sets are not read")
    return _Batch(file, part, _as_pictures(data), np.array(class_ids, np.int64))


def _mapping(content: Any) -> dict[Any, Any]:
    return content if isinstance(content, dict) else {}


def _as_pictures(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planes of R, G and B to pixels."""
    return np.ascontiguousarray(rows.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _read_npz(file: Path, part: Part) -> _Batch:
    try:
        with np.load(file, allow_pickle=False) as stored:
            header, blob, offsets = stored["header"].tobytes(), stored["blob"].tobytes(), stored["offsets"].tolist()
            class_ids = stored["labels"].astype(np.int64)
    except Exception as error:  # zipfile, zlib and NumPy raise their own kinds
        raise DataError(f"{file}: is no JPEG copy of CIFAR-10 ({type(error).__name__}: {str(error)[:80]}); copy it again") from None
    return _Batch(file, part, [header + blob[a:b] for a, b in pairwise(offsets)], class_ids)


_READERS: Final = {".bin": _read_binary, "": _read_pickled, ".npz": _read_npz}

LAYOUT = Layout(
    "cifar10",
    "data_batch_1.bin or data_batch_1 and so on, alone or in cifar-10-batches-bin or cifar-10-batches-py",
    lambda root: any(_files(root)),
    lambda root: ("classification",),
    _open,
)
