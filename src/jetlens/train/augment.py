"""Augmentation of whole batches on the device: flips, scale and shift, light and colour, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from jetlens.data.opening import ORANGE_LINE
from jetlens.train.config import TrainConfig

__all__ = ["Augmentation", "Mixed", "Warp", "apply_warp", "cut_out", "draw_warp", "mix_up", "plan_of", "recolour", "warp_boxes"]

PAD = 114.0
MIXUP_ALPHA = 0.2
VISIBLE = 0.25
"""A box of which less than this share stays in the picture is dropped."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures are changed; the share is that of pictures that are scaled and shifted (flips are for all).

    Attributes:
        flip: along which axes each picture is mirrored, half of the time each.
        whole_pixels: shifts are whole pixels, so that nothing is interpolated where there is neither scale nor turn.
        cutout: side of the square that is greyed out, as a share of the picture's.
        mixup: pairs of pictures are blended (Zhang et al. 2018).
    """

    flip: Literal["none", "horizontal", "both"] = "both"
    stretch: float = 0.05
    whole_pixels: bool = False
    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    turn_deg: float = 0.0
    share: float = 0.5
    light: float = 0.2
    colour: float = 0.06
    blur: float = 0.3
    noise: float = 4.0
    recolours: bool = True
    cutout: float = 0.0
    mixup: bool = False

    @property
    def warps(self) -> bool:
        """Whether pixels are moved at all."""
        return self.flip != "none" or max(self.stretch, self.shift, self.turn_deg) > 0 or self.scale != (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Warp:
    """An affine map of each picture, in coordinates from -1 to 1: ``out = matrix @ point + offset``; [N, 2, 2] and [N, 2]."""

    matrix: Tensor
    offset: Tensor


def plan_of(config: TrainConfig, line: Augmentation) -> Augmentation:
    """What the config's flags leave of a task's plan for the orange line, or of a gentler one for other data.

    Pictures of the orange line may be mirrored along both axes and come in any light; other data is mirrored left to right, shifted and scaled.
    """
    assert config.size_hw is not None
    on_line = config.data == ORANGE_LINE
    small = max(config.size_hw) <= 64
    if not on_line and small:
        line = Augmentation(flip="horizontal", scale=(1, 1), stretch=0, shift=0.125, share=1.0, whole_pixels=True)
    elif not on_line:
        line = replace(line, flip="horizontal", turn_deg=0.0)
    detection = config.task == "detection"  # a turned box is no box any more
    turn = 0.0 if detection else (line.turn_deg or 15.0)
    wanted = {"flip": True, "crop": True, "rotation": on_line and line.turn_deg > 0, "jitter": on_line or not small}
    on = {key: default if getattr(config, key) is None else getattr(config, key) for key, default in wanted.items()}
    if not on["crop"]:
        line = replace(line, scale=(1.0, 1.0), stretch=0.0, shift=0.0)
    return replace(
        line,
        flip=line.flip if on["flip"] else "none",
        turn_deg=turn if on["rotation"] else 0.0,
        recolours=on["jitter"],
        cutout=0.25 if config.cutout else 0.0,
        mixup=config.mixup,
    )


def _uniform(low: float, high: float, *shape: int, device: torch.device) -> Tensor:
    return torch.empty(*shape, device=device).uniform_(low, high)


def draw_warp(count: int, plan: Augmentation, device: torch.device, size_hw: tuple[int, int] = (1, 1)) -> Warp:
    """A random flip for each picture, and for a share of them a scale, a shift and a turn; the size is for shifts by whole pixels."""
    flip = torch.where(_uniform(0, 1, count, 2, device=device) < 0.5, -1.0, 1.0)
    if plan.flip != "both":
        flip[:, 1] = 1.0
    if plan.flip == "none":
        flip[:, 0] = 1.0
    chosen = (_uniform(0, 1, count, 1, device=device) < plan.share).float()
    aspect = _uniform(1 - plan.stretch, 1 + plan.stretch, count, 2, device=device)
    scale = 1 + chosen * (_uniform(*plan.scale, count, 1, device=device) * aspect - 1)
    offset = chosen * _uniform(-2 * plan.shift, 2 * plan.shift, count, 2, device=device)
    if plan.whole_pixels:
        half = _halves(size_hw, device)
        offset = (offset * half).round() / half
    angle = chosen[:, 0] * _uniform(-plan.turn_deg, plan.turn_deg, count, device=device) * (torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return Warp(turn * (flip * scale)[:, None, :], offset)


@lru_cache(maxsize=8)
def _halves(size_hw: tuple[int, int], device: torch.device) -> Tensor:
    """Half the width and height in pixels, kept: a new tensor would wait for the GPU."""
    return torch.tensor([size_hw[1] / 2, size_hw[0] / 2], device=device)


def apply_warp(warp: Warp, maps: Tensor, mode: str, fill: float) -> Tensor:
    """Warps float [N, C, H, W]; what comes from outside is filled."""
    a, b, c, d = warp.matrix.flatten(1).unbind(dim=1)
    # By hand: the library's inverse waits for the GPU each time to see whether it failed.
    inverse = torch.stack([d, -b, -c, a], dim=-1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    theta = torch.cat([inverse, -inverse @ warp.offset[..., None]], dim=-1)
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps - fill, grid, mode=mode, padding_mode="zeros", align_corners=False) + fill


def warp_boxes(warp: Warp, xyxy: Tensor, class_id: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes [N, M, 4] of warped pictures (without a turn), clipped; those that left the picture get class -1."""
    limit = xyxy.new_tensor([size_hw[1], size_hw[0]])
    points = xyxy.reshape(*xyxy.shape[:2], 2, 2) * (2 / limit) - 1
    factor = torch.diagonal(warp.matrix, dim1=1, dim2=2)[:, None, None, :]
    moved = (points * factor + warp.offset[:, None, None, :] + 1) * (limit / 2)
    low, high = moved.amin(dim=2), moved.amax(dim=2)
    kept = torch.cat([low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)], dim=-1)
    area = (high - low).prod(dim=-1).clamp(min=1e-6)
    share = (kept[..., 2:] - kept[..., :2]).prod(dim=-1) / area
    return kept, class_id.masked_fill(share < VISIBLE, -1)


def recolour(images: Tensor, plan: Augmentation) -> Tensor:
    """Changes exposure, contrast, white balance and sharpness and adds noise; float [N, 3, H, W] in grey levels, 0 to 255."""
    count, device = len(images), images.device
    gain = _uniform(1 - plan.light, 1 + plan.light, count, 1, 1, 1, device=device)
    balance = _uniform(1 - plan.colour, 1 + plan.colour, count, 3, 1, 1, device=device)
    contrast = _uniform(1 - plan.light, 1 + plan.light, count, 1, 1, 1, device=device)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = ((images - middle) * contrast + middle) * (gain * balance)
    soft = F.avg_pool2d(F.avg_pool2d(changed, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)
    # Below 0 sharpens; most pictures stay as they are.
    amount = _uniform(-0.3, 1.0, count, 1, 1, 1, device=device) * (_uniform(0, 1, count, 1, 1, 1, device=device) < plan.blur)
    changed = changed + amount * (soft - changed)
    changed = changed + torch.randn_like(changed) * _uniform(0, plan.noise, count, 1, 1, 1, device=device)
    return changed.clamp(0, 255)


def cut_out(images: Tensor, share: float) -> Tensor:
    """Greys out one square in each picture (DeVries and Taylor 2017); float [N, 3, H, W] in grey levels."""
    count, _, height, width = images.shape
    y, x = (_uniform(0, side, count, 1, device=images.device) for side in (height, width))
    rows = (torch.arange(height, device=images.device) - y).abs() < share * height / 2
    columns = (torch.arange(width, device=images.device) - x).abs() < share * width / 2
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], PAD)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Blended pictures: ``share`` of each, the rest of the batch's picture ``other`` [N]."""

    images: Tensor
    other: Tensor
    share: Tensor


def mix_up(images: Tensor) -> Mixed:
    """Blends each picture with another of its batch; one share for all, mostly near 0 or 1."""
    # Beta(0.2, 0.2) as a quotient of gammas, drawn on the device.
    gammas = torch._standard_gamma(torch.full((2,), MIXUP_ALPHA, device=images.device)) + 1e-8
    share = gammas[0] / gammas.sum()
    other = torch.randperm(len(images), device=images.device)
    return Mixed(torch.lerp(images[other], images, share), other, share)
