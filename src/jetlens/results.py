"""What a model answers, in the words of the field: Classification, Detections, Segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetlens.registry import require

__all__ = ["Classification", "Detections", "Prediction", "Segmentation", "label_of"]


_ROWS = 64


def label_of(labels: Sequence[str], class_id: int) -> str:
    """The name of a class id; ``class N`` where the labels have none."""
    return (labels[class_id] if 0 <= class_id < len(labels) else "") or f"class {class_id}"


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable classes of one picture, best first.

    Attributes:
        class_id: int64 [K].
        confidence: float32 [K], probabilities of the K classes, descending.
        size_hw: height and width of the picture.
        labels: names by class id.
    """

    class_id: NDArray[np.int64]
    confidence: NDArray[np.float32]
    size_hw: tuple[int, int]
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name of the best class."""
        return label_of(self.labels, int(self.class_id[0]))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python values, ready for JSON."""
        return {
            "top": [
                {"class_id": int(i), "label": label_of(self.labels, int(i)), "confidence": round(float(c), 6)}
                for i, c in zip(self.class_id, self.confidence, strict=True)
            ]
        }

    def to_supervision(self) -> Any:
        """The result as ``supervision.Classifications``; needs the package supervision."""
        supervision = require("supervision", extra="supervision", why="to_supervision()")
        return supervision.Classifications(class_id=self.class_id, confidence=self.confidence)


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects found in one picture.

    Attributes:
        xyxy: float32 [N, 4], left, top, right, bottom in pixels of the source picture.
        confidence: float32 [N].
        class_id: int64 [N].
        size_hw: height and width of the picture.
        labels: names by class id.
        mask: bool [N, height, width], or None where the model gives no masks.
        tracker_id: int64 [N], or None where nothing tracks.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    size_hw: tuple[int, int]
    labels: tuple[str, ...] = ()
    mask: NDArray[np.bool_] | None = None
    tracker_id: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.xyxy)
        if self.xyxy.shape != (count, 4):
            raise ValueError(f"xyxy has shape {self.xyxy.shape}; it must be [N, 4]")
        for name in ("confidence", "class_id", "tracker_id", "mask"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"{name} has {len(value)} rows, xyxy has {count}")

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, index: NDArray[Any] | slice) -> Detections:
        """The detections that a slice, a boolean mask or an array of indices picks."""
        return replace(
            self,
            xyxy=self.xyxy[index],
            confidence=self.confidence[index],
            class_id=self.class_id[index],
            mask=None if self.mask is None else self.mask[index],
            tracker_id=None if self.tracker_id is None else self.tracker_id[index],
        )

    def names(self) -> Iterator[str]:
        """The class name of each detection."""
        return (label_of(self.labels, int(i)) for i in self.class_id)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain Python values, ready for JSON."""
        rows: list[dict[str, Any]] = [
            {"xyxy": [round(float(v), 2) for v in box], "confidence": round(float(score), 6), "class_id": int(i), "label": name}
            for box, score, i, name in zip(self.xyxy, self.confidence, self.class_id, self.names(), strict=True)
        ]
        if self.tracker_id is not None:
            for row, track in zip(rows, self.tracker_id, strict=True):
                row["tracker_id"] = int(track)
        return {"detections": rows}

    def to_supervision(self) -> Any:
        """The result as ``supervision.Detections``; needs the package supervision."""
        supervision = require("supervision", extra="supervision", why="to_supervision()")
        return supervision.Detections(
            xyxy=self.xyxy,
            confidence=self.confidence,
            class_id=self.class_id,
            mask=self.mask,
            tracker_id=self.tracker_id,
            data={"class_name": np.array(list(self.names()), dtype=str)},
        )


@dataclass(frozen=True, slots=True)
class Segmentation:
    """One class id for every pixel of one picture.

    Attributes:
        mask: uint8 [height, width] at the size of the source picture.
        labels: names by class id.
    """

    mask: NDArray[np.uint8]
    labels: tuple[str, ...] = ()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.mask.shape[0], self.mask.shape[1]

    def pixels(self) -> NDArray[np.int64]:
        """How many pixels each class id has: int64 [classes]."""
        counts = np.zeros(max(256, len(self.labels)), np.int64)
        # In pieces: bincount makes eight bytes of every pixel.
        for start in range(0, len(self.mask), _ROWS):
            counts += np.bincount(self.mask[start : start + _ROWS].ravel(), minlength=len(counts))
        used = np.flatnonzero(counts)
        return counts[: max(len(self.labels), int(used[-1]) + 1 if len(used) else 0)]

    def to_dict(self) -> dict[str, Any]:
        """Pixels and their ratio for each class that occurs, ready for JSON; the ratios sum to 1."""
        counts = self.pixels()
        total = max(1, self.mask.size)
        return {
            "classes": [
                {
                    "class_id": int(i),
                    "label": label_of(self.labels, int(i)),
                    "pixels": int(counts[i]),
                    "ratio": round(int(counts[i]) / total, 8),
                }
                for i in np.flatnonzero(counts)
            ]
        }

    def to_supervision(self) -> Any:
        """The result as ``supervision.Detections`` with one mask a class, the background (id 0) left out; needs the package supervision."""
        supervision = require("supervision", extra="supervision", why="to_supervision()")
        ids = np.array([i for i in np.unique(self.mask) if i != 0], dtype=np.int64)
        if not len(ids):
            return supervision.Detections.empty()
        masks = self.mask[None] == ids[:, None, None].astype(np.uint8)
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks),
            mask=masks,
            class_id=ids,
            data={"class_name": np.array([label_of(self.labels, int(i)) for i in ids], dtype=str)},
        )


Prediction: TypeAlias = Classification | Detections | Segmentation
