"""Augmentation of whole batches on the device: flips, scale and shift, light and colour, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Augmentation", "Warp", "apply_warp", "draw_warp", "recolour"]

PAD = 114.0
VISIBLE = 0.25
"""A box of which less than this share stays in the picture is dropped."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures are changed; the share is that of pictures that are scaled and shifted (flips are for all)."""

    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.1
    turn_deg: float = 0.0
    share: float = 0.5
    light: float = 0.2
    colour: float = 0.06
    blur: float = 0.3
    noise: float = 4.0


@dataclass(frozen=True, slots=True)
class Warp:
    """An affine map of each picture, in coordinates from -1 to 1: ``out = matrix @ point + offset``; [N, 2, 2] and [N, 2]."""

    matrix: Tensor
    offset: Tensor


def _uniform(low: float, high: float, *shape: int, device: torch.device) -> Tensor:
    return torch.empty(*shape, device=device).uniform_(low, high)


def draw_warp(count: int, plan: Augmentation, device: torch.device) -> Warp:
    """A random flip for each picture, and for a share of them a scale, a shift and a turn."""
    flip = torch.where(_uniform(0, 1, count, 2, device=device) < 0.5, -1.0, 1.0)
    chosen = (_uniform(0, 1, count, 1, device=device) < plan.share).float()
    scale = 1 + chosen * (_uniform(*plan.scale, count, 1, device=device) * _uniform(0.95, 1.05, count, 2, device=device) - 1)
    offset = chosen * _uniform(-2 * plan.shift, 2 * plan.shift, count, 2, device=device)
    angle = chosen[:, 0] * _uniform(-plan.turn_deg, plan.turn_deg, count, device=device) * (torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return Warp(turn * (flip * scale)[:, None, :], offset)


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
