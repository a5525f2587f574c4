"""Augmentation of one picture at a time with torchvision's transforms v2; boxes and masks move with the picture."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from jetlens.registry import resolve
from jetlens.train.augment import PAD, Augmentation, plan_of
from jetlens.train.config import TrainConfig
from jetlens.train.datasets import Encoded
from jetlens.train.losses import IGNORE

__all__ = ["transform"]

LEAST_SIDE = 2.0
"""A box with a side below so many pixels is dropped."""
_PLANS = {
    "classification": "jetlens.train.classification:LINE_PLAN",
    "detection": "jetlens.train.detection:LINE_PLAN",
    "segmentation": "jetlens.train.segmentation:LINE_PLAN",
}


def _compose(plan: Augmentation) -> Any:
    """The plan in torchvision's words; blur, noise, cutout and mixup stay with the batch."""
    fill: dict[Any, Any] = {tv_tensors.Image: PAD, tv_tensors.Mask: IGNORE}
    steps: list[Any] = []
    if plan.flip != "none":
        steps.append(v2.RandomHorizontalFlip())
    if plan.flip == "both":
        steps.append(v2.RandomVerticalFlip())
    if plan.shift or plan.turn_deg or plan.scale != (1, 1):
        shift = (plan.shift, plan.shift)
        affine = v2.RandomAffine(plan.turn_deg, shift, plan.scale, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        steps.append(v2.RandomApply([affine], plan.share))
    if plan.recolours:
        steps.append(v2.ColorJitter(plan.light, plan.light, plan.light, 0.02))
    return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE, labels_getter=lambda row: row.get("class_id"))])


def transform(encoded: Encoded, config: TrainConfig, key: tuple[int, int, int]) -> Encoded:
    """One picture augmented; the key (seed, epoch, index) decides how, whichever process asks."""
    row: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(encoded.image).permute(2, 0, 1))}
    size_hw = encoded.image.shape[:2]
    if "xyxy" in encoded.truth:
        boxes = torch.from_numpy(encoded.truth["xyxy"])
        row["xyxy"] = tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size_hw)
        row["class_id"] = torch.from_numpy(encoded.truth["class_id"])
    if "mask" in encoded.truth:
        row["mask"] = tv_tensors.Mask(torch.from_numpy(encoded.truth["mask"]))
    pipeline = _compose(plan_of(config, resolve(_PLANS[config.task])))
    if "xyxy" not in row:
        pipeline = v2.Compose(pipeline.transforms[:-1] or [v2.Identity()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "little"))
        changed = pipeline(row)
    image = np.ascontiguousarray(changed["image"].permute(1, 2, 0).numpy())
    moved = {name: changed[name].numpy() for name in encoded.truth if name in changed}
    return Encoded(image, {**encoded.truth, **moved})
