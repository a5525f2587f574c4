"""From a picture of any size to a network's input: stretch, letterbox or crop into a canvas, then normalise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens.errors import InputError, ModelError
from jetlens.frame import Image
from jetlens.ops.placement import Placement
from jetlens.registry import require
from jetlens.spec import PreprocessSpec

__all__ = ["normalize", "place", "prepare", "resize_into"]

_LARGEST_WHOLE_RESIZE = 1 << 22
"""Pixels; of a resized picture larger than that and than eight canvases, only the part is made that a crop shows: those of extreme shape."""

_Rect = tuple[int, int, int, int]


def place(source_hw: tuple[int, int], spec: PreprocessSpec) -> Placement:
    """Where a picture of a given size lands on the canvas.

    The geometry is of whole pixels: the picture is resized to a whole height and width and stands at a whole offset. ``crop`` rounds as
    torchvision's ``Resize`` and ``CenterCrop`` do; ``letterbox`` rounds the short side to the nearest pixel and gives an odd pixel of
    padding to the right or the bottom.

    Raises:
        InputError: the picture has no pixels.
    """
    (source_h, source_w), (canvas_h, canvas_w) = source_hw, spec.size_hw
    if source_h < 1 or source_w < 1:
        raise InputError(f"the picture is {source_h}x{source_w} pixels; it must have at least one")
    left = top = 0
    if spec.resize == "stretch":
        height, width = canvas_h, canvas_w
    elif spec.resize == "letterbox":
        ratio = min(canvas_h / source_h, canvas_w / source_w)
        height = min(canvas_h, max(1, round(source_h * ratio)))
        width = min(canvas_w, max(1, round(source_w * ratio)))
        if spec.anchor == "center":
            left, top = (canvas_w - width) // 2, (canvas_h - height) // 2
    else:
        height, width = _covering_size(source_hw, spec)
        left, top = _crop_offset(canvas_w, width), _crop_offset(canvas_h, height)
    return Placement(source_hw, spec.size_hw, (width / source_w, height / source_h), (float(left), float(top)))


def _covering_size(source_hw: tuple[int, int], spec: PreprocessSpec) -> tuple[int, int]:
    """Height and width to resize to before a crop: the short side fixed, the long side cut to a whole pixel as in torchvision."""
    (source_h, source_w), (canvas_h, canvas_w) = source_hw, spec.size_hw
    if spec.short_side is not None:
        by_height = source_h < source_w
        short = spec.short_side
    else:
        by_height = canvas_h / source_h >= canvas_w / source_w
        short = canvas_h if by_height else canvas_w
    if by_height:
        return short, max(1, int(short * source_w / source_h))
    return max(1, int(short * source_h / source_w)), short


def _crop_offset(canvas: int, content: int) -> int:
    """torchvision's rounding: half to even where it cuts, down where it pads."""
    if content < canvas:
        return (canvas - content) // 2
    return -round((content - canvas) / 2)


def resize_into(image_rgb: Image, spec: PreprocessSpec, canvas: NDArray[np.uint8]) -> Placement:
    """Writes a picture, resized by the spec's rule and filter, into a canvas uint8 [H, W, 3]; padding is written too.

    Raises:
        InputError: the picture is not uint8 [h, w, 3], or the canvas is not of the spec's size.
        MissingDependencyError: the filter is ``linear`` and cv2 is not installed.
    """
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
        raise InputError(f"a picture must be uint8 [height, width, 3] in RGB, not {image_rgb.dtype} {list(image_rgb.shape)}")
    if canvas.dtype != np.uint8 or canvas.shape != (*spec.size_hw, 3):
        raise InputError(f"the canvas must be uint8 {[*spec.size_hw, 3]}, not {canvas.dtype} {list(canvas.shape)}")
    placement = place((image_rgb.shape[0], image_rgb.shape[1]), spec)
    left, top, right, bottom = placement.content_xyxy()
    _pad(canvas, (left, top, right, bottom), spec.pad_value)
    target = canvas[top:bottom, left:right]
    height, width = (round(n * s) for n, s in zip(placement.source_hw, placement.scale_xy[::-1], strict=True))
    # The part of the resized picture that the canvas shows.
    part_left, part_top = left - round(placement.offset_xy[0]), top - round(placement.offset_xy[1])
    part = (part_left, part_top, part_left + right - left, part_top + bottom - top)
    if (height, width) == placement.source_hw:
        np.copyto(target, image_rgb[part[1] : part[3], part[0] : part[2]])
    elif height * width > max(_LARGEST_WHOLE_RESIZE, 8 * spec.size_hw[0] * spec.size_hw[1]):
        # For both filters: a short side this short is enlarged as a rule, and enlarging they agree.
        _antialias_part(image_rgb, (height, width), part, target)
    elif spec.filter == "linear":
        _linear(image_rgb, (height, width), part, target)
    else:
        whole = PillowImage.fromarray(image_rgb).resize((width, height), PillowImage.Resampling.BILINEAR)
        np.copyto(target, np.asarray(whole)[part[1] : part[3], part[0] : part[2]])
    return placement


def _pad(canvas: NDArray[np.uint8], content: _Rect, value: int) -> None:
    left, top, right, bottom = content
    canvas[:top] = value
    canvas[bottom:] = value
    canvas[top:bottom, :left] = value
    canvas[top:bottom, right:] = value


def _linear(image_rgb: Image, size_hw: tuple[int, int], part: _Rect, target: NDArray[np.uint8]) -> None:
    """cv2's INTER_LINEAR of the whole picture, of which one part goes to the target."""
    cv2 = require("cv2", extra="cpu", why="the resize filter 'linear'")
    height, width = size_hw
    if target.shape[:2] == size_hw:
        cv2.resize(image_rgb, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
        return
    whole = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_LINEAR)
    np.copyto(target, whole[part[1] : part[3], part[0] : part[2]])


def _antialias_part(image_rgb: Image, size_hw: tuple[int, int], part: _Rect, target: NDArray[np.uint8]) -> None:
    """Pillow's BILINEAR of one part of the picture.

    Not the rule, though it saves a quarter of a crop's time: Pillow rounds the box to float32 and may take its two passes in another order,
    which moves some pixels by one grey level.
    """
    (source_h, source_w), (height, width), (left, top, right, bottom) = image_rgb.shape[:2], size_hw, part
    box = (left * source_w / width, top * source_h / height, right * source_w / width, bottom * source_h / height)
    picture = PillowImage.fromarray(image_rgb)
    np.copyto(target, np.asarray(picture.resize((right - left, bottom - top), PillowImage.Resampling.BILINEAR, box=box)))


def normalize(canvas_nhwc: NDArray[np.uint8], spec: PreprocessSpec, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The steps that an unbaked graph leaves to the host: channel order, ``(x - mean) / std``, layout and type.

    Takes uint8 RGB [N, H, W, 3]; gives [N, C, H, W] or [N, H, W, C] as the spec says. ``gray`` takes luma as Pillow's mode L does.

    Raises:
        ModelError: the spec asks for uint8 and for a mean or std that uint8 cannot hold, or ``out`` does not fit.
    """
    count, height, width = canvas_nhwc.shape[:3]
    channels = len(spec.mean)
    shape = (count, channels, height, width) if spec.layout == "nchw" else (count, height, width, channels)
    if out is None:
        out = np.empty(shape, spec.dtype)
    elif out.shape != shape or out.dtype != spec.dtype:
        raise ModelError(f"the input array is {out.dtype} {list(out.shape)}; the sidecar asks for {spec.dtype} {list(shape)}")
    planes = out if spec.layout == "nchw" else out.transpose(0, 3, 1, 2)
    plain = not any(spec.mean) and all(value == 1 for value in spec.std)
    if spec.dtype == "uint8" and not plain:
        raise ModelError("the sidecar asks for a uint8 input and for a mean or std; drop these, or set dtype to float32 or float16")
    scratch = np.empty((height, width), np.float32)
    for picture, planes_of_one in zip(canvas_nhwc, planes, strict=True):
        for channel, plane in enumerate(planes_of_one):
            levels = _channel(picture, spec.channel_order, channel)
            if plain:
                np.copyto(plane, levels, casting="same_kind")
                continue
            np.subtract(levels, np.float32(spec.mean[channel]), out=scratch)
            np.divide(scratch, np.float32(spec.std[channel]), out=plane, casting="same_kind")
    return out


def _channel(picture: NDArray[np.uint8], order: str, channel: int) -> NDArray[np.uint8]:
    if order == "gray":
        weights = np.array([19595, 38470, 7471], np.uint32)
        luma: NDArray[np.uint8] = ((picture @ weights + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint8)
        return luma
    return picture[..., channel if order == "rgb" else 2 - channel]


def prepare(
    images_rgb: Sequence[Image], spec: PreprocessSpec, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], tuple[Placement, ...]]:
    """A graph's input from N pictures, and the placement of each; of ``out`` [>= N, ...], if given, the first N are written.

    For a graph that resizes frames itself, the pictures are copied as they are.

    Raises:
        InputError: there is no picture, ``out`` is too small, or a picture is not of the one size that the graph takes.
    """
    count = len(images_rgb)
    if not count:
        raise InputError("there is no picture to prepare; give at least one")
    if out is not None:
        if len(out) < count:
            raise InputError(f"the input array holds {len(out)} pictures, and {count} came; give fewer or a larger array")
        out = out[:count]
    if spec.frame_hw is not None:
        return _copied(images_rgb, spec, spec.frame_hw, out)
    canvas = out if spec.baked and out is not None else np.empty((count, *spec.size_hw, 3), np.uint8)
    placements = tuple(resize_into(image, spec, one) for image, one in zip(images_rgb, canvas, strict=True))
    return (canvas if spec.baked else normalize(canvas, spec, out)), placements


def _copied(
    images_rgb: Sequence[Image], spec: PreprocessSpec, frame_hw: tuple[int, int], out: NDArray[Any] | None
) -> tuple[NDArray[Any], tuple[Placement, ...]]:
    placements = place_frames(images_rgb, spec)
    frames = np.empty((len(images_rgb), *frame_hw, 3), np.uint8) if out is None else out
    for image, frame in zip(images_rgb, frames, strict=True):
        np.copyto(frame, image)
    return frames, placements


def place_frames(images_rgb: Sequence[Image], spec: PreprocessSpec) -> tuple[Placement, ...]:
    """The placement of each frame for a graph that resizes frames itself.

    Raises:
        InputError: a frame is not of the one size that the graph takes.
    """
    wanted = (*(spec.frame_hw or ()), 3)
    for image in images_rgb:
        if image.dtype != np.uint8 or image.shape != wanted:
            raise InputError(
                f"the model takes frames uint8 {list(wanted)} as they are, and {image.dtype} {list(image.shape)} came; "
                "export it for this camera (--frame-size HxW), or without --frame-size for pictures of any size"
            )
    return (place(wanted[:2], spec),) * len(images_rgb)
