"""Pooling: windows of a real feature map reduced to their maximum, their average, or one number for the whole map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.learn.inside import Inside, chosen_layer, seen_by
from jetlens.learn.lesson import Lesson, compared, limit_for
from jetlens.learn.numbers import draw_numbers, short
from jetlens.learn.onnx_graph import run_operator
from jetlens.plots.style import COLOURS, draw_figure, image_array, write_title
from jetlens.registry import installed, require

__all__ = ["pool", "pooling"]

Map = NDArray[np.float64]
MOST_WINDOW = 8
_SHOWN = 6
COLOURS_OF_MAPS = "viridis"


def pool(values: Map, window: int, stride: int, reduce: Callable[[Map], Any]) -> Map:
    """Windows of a map [h, w] reduced to a number each, in plain loops: [(h - window) // stride + 1, (w - window) // stride + 1]."""
    height, width = ((side - window) // stride + 1 for side in values.shape)
    result = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            result[row, column] = reduce(values[top : top + window, left : left + window])
    return result


def pooling(
    inside: Inside,
    image: Image,
    output: Path,
    *,
    layer: str | None = None,
    channel: int | None = None,
    window: int = 2,
    stride: int | None = None,
) -> Lesson:
    """Pools one map of a layer three ways, compares with the libraries, and draws it.

    Args:
        channel: None takes the map that varies most.
        stride: None takes the window's side, so that windows do not overlap.

    Raises:
        GateError: a library gives another result.
        UsageError: the window is larger than the map, or there is no such channel.
    """
    name = chosen_layer(inside, layer)
    maps = inside.maps([image], name)[0]
    values = np.asarray(maps[_channel(maps, channel)], np.float64)
    chosen = _channel(maps, channel)
    stride = window if stride is None else stride
    if not 1 <= window <= min(MOST_WINDOW, *values.shape) or stride < 1:
        raise UsageError(
            f"--window {window}, --stride {stride}: the map is {values.shape[0]}x{values.shape[1]}; give 1 to {MOST_WINDOW} and no more than its sides"
        )
    pooled = {"max": pool(values, window, stride, np.max), "average": pool(values, window, stride, np.mean)}
    every = np.array([float(np.mean(one)) for one in maps.astype(np.float64)])
    lines, differences = _compare(maps[chosen], maps, pooled, every, window, stride)
    spot = _telling(values, window, stride)
    height, width = pooled["max"].shape
    cell = _window_in(values, spot, window, stride)
    at = (spot[0] + cell[0] * stride, spot[1] + cell[1] * stride)
    first = values[at[0] : at[0] + window, at[1] : at[1] + window]
    _draw(output, seen_by(inside.spec, image), values, pooled, every, (name, chosen, window, stride, spot, cell))
    return Lesson(
        f"pooling of {inside.spec.name}, layer {name}",
        (
            f"max: y[i, j] = max over a, b of x[i·{stride} + a, j·{stride} + b], a and b from 0 to {window - 1}: whether something is anywhere in the window.",
            f"average: y[i, j] = (1/{window * window}) Σ_a Σ_b x[i·{stride} + a, j·{stride} + b]: how much of it is in the window.",
            "global average: one number a map, its mean; a classifier's head of that kind takes pictures of any size.",
            "Pooling has no weights. It makes maps smaller and answers less dependent on the exact place; backwards, max sends the gradient to the "
            "largest value alone, average shares it evenly.",
        ),
        (
            f"map {chosen} of {len(maps)}: {values.shape[0]}x{values.shape[1]} becomes {height}x{width}; global average {every[chosen]:.4f}",
            f"window at row {at[0]}, column {at[1]}: {', '.join(short(round(float(v), 3)) for v in first.ravel())} gives "
            f"max {float(first.max()):.3f} and average {float(first.mean()):.3f}",
            f"mean of the map {float(values.mean()):.4f}, after max {float(pooled['max'].mean()):.4f}, after average {float(pooled['average'].mean()):.4f}",
            *lines,
        ),
        {
            "model": inside.spec.name, "layer": name, "channel": chosen, "window": window, "stride": stride,
            "shape": list(values.shape), "pooled_shape": [height, width], "global_average": float(every[chosen]),
            "window_at": list(at), "window_values": first.tolist(), "window_max": float(first.max()), "window_average": float(first.mean()),
            "largest_difference": differences,
        },
        (output,),
    )  # fmt: skip


def _channel(maps: NDArray[np.float32], channel: int | None) -> int:
    if channel is None:
        return int(maps.std(axis=(1, 2)).argmax())
    if not 0 <= channel < len(maps):
        raise UsageError(f"--channel {channel}: the layer has {len(maps)} maps, numbered from 0")
    return channel


def _compare(
    one: NDArray[np.float32], maps: NDArray[np.float32], pooled: dict[str, Map], every: Map, window: int, stride: int
) -> tuple[list[str], dict[str, float]]:
    """Each kind beside ONNX Runtime and, where it is installed, PyTorch."""
    single, shape = one[None, None], {"kernel_shape": [window, window], "strides": [stride, stride]}
    others: dict[str, dict[str, NDArray[Any]]] = {
        "max": {"ONNX Runtime MaxPool": run_operator("MaxPool", [single], **shape)[0, 0]},
        "average": {"ONNX Runtime AveragePool": run_operator("AveragePool", [single], **shape)[0, 0]},
        # In double precision: its sums in single run on one by one, and large maps lose digits.
        "global average": {"ONNX Runtime ReduceMean": run_operator("ReduceMean", [maps.astype(np.float64)], axes=[1, 2]).reshape(-1)},
    }
    if installed("torch"):
        torch = require("torch", extra="train", why="the comparison")
        functions, given = torch.nn.functional, torch.from_numpy(np.ascontiguousarray(single))
        others["max"]["torch max_pool2d"] = functions.max_pool2d(given, window, stride)[0, 0].numpy()
        others["average"]["torch avg_pool2d"] = functions.avg_pool2d(given, window, stride)[0, 0].numpy()
        whole = torch.from_numpy(np.ascontiguousarray(maps))
        others["global average"]["torch adaptive_avg_pool2d"] = functions.adaptive_avg_pool2d(whole, 1).flatten().numpy()
    lines: list[str] = []
    differences: dict[str, float] = {}
    for kind, answer in {**pooled, "global average": every}.items():
        found, figures = compared(kind, answer, others[kind], limit_for(maps))
        lines += found
        differences |= figures
    return lines, differences


def _telling(values: Map, window: int, stride: int) -> tuple[int, int]:
    """The corner of a small part, on the grid of the windows, in which the values differ most."""
    side = min(_SHOWN, *values.shape)
    best, spot = -1.0, (0, 0)
    for row in range(0, values.shape[0] - side + 1, stride * max(1, 2 // stride)):
        for column in range(0, values.shape[1] - side + 1, stride * max(1, 2 // stride)):
            spread = float(values[row : row + side, column : column + side].std())
            if spread > best:
                best, spot = spread, (row, column)
    return spot


def _window_in(values: Map, spot: tuple[int, int], window: int, stride: int) -> tuple[int, int]:
    """Row and column, among the windows inside the part that is shown, of the one whose values differ most."""
    part = values[spot[0] : spot[0] + _SHOWN, spot[1] : spot[1] + _SHOWN]
    spread = pool(part, window, stride, np.std)
    row, column = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(row), int(column)


def _draw(
    path: Path,
    seen: Image,
    values: Map,
    pooled: dict[str, Map],
    every: Map,
    facts: tuple[str, int, int, int, tuple[int, int], tuple[int, int]],
) -> None:
    name, chosen, window, stride, (row, column), cell = facts
    limits = (float(values.min()), float(values.max()))
    side = min(_SHOWN, *values.shape)
    count = (side - window) // stride + 1
    aspect = values.shape[0] / values.shape[1]

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        grid = figure.subplots(2, 4)
        grid[0, 0].imshow(image_array(seen))
        grid[0, 0].set_title("picture")
        parts = {"map": values, f"max {window}×{window}": pooled["max"], f"average {window}×{window}": pooled["average"]}
        for ax, (title, part) in zip(grid[0, 1:], parts.items(), strict=True):
            ax.imshow(part, cmap=COLOURS_OF_MAPS, vmin=limits[0], vmax=limits[1], interpolation="nearest")
            ax.set_title(f"{title}: {part.shape[0]}×{part.shape[1]}")
        grid[0, 1].add_patch(Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor=COLOURS[1], linewidth=1.6))
        for ax in grid[0]:
            ax.set_axis_off()
        order = np.arange(len(every))
        grid[1, 0].bar(order, every, color=[COLOURS[1] if index == chosen else COLOURS[0] for index in order])
        grid[1, 0].set_title("global average", fontsize=9, fontweight="normal", loc="center")
        grid[1, 0].set_xlabel("map")
        first_row, first_column = row // stride, column // stride
        small = [values[row : row + side, column : column + side]]
        small += [part[first_row : first_row + count, first_column : first_column + count] for part in pooled.values()]
        titles = ("values in the box", "their maxima", "their averages")
        for ax, part, title in zip(grid[1, 1:], small, titles, strict=True):
            draw_numbers(ax, np.round(part, 2), COLOURS_OF_MAPS, limits, title=title, size=8 if len(part) > 3 else 11)
        boxes = [(cell[1] * stride - 0.5, cell[0] * stride - 0.5, window)] + [(cell[1] - 0.5, cell[0] - 0.5, 1)] * 2
        for ax, (x, y, length) in zip(grid[1, 1:], boxes, strict=True):
            ax.add_patch(Rectangle((x, y), length, length, fill=False, edgecolor=COLOURS[1], linewidth=3.0, zorder=4, clip_on=False))
        write_title(figure, f"Pooling of map {chosen}, layer {name}")

    draw_figure(path, (12.0, 0.9 + 2.9 * max(0.6, min(1.1, aspect)) + 3.0), draw)
