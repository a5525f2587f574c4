"""Datasets as training data: opened, sized, measured, and kept in memory where they are small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.data import Dataset, Sample, compute_mean_std, open_dataset
from jetlens.data.base import readable
from jetlens.data.opening import ORANGE_LINE
from jetlens.models import PRETRAINED, canonical
from jetlens.ops.images import resize_into
from jetlens.results import Detections
from jetlens.spec import PreprocessSpec, TaskName
from jetlens.train.config import TrainConfig, preprocess_of
from jetlens.train.samples import Pictures, Samples, Split, join, mask_on_canvas, orange_line_split

__all__ = ["Broken", "Encoded", "Opened", "encode_sample", "fill_up", "fit_size", "open_data", "stack"]

MEASURED = 2000
"""At most so many pictures are read for mean and standard deviation."""
LARGE = (224, 224)
SIDE = 32


@dataclass(frozen=True, slots=True)
class Encoded:
    """One picture on the canvas uint8 [H, W, 3] and its truth, as in Samples but without the first axis."""

    image: NDArray[np.uint8]
    truth: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Broken:
    """A picture that cannot be used, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The two parts of a dataset, nothing of them read yet; both None for the orange line."""

    training: Dataset | None = None
    validation: Dataset | None = None

    def split(self, config: TrainConfig, say: Callable[[str], None]) -> Split:
        """Reads what stays in memory and measures mean and standard deviation.

        Args:
            say: hears of each picture that is left out.

        Raises:
            DataError: no picture can be read.
        """
        if self.training is None or self.validation is None:
            return orange_line_split(config)
        assert config.size_hw is not None
        training, validation = self.training, self.validation
        own = PRETRAINED.get(canonical(config.model or "")) if config.pretrained else None
        mean, std = (own.mean, own.std) if own else training.mean_std() or compute_mean_std(training, config.size_hw, MEASURED)
        spec = preprocess_of(config, mean, std)
        origin = f"{training.origin}; validation: {validation.origin}"
        parts = [_in_memory(part, spec, config, say) for part in (training, validation)]
        return Split(
            parts[0],
            parts[1],
            training.labels,
            origin,
            mean,
            std,
            lambda: _good(validation),
            f"--data {config.data} --split val ({validation.origin})",
        )


def open_data(config: TrainConfig) -> Opened:
    """Opens the data of a run without reading its pictures.

    Raises:
        DataError: there is no such dataset, or it has no training or validation part.
    """
    if config.data == ORANGE_LINE:
        return Opened()
    fraction = config.val_fraction or 0.1
    training = open_dataset(config.data, config.task, "train", layout=config.layout, val_fraction=fraction)
    return Opened(training, open_dataset(config.data, config.task, "val", layout=config.layout, val_fraction=fraction))


def fit_size(config: TrainConfig, opened: Opened) -> TrainConfig:
    """The input size where the user gave none: a pretrained network's, or the data's: small pictures keep their own, in multiples of 32."""
    own = PRETRAINED.get(canonical(config.model or ""))
    if own is not None and config.size_hw is None:
        return replace(config, size_hw=own.size_hw)
    if config.size_hw is not None or opened.training is None:
        return config
    pixels = next(_good(opened.training)).pixels()
    if max(pixels.shape[:2]) <= 2 * SIDE:
        height, width = (max(1, round(side / SIDE)) * SIDE for side in pixels.shape[:2])
        return replace(config, size_hw=(height, width))
    return replace(config, size_hw={"classification": LARGE, "detection": (288, 512), "segmentation": (352, 480)}[config.task])


def _good(dataset: Dataset) -> Iterator[Sample]:
    return (sample for sample in readable(dataset) if isinstance(sample, Sample))


def encode_sample(task: TaskName, sample: Sample, spec: PreprocessSpec) -> Encoded:
    """A picture and its truth at the network's size.

    Raises:
        ImageError: the picture cannot be read.
    """
    canvas = np.empty((*spec.size_hw, 3), np.uint8)
    placement = resize_into(sample.pixels(), spec, canvas)
    if task == "classification":
        return Encoded(canvas, {"class_id": np.asarray(sample.truth, np.int64)})
    if task == "segmentation":
        return Encoded(canvas, {"mask": mask_on_canvas(np.asarray(sample.truth, np.uint8), placement)})
    assert isinstance(sample.truth, Detections)
    xyxy = np.asarray(placement.boxes_to_canvas(sample.truth.xyxy), np.float32)
    return Encoded(canvas, {"xyxy": xyxy, "class_id": np.asarray(sample.truth.class_id, np.int64)})


def stack(parts: list[Encoded]) -> Samples:
    """Encoded pictures as samples."""
    rows = [Samples(part.image[None], {key: array[None] for key, array in part.truth.items()}) for part in parts]
    return join(fill_up(rows))


def fill_up(parts: list[Samples]) -> list[Samples]:
    """Samples whose boxes [N, M, 4] are filled up with class -1 to one M; others as they are."""
    if "xyxy" not in parts[0].truth:
        return parts
    most = max(1, *(part.truth["class_id"].shape[1] for part in parts))
    filled = []
    for part in parts:
        missing = most - part.truth["class_id"].shape[1]
        xyxy = np.pad(part.truth["xyxy"], ((0, 0), (0, missing), (0, 0)))
        filled.append(
            Samples(part.images, {"xyxy": xyxy, "class_id": np.pad(part.truth["class_id"], ((0, 0), (0, missing)), constant_values=-1)})
        )
    return filled


def _in_memory(dataset: Dataset, spec: PreprocessSpec, config: TrainConfig, say: Callable[[str], None]) -> Pictures:
    """The samples of a dataset, or the dataset itself where they would take too much memory or are augmented one by one."""
    pixels = spec.size_hw[0] * spec.size_hw[1]
    size = len(dataset) * pixels * (4 if config.task == "segmentation" else 3)
    if size > config.resident_mib << 20 or config.transforms == "sample":
        return dataset
    from jetlens.train.feed import read_all

    return read_all(dataset, spec, config, say)
