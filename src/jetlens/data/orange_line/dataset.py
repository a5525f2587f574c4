"""Writes pictures of the orange line with their truth: images, palette masks and one COCO file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from jetlens.data.orange_line.line import OrangeLine, still
from jetlens.data.orange_line.truth import CLASSES, DETECTION_CLASSES, GRADES, LineTruth
from jetlens.errors import OutputError, UsageError
from jetlens.frame import Image
from jetlens.ops.masks import voc_palette

__all__ = ["Written", "write_dataset"]

FORMATS: dict[str, dict[str, Any]] = {"png": {"compress_level": 3}, "jpeg": {"quality": 95, "subsampling": 0}}


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_dataset` wrote."""

    folder: Path
    images: int
    fruits: int
    grades: dict[str, int]


def write_dataset(
    folder: str | Path,
    seed: int = 0,
    count: int = 100,
    size_hw: tuple[int, int] = (360, 640),
    *,
    video: bool = False,
    image_format: str = "png",
    on_image: Callable[[int], None] | None = None,
) -> Written:
    """Write `images/`, `masks/` (palette PNG, class ids) and `annotations.json` (COCO boxes with track_id, grade and defect_ratio).

    Args:
        folder: a new or an empty folder.
        seed: stills use the seeds from here on; a video is made from this one.
        video: write consecutive frames of one line, not independent stills.
        image_format: ``png`` or ``jpeg`` (quality 95, full colour resolution).
        on_image: called with the number of images written so far.

    Raises:
        OutputError: the folder holds files already, or cannot be written.
    """
    if image_format not in FORMATS:
        raise UsageError(f"orange line: image format {image_format!r}; allowed: {', '.join(FORMATS)}")
    if count < 1:
        raise UsageError(f"orange line: {count} images; give 1 or more")
    pictures = _pictures(seed, count, size_hw, video)
    out = Path(folder)
    try:
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out}: the folder is not empty; give a new one")
        for name in ("images", "masks"):
            (out / name).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (image, truth) in enumerate(pictures):
            images.append(_save(out, number, image, truth, image_format))
            annotations.extend(_annotations(number, truth, len(annotations)))
            if on_image is not None:
                on_image(number + 1)
        about = {"description": "synthetic orange line made by jetlens", "seed": seed, "video": video, "classes": CLASSES, "grades": GRADES}
        categories = [{"id": k + 1, "name": name, "supercategory": "fruit"} for k, name in enumerate(DETECTION_CLASSES)]
        content = {"info": about, "categories": categories, "images": images, "annotations": annotations}
        (out / "annotations.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot write the dataset: {error.strerror or error}") from error
    found = [annotation["grade"] for annotation in annotations]
    return Written(out, len(images), len(annotations), {name: found.count(k) for k, name in enumerate(GRADES)})


def _pictures(seed: int, count: int, size_hw: tuple[int, int], video: bool) -> Iterator[tuple[Image, LineTruth]]:
    """Wrong seeds and sizes are an error here, before anything is written."""
    line = OrangeLine(seed, size_hw, frames=count)
    if video:
        return ((frame.image_rgb, truth) for frame, truth in line)
    return (still(seed + k, size_hw) for k in range(count))


def _save(out: Path, number: int, image: Image, truth: LineTruth, image_format: str) -> dict[str, Any]:
    name = f"{number:06d}.{'jpg' if image_format == 'jpeg' else image_format}"
    PillowImage.fromarray(image).save(out / "images" / name, **FORMATS[image_format])
    mask = PillowImage.fromarray(truth.mask)
    mask.putpalette(voc_palette()[: len(CLASSES)].ravel().tolist())
    mask.save(out / "masks" / f"{number:06d}.png")
    height, width = truth.mask.shape
    return {"id": number, "file_name": f"images/{name}", "mask_file": f"masks/{number:06d}.png", "height": height, "width": width}


def _annotations(image_id: int, truth: LineTruth, first_id: int) -> list[dict[str, Any]]:
    rows = []
    for k, (x1, y1, x2, y2) in enumerate(np.asarray(truth.xyxy, np.float64).tolist()):
        rows.append(
            {
                "id": first_id + k + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "track_id": int(truth.tracker_id[k]),
                "grade": int(truth.grade[k]),
                "defect_ratio": round(float(truth.defect_ratio[k]), 6),
            }
        )
    return rows
