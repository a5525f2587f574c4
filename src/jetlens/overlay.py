"""Results drawn into pictures: boxes with names, class colours over pixels, the best classes, a HUD."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from jetlens.frame import Image
from jetlens.ops.masks import voc_palette
from jetlens.ops.opencv import cv2_if_there
from jetlens.results import Classification, Detections, Prediction, Segmentation

__all__ = ["BOX_COLOURS", "Polygons", "box_colour", "colour_mask", "draw", "draw_hud", "draw_rules"]

Colour = tuple[int, int, int]
Rows = tuple[tuple[Colour | None, str], ...]
Polygons = tuple[tuple[tuple[float, float], ...], ...]
"""Points x, y in pixels of the picture."""

BOX_COLOURS: tuple[Colour, ...] = (
    (230, 40, 40),
    (40, 160, 255),
    (60, 200, 80),
    (255, 176, 32),
    (200, 90, 255),
    (0, 205, 200),
    (255, 105, 170),
    (166, 215, 40),
    (120, 120, 255),
    (255, 130, 60),
    (0, 150, 110),
    (190, 150, 100),
)
"""RGB of boxes by class id, the first red; they come again after the last."""

_WHITE: Colour = (255, 255, 255)
_INK: Colour = (16, 16, 16)
_EDGE: Colour = (200, 200, 200)
_RULE: Colour = (255, 225, 60)
_ROWS = 64
"""Rows blended at a time: their colours stay in a core's cache."""

_LOCAL = threading.local()
_GAP = 96
"""Columns of background that are worth a step of their own."""

_FINER = 3
"""Text is drawn larger and reduced: hinting at small sizes swallows the spaces of Pillow's font."""


def draw(
    image_rgb: Image,
    prediction: Prediction,
    *,
    alpha: float = 0.6,
    out: Image | None = None,
    captions: Sequence[str] | None = None,
    colours: Sequence[Colour] = BOX_COLOURS,
    legend: bool = True,
    hud: Sequence[str] = (),
) -> Image:
    """A picture with a result drawn into it; ``out`` receives it, and may be the picture itself.

    Detections get boxes with name and confidence, a segmentation the palette's colours over every class but the background (whose pixels
    stay as they are) and a legend, a classification its best classes with their probabilities.

    Args:
        alpha: how much of a class's colour covers its pixels, 0 to 1.
        captions: what to write at each box in place of name and confidence.
        colours: of boxes by class id; they come again after the last.
        legend: whether a segmentation's classes are named in a corner.
        hud: the lines that ``draw_hud`` will write into the picture: labels of boxes keep clear of their panel.
    """
    if out is None:
        out = image_rgb.copy()
    elif out is not image_rgb:
        np.copyto(out, image_rgb)
    if isinstance(prediction, Segmentation):
        _blend(out, prediction.mask, alpha)
        if legend:
            _legend(out, _classes(prediction.mask), prediction.labels)
    elif isinstance(prediction, Detections):
        lines = _lines(hud)
        taken = _panel_tile(lines, len(out))[0].shape[:2] if lines else (0, 0)
        _boxes(out, prediction, alpha, captions or list(_captions(prediction)), colours, taken)
    else:
        _ranking(out, prediction)
    return out


def draw_hud(image_rgb: Image, lines: Sequence[str]) -> Image:
    """Writes lines of text on a dark panel into the top left corner of a picture, in place, and returns the picture."""
    _panel(image_rgb, _lines(lines), at_bottom=False)
    return image_rgb


def _lines(texts: Sequence[str]) -> Rows:
    return tuple((None, text) for text in texts if text)


def draw_rules(image_rgb: Image, lines: Polygons, zones: Polygons) -> Image:
    """Draws what is counted at, in place, and returns the picture: lines with an arrow for forward, outlines of zones, and their names."""
    if lines or zones:
        rows, columns, colours = _rules(image_rgb.shape[:2], lines, zones)
        image_rgb[rows, columns] = colours
    return image_rgb


def colour_mask(mask: NDArray[np.uint8], out: Image | None = None) -> Image:
    """The palette's colours of a mask [h, w]: uint8 [h, w, 3] in RGB, written into ``out`` if given."""
    if out is None:
        out = np.empty((*mask.shape, 3), np.uint8)
    cv2 = cv2_if_there()
    if cv2 is not None:
        for top in range(0, len(mask), _ROWS):
            ids = mask[top : top + _ROWS]
            packed, _ = _scratch(ids.shape)
            cv2.LUT(ids, _packed_palette(), dst=packed)
            cv2.cvtColor(packed.view(np.uint8).reshape(*ids.shape, 4), cv2.COLOR_RGBA2RGB, dst=out[top : top + _ROWS])
    else:
        np.take(voc_palette(), mask, axis=0, out=out, mode="clip")
    return out


def box_colour(class_id: int) -> Colour:
    """The colour of a class's boxes."""
    return BOX_COLOURS[class_id % len(BOX_COLOURS)]


def _scratch(hw: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Two arrays of this thread to write into, int32 [h, w] and uint8 [h, w, 3]: new ones cost page faults at every strip."""
    pixels = hw[0] * hw[1]
    buffer = getattr(_LOCAL, "buffer", None)
    if buffer is None or len(buffer) < 7 * pixels:
        buffer = _LOCAL.buffer = np.empty(7 * pixels, np.uint8)
    return buffer[: 4 * pixels].view(np.int32).reshape(hw), buffer[4 * pixels : 7 * pixels].reshape(*hw, 3)


@lru_cache(maxsize=1)
def _packed_palette() -> NDArray[np.int32]:
    """The palette as one number a colour: a look-up of 32 bits a pixel is twice as fast as three of a byte."""
    palette = np.zeros((256, 4), np.uint8)
    palette[:, :3] = voc_palette()
    return palette.view(np.int32).reshape(1, 256)


def _blend(target: Image, mask: NDArray[np.uint8], alpha: float) -> None:
    """Covers the pixels of every class but 0 with its colour, in place."""
    cv2 = cv2_if_there()
    for rows, columns in _covered_parts(mask):
        ids, pixels = mask[rows, columns], target[rows, columns]
        if cv2 is not None:
            packed, colours = _scratch(ids.shape)
            cv2.LUT(ids, _packed_palette(), dst=packed)
            cv2.cvtColor(packed.view(np.uint8).reshape(*ids.shape, 4), cv2.COLOR_RGBA2RGB, dst=colours)
            cv2.addWeighted(pixels, 1 - alpha, colours, alpha, 0, dst=colours)
            cv2.copyTo(colours, ids, dst=pixels)
            continue
        inside = ids != 0
        covered = pixels[inside] * np.float32(1 - alpha) + voc_palette()[ids[inside]] * np.float32(alpha)
        pixels[inside] = np.rint(covered).astype(np.uint8)


def _covered_parts(mask: NDArray[np.uint8]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts of a mask that hold other than background: whole strips cost as much as full ones."""
    for top in range(0, len(mask), _ROWS):
        rows = slice(top, top + _ROWS)
        columns = np.bitwise_or.reduce(mask[rows], axis=0).nonzero()[0]
        if not len(columns):
            continue
        first = 0
        for gap in (columns[1:] - columns[:-1] > _GAP).nonzero()[0].tolist():
            yield rows, slice(int(columns[first]), int(columns[gap]) + 1)
            first = gap + 1
        yield rows, slice(int(columns[first]), int(columns[-1]) + 1)


def _classes(mask: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The class ids worth a line of a legend: without the background, and without specks of less than 1/100,000 of the picture.

    Only every third row of 720 is looked at.
    """
    rows = mask[:: max(1, len(mask) // 240)]
    cv2 = cv2_if_there()
    counts = np.bincount(rows.ravel(), minlength=256) if cv2 is None else cv2.calcHist([rows], [0], None, [256], [0, 256]).ravel()
    return np.flatnonzero(counts[1:] > rows.size * 1e-5) + 1


def _legend(target: Image, present: NDArray[np.intp], labels: tuple[str, ...]) -> None:
    """Names and colours of the classes that are there, in the bottom left corner."""
    rows: list[tuple[Colour | None, str]] = []
    for class_id in present:
        red, green, blue = (int(level) for level in voc_palette()[class_id])
        rows.append(((red, green, blue), (labels[class_id] if class_id < len(labels) else "") or f"class {class_id}"))
    _panel(target, tuple(rows), at_bottom=True)


def _captions(detections: Detections) -> Iterator[str]:
    """Name, track and confidence of each detection."""
    for index, name in enumerate(detections.names()):
        track = "" if detections.tracker_id is None else f" #{detections.tracker_id[index]}"
        yield f"{name}{track} {detections.confidence[index]:.2f}"


def _boxes(
    target: Image, detections: Detections, alpha: float, captions: Sequence[str], colours: Sequence[Colour], taken: tuple[int, ...]
) -> None:
    """Boxes with their labels, which stay out of the top left corner of the size ``taken``, rows and columns."""
    height, width = target.shape[:2]
    line = max(2, round(height / 260))
    size = max(12, round(height / 42))
    corners = np.rint(detections.xyxy).astype(int)
    # The most confident last, so that nothing covers it.
    for index in range(len(detections) - 1, -1, -1):
        colour = colours[int(detections.class_id[index]) % len(colours)]
        left, top, right, bottom = (int(v) for v in np.clip(corners[index], 0, (width, height, width, height)))
        if detections.mask is not None:
            region = target[top:bottom, left:right]
            inside = detections.mask[index, top:bottom, left:right]
            region[inside] = np.rint(region[inside] * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
        _rectangle(target, (left, top, right, bottom), line, colour)
        tile = _label(captions[index], size, colour)
        # Above the box where there is room, otherwise inside its top.
        y = top - tile.shape[0] if top >= tile.shape[0] else top
        if y < taken[0] and min(left, width - tile.shape[1]) < taken[1]:
            y = taken[0]
        _paste(target, tile, left, y)


def _rectangle(target: Image, box: tuple[int, int, int, int], line: int, colour: Colour) -> None:
    """A frame inside the box's edges, with a dark hair line around it that parts it from a ground of its own colour."""
    left, top, right, bottom = box
    height, width = target.shape[:2]
    for edge in (
        target[max(0, top - 1) : top, left:right],
        target[bottom : min(height, bottom + 1), left:right],
        target[top:bottom, max(0, left - 1) : left],
        target[top:bottom, right : min(width, right + 1)],
    ):
        edge >>= 1
    target[top : min(bottom, top + line), left:right] = colour
    target[max(top, bottom - line) : bottom, left:right] = colour
    target[top:bottom, left : min(right, left + line)] = colour
    target[top:bottom, max(left, right - line) : right] = colour


def _paste(target: Image, tile: Image, x: int, y: int) -> None:
    """Copies a tile to a place, moved so that it stays in the picture, and cut where it is larger."""
    height, width = target.shape[:2]
    x, y = max(0, min(x, width - tile.shape[1])), max(0, min(y, height - tile.shape[0]))
    place = target[y : y + tile.shape[0], x : x + tile.shape[1]]
    place[...] = tile[: place.shape[0], : place.shape[1]]


def _ranking(target: Image, classification: Classification) -> None:
    """The best classes with their probabilities, in the bottom left corner."""
    names = [classification.labels[i] if 0 <= i < len(classification.labels) else "" for i in classification.class_id]
    rows: Rows = tuple(
        (None, f"{confidence:6.1%}  {name or f'class {class_id}'}")
        for class_id, confidence, name in zip(classification.class_id, classification.confidence, names, strict=True)
    )
    _panel(target, rows, at_bottom=True)


@lru_cache(maxsize=16)
def _rules(hw: tuple[int, int], lines: Polygons, zones: Polygons) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]]:
    """The rows, columns and colours of the pixels that lines and zones take of a picture of a size: they stay the same from frame to frame."""
    height, width = hw
    thick = max(2, round(height / 260))
    canvas = PillowImage.new("RGBA", (width, height))
    pen = ImageDraw.Draw(canvas)
    strokes = [[*corners, corners[0]] for corners in zones]
    size = max(12, round(height / 42))
    names = [(f"zone {number}", *np.mean(corners, axis=0)) for number, corners in enumerate(zones, 1)]
    for number, (start, end) in enumerate(lines, 1):
        (x0, y0), (x1, y1) = start, end
        # From the middle to the right hand of one who walks from the start to the end.
        scale = 8 * thick / max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
        across, along = ((y0 - y1) * scale, (x1 - x0) * scale), ((x1 - x0) * scale / 3, (y1 - y0) * scale / 3)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        tip = (middle[0] + across[0], middle[1] + across[1])
        barbs = [(middle[0] + across[0] * 0.6 + sign * along[0], middle[1] + across[1] * 0.6 + sign * along[1]) for sign in (-1, 1)]
        strokes += [[start, end], [middle, tip], [barbs[0], tip, barbs[1]]]
        aside = 3 * size / (8 * thick)
        names.append((f"line {number}", middle[0] - across[0] * aside, middle[1] - across[1] * aside))
    for colour, breadth in ((_INK, thick + 2), (_RULE, thick)):
        for points in strokes:
            pen.line(points, fill=colour, width=breadth, joint="curve")
    drawn = np.array(canvas)
    for name, x, y in names:
        tile = _label(name, size, _RULE)
        opaque = np.dstack([tile, np.full_like(tile[..., :1], 255)])
        _paste(drawn, opaque, round(x - tile.shape[1] / 2), round(y - tile.shape[0] / 2))
    rows, columns = np.nonzero(drawn[..., 3])
    return rows, columns, drawn[rows, columns, :3]


def _panel(target: Image, rows: Rows, *, at_bottom: bool) -> None:
    """Lines of text, each perhaps after a square of a colour, on a ground darkened in place."""
    if not rows:
        return
    height, width = target.shape[:2]
    tile, chips = _panel_tile(rows, height)
    tile = tile[:height, :width]
    y0 = height - tile.shape[0] if at_bottom else 0
    ground = target[y0 : y0 + tile.shape[0], : tile.shape[1]]
    # White on dark: the lighter of the two is text with soft edges.
    ground >>= 2
    np.maximum(ground, tile, out=ground)
    for colour, (top, left, side) in chips:
        # A light edge parts a dark colour from the dark ground.
        ground[top - 1 : top + side + 1, left - 1 : left + side + 1] = _EDGE
        ground[top : top + side, left : left + side] = colour


@lru_cache(maxsize=64)
def _panel_tile(rows: Rows, height: int) -> tuple[Image, tuple[tuple[Colour, tuple[int, int, int]], ...]]:
    """The text, white on black, of a panel in a picture of a height, and the colours and places (top, left, side) of its squares."""
    size = max(12, round(height / 38))
    step, margin, inset = round(size * 1.45), size // 2, round(size * 0.3)
    indent = step if any(colour is not None for colour, _ in rows) else 0
    texts = [_text(text, size) for _, text in rows]
    tile = np.zeros((step * len(rows) + margin, max(text.shape[1] for text in texts) + indent + 2 * margin, 3), np.uint8)
    chips = []
    for row, ((colour, _), text) in enumerate(zip(rows, texts, strict=True)):
        y = margin // 2 + row * step
        if colour is not None:
            chips.append((colour, (y + inset, margin, step - 2 * inset)))
        below, right = y + (step - text.shape[0]) // 2, margin + indent
        tile[below : below + text.shape[0], right : right + text.shape[1]] = text[..., None]
    tile.setflags(write=False)
    return tile, tuple(chips)


@lru_cache(maxsize=1024)
def _label(text: str, size: int, colour: Colour) -> Image:
    """A text on a filled ground, black or white as is better to read."""
    red, green, blue = colour
    ink = _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _WHITE
    written = _text(text, size)
    margin = max(2, size // 4)
    tile = np.empty((round(size * 1.4), written.shape[1] + 2 * margin, 3), np.uint8)
    tile[...] = colour
    top = (tile.shape[0] - written.shape[0]) // 2
    place = tile[top : top + written.shape[0], margin : margin + written.shape[1]]
    cover = written[..., None] / 255
    place[...] = np.rint(np.array(colour) * (1 - cover) + np.array(ink) * cover).astype(np.uint8)
    tile.setflags(write=False)
    return tile


@lru_cache(maxsize=1024)
def _text(text: str, size: int) -> NDArray[np.uint8]:
    """How much each pixel of a line of text is covered: uint8 [about 1.2 x size, length], of one height and base line for a size."""
    words = [_word(word, size) for word in text.split(" ")]
    space = max(2, round(size * 0.27))
    line = np.zeros((words[0].shape[0], sum(word.shape[1] + space for word in words) - space), np.uint8)
    x = 0
    for word in words:
        line[:, x : x + word.shape[1]] = word
        x += word.shape[1] + space
    return line


@lru_cache(maxsize=4096)
def _word(word: str, size: int) -> NDArray[np.uint8]:
    """A word of a line: rendering it takes longest by far, and words (names, numbers) come again where lines do not."""
    font = _font(size * _FINER, plain=word.isascii())
    length = round(font.getlength(word) / _FINER) + 1 if word else 0
    canvas = PillowImage.new("L", (max(1, length) * _FINER, round(size * 1.2) * _FINER))
    ImageDraw.Draw(canvas).text((0, round(size * 0.95) * _FINER), word, fill=255, font=font, anchor="ls")
    return np.asarray(canvas.reduce(_FINER))[:, :length]


@lru_cache(maxsize=32)
def _font(size: int, *, plain: bool) -> ImageFont.FreeTypeFont:
    """Pillow's own font; for letters beyond ASCII a font of the system that has more of them, if there is one."""
    if not plain:
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
