"""Normalisation layers on a real feature map: which values share a mean and a deviation, and what is left afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import UsageError
from jetlens.frame import Image
from jetlens.learn.inside import Inside, chosen_layer
from jetlens.learn.lesson import Lesson, compared, limit_for
from jetlens.learn.numbers import DIVERGING
from jetlens.learn.onnx_graph import run_operator
from jetlens.plots.style import draw_figure, write_title
from jetlens.registry import installed, require

__all__ = ["NORMS", "group_count", "normalise", "normalization"]

Maps = NDArray[np.float64]
EPSILON = 1e-5
GROUPS = 8
MOST_PICTURES = 16
SHOWN_MAPS = 48

NORMS: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "batch": ("one mean a map, over all pictures and places", (0, 2, 3)),
    "layer": ("one mean a picture, over all its maps and places", (1, 2, 3)),
    "group": ("one mean a picture and group of maps", (2, 3, 4)),
    "instance": ("one mean a picture and map, over its places", (2, 3)),
}
"""Each kind in words, and the axes of [N, C, H, W] over which it averages; for groups of [N, G, C / G, H, W]."""


def normalise(x: Maps, kind: str, groups: int) -> Maps:
    """(x - mean) / sqrt(variance + 1e-5) without weights, [N, C, H, W] to the same."""
    shaped, mean, deviation = _statistics(x, kind, groups)
    return ((shaped - mean) / deviation).reshape(x.shape)


def _statistics(x: Maps, kind: str, groups: int) -> tuple[Maps, Maps, Maps]:
    """The values with their sets along the axes, the sets' means, and their deviations."""
    axes = NORMS[kind][1]
    shaped = x.reshape(len(x), groups, -1, *x.shape[2:]) if kind == "group" else x
    mean = np.asarray(shaped.mean(axis=axes, keepdims=True))
    variance = np.asarray(((shaped - mean) ** 2).mean(axis=axes, keepdims=True))
    return shaped, mean, np.sqrt(variance + EPSILON)


def group_count(channels: int, groups: int | None) -> int:
    """The number of groups: as asked for, else up to 8 that divide the channels.

    Raises:
        UsageError: the channels cannot be parted so.
    """
    if groups is None:
        return math.gcd(GROUPS, channels)
    if groups < 1 or channels % groups:
        raise UsageError(f"--groups {groups}: the layer has {channels} maps, which do not part into {groups} equal groups")
    return groups


def normalization(inside: Inside, images: Sequence[Image], output: Path, *, layer: str | None = None, groups: int | None = None) -> Lesson:
    """Normalises a layer's maps of some pictures in four ways, compares with the libraries, and draws it.

    Raises:
        GateError: a library gives another result.
        UsageError: too many pictures, or groups that do not fit.
    """
    if not 1 <= len(images) <= MOST_PICTURES:
        raise UsageError(f"{len(images)} pictures were given; normalization looks at 1 to {MOST_PICTURES} at once")
    name = chosen_layer(inside, layer)
    single = inside.maps(images, name)
    x = np.asarray(single, np.float64)
    parts = group_count(x.shape[1], groups)
    answers = {kind: normalise(x, kind, parts) for kind in NORMS}
    lines: list[str] = []
    differences: dict[str, float] = {}
    for kind, answer in answers.items():
        found, figures = compared(f"{kind} norm", answer, {**_onnx(x, kind, parts), **_torch(single, kind, parts)}, _limit(x, kind, parts))
        lines += found
        differences |= {f"{kind}: {key}": value for key, value in figures.items()}
    _draw(output, inside.spec.name, name, x, answers, parts)
    numbers = {kind: _leftover(answer) for kind, answer in {"before": x, **answers}.items()}
    return Lesson(
        f"normalization of {inside.spec.name}, layer {name}",
        _text(parts, len(x)),
        (
            f"{len(x)} pictures, {x.shape[1]} maps of {x.shape[2]}x{x.shape[3]}",
            *(
                f"{kind:>8}: means of the maps {row['means'][0]:+.3f} to {row['means'][1]:+.3f}, deviations {row['deviations'][0]:.3f} to {row['deviations'][1]:.3f}"
                for kind, row in numbers.items()
            ),
            *lines,
        ),
        {
            "model": inside.spec.name, "layer": name, "shape": list(x.shape), "groups": parts, "epsilon": EPSILON,
            "maps_means_and_deviations": numbers, "largest_difference": differences,
        },
        (output,),
    )  # fmt: skip


def _limit(x: Maps, kind: str, groups: int) -> float:
    """What rounding explains: before the mean is taken away, values that hardly vary are large beside their deviation."""
    shaped, _, deviation = _statistics(x, kind, groups)
    return limit_for(shaped / deviation)


def _text(parts: int, pictures: int) -> tuple[str, ...]:
    alone = " With one picture, as here, it is the same as instance norm." if pictures == 1 else ""
    return (
        f"y = γ · (x - μ) / sqrt(σ² + {EPSILON:g}) + β; μ and σ² are mean and variance of the values that belong together, γ and β are learnt for each map "
        "(here 1 and 0).",
        *(f"{kind} norm: {words}{f' ({parts} groups)' if kind == 'group' else ''}." for kind, (words, _) in NORMS.items()),
        f"Batch norm uses the batch's μ and σ² in training and running averages of them afterwards; so it can be folded into the convolution before it, "
        f"and costs nothing in a deployed graph.{alone}",
        "Layer, group and instance norm do not depend on the other pictures: batches may be small, and training and inference compute the same.",
    )


def _leftover(values: Maps) -> dict[str, list[float]]:
    """Smallest and largest mean and deviation over the maps of all pictures."""
    means, deviations = values.mean(axis=(2, 3)), values.std(axis=(2, 3))
    return {key: [float(table.min()), float(table.max())] for key, table in (("means", means), ("deviations", deviations))}


def _onnx(x: Maps, kind: str, groups: int) -> dict[str, NDArray[Any]]:
    """ONNX Runtime's answer in double precision: in single it adds up one by one, and after 921,600 values was seen to be off by 0.004."""
    if kind == "batch":
        ones = np.ones(x.shape[1])
        statistics = [x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))]
        answer = run_operator("BatchNormalization", [x, ones, 0 * ones, *statistics], epsilon=EPSILON)
        return {"ONNX Runtime BatchNormalization": answer}
    # All three are layer norm of the values that share a mean, laid end to end.
    sets = {"layer": 1, "group": groups, "instance": x.shape[1]}[kind]
    long = x.reshape(len(x), sets, -1)
    answer = run_operator("LayerNormalization", [long, np.ones(long.shape[2])], axis=2, epsilon=EPSILON)
    return {f"ONNX Runtime LayerNormalization{' of each ' + kind if kind != 'layer' else ''}": answer.reshape(x.shape)}


def _torch(x: NDArray[np.float32], kind: str, groups: int) -> dict[str, NDArray[Any]]:
    """PyTorch's answer, where it is installed."""
    if not installed("torch"):
        return {}
    torch = require("torch", extra="train", why="the comparison")
    functions, given = torch.nn.functional, torch.from_numpy(np.ascontiguousarray(x))
    calls: dict[str, Callable[[], Any]] = {
        "batch": lambda: functions.batch_norm(given, None, None, training=True, eps=EPSILON),
        "layer": lambda: functions.layer_norm(given, given.shape[1:], eps=EPSILON),
        "group": lambda: functions.group_norm(given, groups, eps=EPSILON),
        # Its own instance_norm refuses maps of a single pixel.
        "instance": lambda: functions.group_norm(given, given.shape[1], eps=EPSILON),
    }
    name = "torch group_norm with a group a map" if kind == "instance" else f"torch {kind}_norm"
    return {name: calls[kind]().numpy()}


def _draw(path: Path, model: str, layer: str, x: Maps, answers: Mapping[str, Maps], groups: int) -> None:
    """A column a kind: who shares a mean, what means are left, and one map."""
    pictures, channels = x.shape[:2]
    shown = int(x.std(axis=(0, 2, 3)).argmax())
    columns = {"before": x, **answers}
    cells: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    most = max(float(np.abs(table.mean(axis=(2, 3))).max()) for table in columns.values())

    def draw(figure: Any) -> None:
        grid = figure.subplots(3, len(columns), height_ratios=[1, 1, 1.6])
        for index, (kind, values) in enumerate(columns.items()):
            sharing, means, one = grid[:, index]
            sharing.set_title("before" if kind == "before" else f"{kind} norm")
            if kind != "before":
                sharing.imshow(_sets(kind, pictures, channels, groups)[:, :SHOWN_MAPS], cmap="tab20", vmin=0, vmax=19, **cells)
            shown_means = means.imshow(values.mean(axis=(2, 3))[:, :SHOWN_MAPS], cmap=DIVERGING, vmin=-most, vmax=most, **cells)
            one.imshow(values[0, shown], cmap="viridis", interpolation="nearest")
            one.set_title(f"{values[0, shown].min():.2f} to {values[0, shown].max():.2f}", fontsize=9, fontweight="normal", loc="center")
            for ax in (sharing, means, one):
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(False)
                ax.spines[:].set_visible(ax is means or (ax is sharing and kind != "before"))
        for ax, word in zip(grid[:, 0], ("one colour,\none mean", "mean of each\nmap", f"map {shown} of\npicture 0"), strict=True):
            ax.set_ylabel(word, fontsize=9)
        grid[1, 0].set_xlabel("a row a picture, a column a map", fontsize=8)
        bar = figure.colorbar(shown_means, ax=grid[1, :], fraction=0.015, pad=0.01)
        bar.outline.set_visible(False)
        write_title(figure, f"Normalisation of layer {layer} of {model}: {pictures} pictures, {channels} maps")

    draw_figure(path, (13.0, 6.4), draw)


def _sets(kind: str, pictures: int, channels: int, groups: int) -> NDArray[np.int64]:
    """A number for each set of values that share a mean, [pictures, channels]; neighbours differ."""
    rows, columns = np.mgrid[:pictures, :channels]
    numbers = {
        "batch": columns,
        "layer": rows,
        "group": rows * groups + columns // (channels // groups),
        "instance": rows * 7 + columns,
    }
    colours: NDArray[np.int64] = numbers[kind] % 20
    return colours
