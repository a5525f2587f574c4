"""Resizing as matrix products with constant weights: what the host's resize does to a picture of one size, for graphs that take raw frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.ops.images import place
from jetlens.spec import PreprocessSpec, ResizeFilter

__all__ = ["Step", "axis_weights", "resize_steps"]

_PILLOW_BITS = 22
_CV2_BITS = 11
_LEAST_ROWS = 16
"""Of a block of a matrix product: fewer rows leave a matrix unit idle."""

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a chain: its operator, its constants by name, and its attributes; ``first``: the constant stands before the data."""

    op: str
    constants: tuple[tuple[str, NDArray[Any]], ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    first: bool = False


def resize_steps(spec: PreprocessSpec, frame_hw: tuple[int, int]) -> list[Step]:
    """The chain from float frames [N, h, w, 3] to the canvas [N, H, W, 3] in whole grey levels, resized, cut and padded as the spec says.

    Within one grey level of ``ops.images.resize_into``, whose filters round after each pass, and Pillow's takes them in either order: a sum of
    values that are each off by half a level at most is off by half a level, so what is rounded once at the end is off by one at most.
    """
    placement = place(frame_hw, spec)
    left, top, right, bottom = placement.content_xyxy()
    steps: list[Step] = []
    sizes = [round(side * scale) for side, scale in zip(frame_hw, placement.scale_xy[::-1], strict=True)]
    offsets = [round(offset) for offset in placement.offset_xy[::-1]]
    rows, columns = (
        axis_weights(frame, size, offset, canvas, spec.filter)
        for frame, size, offset, canvas in zip(frame_hw, sizes, offsets, spec.size_hw, strict=True)
    )
    # The rows come first: the columns' pass turns the picture on its side and back, which is cheaper for a smaller one.
    steps += _pass(rows, frame_hw[1], "rows") + _turned(columns, spec.size_hw[0], "columns")
    if steps:
        steps += [Step("Add", (("half", np.array(0.5, np.float32)),)), Step("Floor")]
    padding = np.full((*spec.size_hw, 1), spec.pad_value, np.float32)
    padding[top:bottom, left:right] = 0
    if padding.any():
        steps.append(Step("Add", (("padding", padding),)))
    return steps


def axis_weights(frame: int, size: int, offset: int, canvas: int, kind: ResizeFilter) -> Weights:
    """The weights [canvas, frame] of one axis: a frame's side resized to ``size`` pixels that start at ``offset`` of the canvas; rows of padding are 0."""
    weights = np.zeros((canvas, frame), np.float32)
    shown = slice(max(0, offset), min(canvas, offset + size))
    resized = _antialias(frame, size) if kind == "antialias" else _linear(frame, size)
    weights[shown] = resized[shown.start - offset : shown.stop - offset]
    return weights


def _antialias(frame: int, size: int) -> NDArray[np.float64]:
    """A triangle as wide as a pixel of the result, cut at the picture's sides, in Pillow's fixed point."""
    scale = frame / size
    reach = max(scale, 1.0)
    centres = (np.arange(size)[:, None] + 0.5) * scale
    pixels = np.arange(frame)[None]
    # Pillow takes the pixels of a whole interval; the triangle is 0 at those outside of it.
    inside = (pixels >= np.floor(centres - reach + 0.5)) & (pixels < np.floor(centres + reach + 0.5))
    weights = np.where(inside, np.maximum(0.0, 1 - np.abs(pixels + 0.5 - centres) / reach), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.floor(weights * 2.0**_PILLOW_BITS + 0.5) / 2.0**_PILLOW_BITS


def _linear(frame: int, size: int) -> NDArray[np.float64]:
    """The two nearest pixels, in cv2's fixed point."""
    places = (np.arange(size) + 0.5) * (frame / size) - 0.5
    low = np.clip(np.floor(places).astype(np.int64), 0, frame - 1)
    share = np.where((places < 0) | (low >= frame - 1), 0.0, places - np.floor(places))
    share = np.rint(share * 2.0**_CV2_BITS) / 2.0**_CV2_BITS
    weights = np.zeros((size, frame))
    rows = np.arange(size)
    np.add.at(weights, (rows, low), 1 - share)
    np.add.at(weights, (rows, np.minimum(low + 1, frame - 1)), share)
    return weights


def _turned(weights: Weights, height: int, name: str) -> list[Step]:
    """A pass over the columns: with the picture on its side."""
    if _changes_nothing(weights):
        return []
    turn = Step("Transpose", attributes={"perm": [0, 2, 1, 3]})
    return [turn, *_pass(weights, height, name), turn]


def _pass(weights: Weights, others: int, name: str) -> list[Step]:
    """One axis, the first behind the batch, multiplied by its weights; ``others`` is the length of the other one.

    Far from the diagonal the weights are 0: the picture is cut into overlapping bands, one for each block of rows of the result.
    """
    if _changes_nothing(weights):
        return []
    after, before = weights.shape
    starts, blocks = _bands(weights)
    steps = [Step("Reshape", ((f"{name}.flat", np.array([0, before, others * 3], np.int64)),))]
    if len(starts) > 1:
        indices = starts[:, None] + np.arange(blocks.shape[2])
        steps.append(Step("Gather", ((f"{name}.bands", indices.astype(np.int64)),), {"axis": 1}))
    else:
        blocks = weights[None]
    steps.append(Step("MatMul", ((f"{name}.weights", blocks if len(starts) > 1 else blocks[0]),), first=True))
    return [*steps, Step("Reshape", ((f"{name}.shape", np.array([0, after, others, 3], np.int64)),))]


def _changes_nothing(weights: Weights) -> bool:
    return weights.shape[0] == weights.shape[1] and bool((weights == np.eye(len(weights), dtype=np.float32)).all())


def _bands(weights: Weights) -> tuple[NDArray[np.int64], Weights]:
    """The first pixel of each band [B], and the weights [B, rows, width] of each block: the cheapest of all equal divisions."""
    after, before = weights.shape
    used = weights != 0
    first = np.where(used.any(1), used.argmax(1), before)
    last = np.where(used.any(1), before - used[:, ::-1].argmax(1), 0)
    best = (after * before, after, before)
    for rows in (rows for rows in range(1, after) if after % rows == 0):
        width = max(1, int(np.max(last.reshape(-1, rows).max(1) - first.reshape(-1, rows).min(1))))
        best = min(best, (after // rows * max(rows, _LEAST_ROWS) * width, rows, width))
    _, rows, width = best
    starts = np.minimum(first.reshape(-1, rows).min(1), before - width).astype(np.int64)
    blocks = np.stack([weights[index * rows : (index + 1) * rows, start : start + width] for index, start in enumerate(starts)])
    return starts, np.ascontiguousarray(blocks)
