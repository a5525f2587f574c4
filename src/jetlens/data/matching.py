"""A dataset's truth in the class ids of a model: labels are matched by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetlens.data.base import GAP, IGNORED, Dataset, LabelError
from jetlens.data.samples import Sample
from jetlens.errors import DataError
from jetlens.results import Detections

__all__ = ["Matched", "match_labels"]

_SYNSET: Final = re.compile(r"^n\d{8}[ _-]+")
_SAME: Final = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
    "__background__": "background",
    "pedestrian": "person",
}
"""VOC's names for classes of COCO, and others that mean the same."""


class Matched:
    """A dataset whose truth is in a model's class ids.

    Attributes:
        labels: the model's.
    """

    def __init__(self, dataset: Dataset, labels: Sequence[str], count: int | None = None) -> None:
        """``count``: so many of the pictures, evenly spread; all of them if None.

        Raises:
            DataError: a class of the dataset is none of the model's.
        """
        self.task = dataset.task
        self.labels = tuple(labels)
        self.origin = dataset.origin
        self._dataset = dataset
        self._ids = match_labels(dataset.labels, labels, dataset.origin)
        number = len(dataset)
        self._count = number if count is None else min(count, number)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(index)
        sample = self._dataset[index * len(self._dataset) // self._count]
        truth = sample.truth
        if isinstance(truth, int):
            return replace(sample, truth=self._known(np.array([truth]), sample)[0].item())
        if isinstance(truth, Detections):
            return replace(sample, truth=replace(truth, class_id=self._known(truth.class_id, sample), labels=self.labels))
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self._ids)] = np.where(self._ids < 0, IGNORED, self._ids)
        return replace(sample, truth=table[truth])

    def _known(self, class_id: NDArray[np.int64], sample: Sample) -> NDArray[np.int64]:
        ids = self._ids[class_id]
        if (ids < 0).any():
            wrong = self._dataset.labels[int(class_id[ids < 0][0])]
            raise LabelError("unknown-class", sample.name, f"has class {wrong[:40]!r}, which the model does not know")
        return ids


def match_labels(theirs: Sequence[str], ours: Sequence[str], origin: str) -> NDArray[np.int64]:
    """The model's class id of each of a dataset's labels, -1 for an id without a name.

    The very same text comes first. Else, case, ``_`` and a leading synset aside, a label is one of the model's by its name, by one of several
    comma-separated names, by a known other word (VOC's ``aeroplane`` is COCO's ``airplane``), or, where it is a number that is no label, by
    its id.

    Raises:
        DataError: a label is none of the model's.
    """
    ids: dict[str, int] = {}
    exact = {label: class_id for class_id, label in enumerate(ours)}
    for class_id, label in enumerate(ours):
        for name in (label, *label.split(",")):
            if name.strip():
                ids.setdefault(_plain(name), class_id)
    for label in list(ids):
        # The other words come last, so that a model which knows both keeps them apart.
        other = _SAME.get(label) or next((word for word, same in _SAME.items() if same == label), None)
        if other:
            ids.setdefault(other, ids[label])
    # ImageNet has a Cardigan, the dog, and a cardigan to wear: the very same text comes first.
    found = [exact.get(label) if label in exact else _class_id(label, ids, len(ours)) for label in theirs]
    unknown = [label for label, class_id in zip(theirs, found, strict=True) if class_id is None and not GAP.fullmatch(label)]
    if unknown:
        raise DataError(
            f"{origin[-100:]}: {len(unknown)} of its {len(theirs)} classes are none of this model's, such as {unknown[0][:40]!r}; "
            f"the model's {len(ours)} begin with {', '.join(ours[:4])[:60]}: rename classes to labels, or class folders to ids"
        )
    return np.array([-1 if class_id is None else class_id for class_id in found], np.int64)


def _class_id(label: str, ids: dict[str, int], classes: int) -> int | None:
    found = next((ids[name] for name in (_plain(part) for part in (label, *label.split(","))) if name in ids), None)
    if found is None and label.isdecimal() and int(label) < classes:
        return int(label)
    return found


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", _SYNSET.sub("", name.strip().casefold()).strip("_"))) or name
