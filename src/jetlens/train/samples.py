"""Training samples: pictures at the network's size with their truth, drawn from the orange line by several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens.data import Dataset, Sample
from jetlens.data.orange_line import LineTruth, OrangeLine, still
from jetlens.data.samples import ORANGE_LINE_LABELS, TEST_SEED, orange_line_samples
from jetlens.data.stills import FIRST_SEEDS
from jetlens.errors import DataError
from jetlens.frame import Image
from jetlens.ops.images import resize_into
from jetlens.ops.placement import Placement
from jetlens.spec import PreprocessSpec, TaskName
from jetlens.train.config import MEAN, STD, TrainConfig, preprocess_of
from jetlens.train.losses import IGNORE

__all__ = [
    "LABELS",
    "TEST_SEED",
    "VALIDATION_SEED",
    "Pictures",
    "Samples",
    "Shot",
    "Split",
    "encode",
    "join",
    "mask_on_canvas",
    "orange_line_split",
    "render",
    "shots",
]

FRAME_HW = (360, 640)
VALIDATION_SEED = FIRST_SEEDS["val"]
"""Training takes seeds below it."""
VIDEO_FRAMES = 12
VIDEO_STEP = 19
MAX_BOXES = 48
JITTER = 0.06

LABELS = ORANGE_LINE_LABELS


@dataclass(frozen=True, slots=True)
class Samples:
    """N pictures and their truth.

    Attributes:
        images: uint8 [N, H, W, 3] at the network's size.
        truth: classification ``class_id`` int64 [N]; detection ``xyxy`` float32 [N, M, 4] in canvas pixels and ``class_id``
            int64 [N, M], -1 where there is no box; segmentation ``mask`` uint8 [N, H, W].
    """

    images: NDArray[np.uint8]
    truth: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.images)


Pictures: TypeAlias = "Samples | Dataset"
"""Samples that stay in memory, or a dataset that is read again each epoch."""


@dataclass(frozen=True, slots=True)
class Split:
    """What to train on and what to validate with.

    Attributes:
        mean, std: of the training pictures, in grey levels.
        held_out: gives the validation pictures at their own size, for the figures at the end; ``held_out_name`` is what they are.
    """

    training: Pictures
    validation: Pictures
    labels: tuple[str, ...]
    origin: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    held_out: Callable[[], Iterable[Sample]] | None = None
    held_out_name: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of the orange line: a still, or a frame of the video of that seed."""

    seed: int
    frame: int | None = None


def shots(first_seed: int, count: int) -> tuple[Shot, ...]:
    """Three stills, each of its own scene, for every frame of a video; a dozen frames a video, some 0.6 s apart."""
    chosen = []
    for index in range(count):
        group, place = divmod(index, 4)
        if place < 3:
            chosen.append(Shot(first_seed + index))
        else:
            video, frame = divmod(group, VIDEO_FRAMES)
            chosen.append(Shot(first_seed + video, 1 + frame * VIDEO_STEP))
    return tuple(chosen)


def render(shot: Shot) -> tuple[Image, LineTruth]:
    """The picture [360, 640, 3] of a shot and its truth."""
    if shot.frame is None:
        return still(shot.seed, FRAME_HW)
    frame, truth = OrangeLine(shot.seed, FRAME_HW, frames=shot.frame + 1)[shot.frame]
    return frame.image_rgb, truth


def encode(task: TaskName, image: Image, truth: LineTruth, spec: PreprocessSpec, rng: np.random.Generator) -> Samples:
    """One picture as samples of a task: one for detection and segmentation, one a fruit for classification."""
    if task == "classification":
        return _crops(image, truth, spec, rng)
    canvas = np.empty((1, *spec.size_hw, 3), np.uint8)
    placement = resize_into(image, spec, canvas[0])
    if task == "segmentation":
        return Samples(canvas, {"mask": mask_on_canvas(truth.mask, placement)[None]})
    xyxy = np.zeros((1, MAX_BOXES, 4), np.float32)
    class_id = np.full((1, MAX_BOXES), -1, np.int64)
    count = min(MAX_BOXES, len(truth))
    xyxy[0, :count] = placement.boxes_to_canvas(truth.xyxy[:count])
    class_id[0, :count] = 0
    return Samples(canvas, {"xyxy": xyxy, "class_id": class_id})


def mask_on_canvas(mask: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Class ids placed as the picture is, by the nearest pixel; padding does not count."""
    left, top, right, bottom = placement.content_xyxy()
    canvas = np.full(placement.canvas_hw, IGNORE, np.uint8)
    small = PillowImage.fromarray(mask).resize((right - left, bottom - top), PillowImage.Resampling.NEAREST)
    canvas[top:bottom, left:right] = np.asarray(small)
    return canvas


def _crops(image: Image, truth: LineTruth, spec: PreprocessSpec, rng: np.random.Generator) -> Samples:
    """Each fruit cut by its true box, give or take a few per cent as a detector would, on whole pixels."""
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    out = np.empty((len(truth), *spec.size_hw, 3), np.uint8)
    for index, box in enumerate(truth.xyxy.astype(np.float64)):
        size = np.tile(box[2:] - box[:2], 2)
        x1, y1, x2, y2 = np.clip(np.rint(box + rng.uniform(-JITTER, JITTER, 4) * size), 0, limit).astype(int)
        resize_into(image[y1:y2, x1:x2], spec, out[index])
    return Samples(out, {"class_id": truth.grade})


def join(parts: Sequence[Samples]) -> Samples:
    """Several samples as one."""
    keys = parts[0].truth.keys()
    return Samples(
        np.concatenate([part.images for part in parts]), {key: np.concatenate([part.truth[key] for part in parts]) for key in keys}
    )


def _draw(shot: Shot, task: TaskName, spec: PreprocessSpec) -> Samples:
    image, truth = render(shot)
    return encode(task, image, truth, spec, np.random.default_rng((shot.seed, shot.frame or 0)))


def _draw_all(task: TaskName, chosen: Iterable[Shot], spec: PreprocessSpec, workers: int) -> Samples:
    draw = partial(_draw, task=task, spec=spec)
    if workers == 0:
        return join([draw(shot) for shot in chosen])
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return join(list(pool.map(draw, chosen, chunksize=4)))


def orange_line_split(config: TrainConfig) -> Split:
    """Draws the training and validation samples of a run: other seeds of a run, other pictures.

    Raises:
        DataError: more pictures are asked for than there are training seeds.
    """
    if config.samples > VALIDATION_SEED:
        raise DataError(f"{config.samples} samples: the orange line has {VALIDATION_SEED} training seeds; give fewer")
    first = config.seed * 50_000 % (VALIDATION_SEED + 1 - config.samples)
    held_out = max(2, config.samples // 10)
    spec = preprocess_of(config)
    training = _draw_all(config.task, shots(first, config.samples), spec, config.workers)
    validation = _draw_all(config.task, shots(VALIDATION_SEED, held_out), spec, config.workers)
    origin = f"orange-line seeds {first}-{first + config.samples - 1}; validation seeds {VALIDATION_SEED}-{VALIDATION_SEED + held_out - 1}"
    held = partial(orange_line_samples, config.task, held_out, FRAME_HW, VALIDATION_SEED)
    name = f"--data orange-line --split val --count {held_out}"
    return Split(training, validation, LABELS[config.task], origin, held_out=held, held_out_name=name)
