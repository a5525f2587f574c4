"""The architecture diagram: the blocks of a network in order, their output shapes, and their shares of parameters and arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens.errors import UsageError
from jetlens.plots.style import COLOURS, FAINT, GRID, INK, draw_figure, shorten

if TYPE_CHECKING:
    from jetlens.models.summary import LayerRow

    _Group = tuple[str, list[LayerRow]]

__all__ = ["Block", "architecture_blocks", "plot_architecture"]

MOST_BLOCKS = 16
DEEPEST = 4
CHAIN = 4

_WORDS = {
    "BatchNorm2d": "batch norm",
    "GroupNorm": "group norm",
    "ChannelNorm": "layer norm",
    "LayerNorm": "layer norm",
    "ReLU": "ReLU",
    "ReLU6": "ReLU6",
    "LeakyReLU": "leaky ReLU",
    "MaxPool2d": "max pool",
    "AvgPool2d": "average pool",
    "AdaptiveAvgPool2d": "average pool",
    "Linear": "linear",
    "Conv2d": "conv",
    "ConvTranspose2d": "transposed conv",
}
_FILLS = {"conv": "#DCEAF4", "linear": "#FBE6CF", "other": "#EEEEEE"}
_EDGES = {"conv": COLOURS[0], "linear": COLOURS[1], "other": FAINT}

# Where things stand, in inches from the left.
_BOX, _BOX_WIDTH, _SHAPE, _BARS, _BAR_WIDTH, _WIDTH = 0.15, 4.7, 4.95, (6.35, 8.05), 0.95, 9.75
_STEP, _BOX_HEIGHT, _HEAD, _FOOT = 0.62, 0.46, 1.0, 0.3


@dataclass(frozen=True, slots=True)
class Block:
    """Some layers that follow each other and belong together.

    Attributes:
        name: the modules' common name; ``layer1.0 to layer1.2`` for blocks that repeat.
        content: the layers in words.
        family: ``conv``, ``linear`` or ``other``: what colours it.
        output_shape: of its last layer, without the batch axis.
        parameters: of all repeats together.
        macs: of all repeats together.
        repeats: how many equal blocks follow each other.
    """

    name: str
    content: str
    family: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    repeats: int = 1


def architecture_blocks(rows: Sequence[LayerRow]) -> list[Block]:
    """The layers as blocks, as finely as 16 blocks can show them; equal neighbours are one block with a count."""
    used = [row for row in rows if row.calls and not row.kind.startswith("Dropout")]
    groups: list[_Group] = []
    for depth in range(DEEPEST, 0, -1):
        groups = list(_joined(_groups(used, depth, 0)))
        blocks = list(_collapsed(groups))
        if len(blocks) <= MOST_BLOCKS:
            return blocks
    return list(_collapsed(groups))


def plot_architecture(rows: Sequence[LayerRow], path: Path, *, title: str = "Architecture", input_shape: Sequence[int] = ()) -> Path:
    """The blocks of a network from input to output, each with its layers, output shape and shares of parameters and MACs.

    Args:
        rows: what ``models.summary.summary`` gives.
        input_shape: channels, height and width, shown above the first block.

    Raises:
        UsageError: there is no layer.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    blocks = architecture_blocks(rows)
    if not blocks:
        raise UsageError("the summary has no layer that the network uses, so there is no architecture to draw")
    parameters, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
    height = _HEAD + _STEP * len(blocks) + _FOOT

    def draw(figure: Any) -> None:
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_xlim(0, _WIDTH)
        ax.set_ylim(height, 0)
        ax.set_axis_off()
        text = f"{shorten(title, 50)}: {_short(parameters)} parameters, {_short(macs)} MACs a picture"
        ax.text(_BOX, 0.28, text, fontsize=12, fontweight="bold", va="center")
        arrives = f"input {_shape(input_shape)}" if input_shape else "input"
        ax.text(_BOX + _BOX_WIDTH / 2, 0.72, arrives, fontsize=9, color=FAINT, ha="center", va="center")
        for place, word in ((_SHAPE, "output"), (_BARS[0], "parameters"), (_BARS[1], "MACs")):
            ax.text(place, 0.72, word, fontsize=9, color=FAINT, va="center")
        ax.text(
            _BOX,
            height - 0.18,
            "Blocks in the order of their use; branches and shortcuts are not drawn.",
            fontsize=8,
            color=FAINT,
            va="center",
        )
        for index, block in enumerate(blocks):
            _draw_block(ax, block, _HEAD + _STEP * index, (block.parameters / max(1, parameters), block.macs / max(1, macs)))

    return draw_figure(path, (_WIDTH, height), draw, pad=False)


def _draw_block(ax: Any, block: Block, top: float, shares: tuple[float, float]) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    middle = top + _BOX_HEIGHT / 2
    centre = _BOX + _BOX_WIDTH / 2
    gap = _STEP - _BOX_HEIGHT
    ax.annotate(
        "",
        (centre, top),
        (centre, top - gap),
        arrowprops={"arrowstyle": "-|>", "color": FAINT, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.0},
    )
    style: dict[str, Any] = {"facecolor": _FILLS[block.family], "edgecolor": _EDGES[block.family], "linewidth": 1.0}
    if block.repeats > 1:  # a second sheet behind
        ax.add_patch(FancyBboxPatch((_BOX + 0.06, top + 0.05), _BOX_WIDTH, _BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.06", **style))
    ax.add_patch(FancyBboxPatch((_BOX, top), _BOX_WIDTH, _BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=0.06", **style))
    ax.text(_BOX + 0.12, middle - 0.1, shorten(block.name, 44), fontsize=9, fontweight="bold", va="center")
    ax.text(_BOX + 0.12, middle + 0.11, shorten(block.content, 70), fontsize=8, va="center", color=INK)
    if block.repeats > 1:
        ax.text(_BOX + _BOX_WIDTH - 0.12, middle - 0.1, f"×{block.repeats}", fontsize=10, fontweight="bold", ha="right", va="center")
    ax.text(_SHAPE, middle, _shape(block.output_shape), fontsize=9, va="center")
    for place, share, count, colour in zip(_BARS, shares, (block.parameters, block.macs), (COLOURS[0], COLOURS[2]), strict=True):
        ax.add_patch(Rectangle((place, middle - 0.09), _BAR_WIDTH, 0.18, facecolor=GRID, edgecolor="none"))
        ax.add_patch(Rectangle((place, middle - 0.09), _BAR_WIDTH * share, 0.18, facecolor=colour, edgecolor="none"))
        ax.text(place + _BAR_WIDTH + 0.07, middle, _percent(share) if count else "–", fontsize=8, va="center")


def _groups(rows: Sequence[LayerRow], depth: int, level: int) -> Iterator[_Group]:
    """Runs of layers of one module, taken apart while most of its parts have parts themselves."""
    for path, run in groupby(rows, key=lambda row: row.name.split(".")[: level + 1]):
        group = list(run)
        parts = [list(part) for _, part in groupby(group, key=lambda row: row.name.split(".")[: level + 2])]
        nested, plain = sum(len(part) > 1 for part in parts), sum(len(part) == 1 and _weighty(part[0]) for part in parts)
        flat = all(row.name.count(".") == level + 1 for row in group) and sum(map(_weighty, group)) > 2
        deeper = len(group) > 1 and (len(parts) == 1 or nested > plain or flat)
        if deeper and level + 1 < depth:
            yield from _groups(group, depth, level + 1)
        else:
            yield (group[0].name if len(group) == 1 else ".".join(path)), group


def _joined(groups: Iterator[_Group]) -> Iterator[_Group]:
    """Single layers of norm, activation and pooling go with the single layer before them."""
    current: _Group | None = None
    for name, group in groups:
        alone = len(group) == 1 and not _weighty(group[0])
        if alone and current and _parent(current[1][-1]) == _parent(group[0]) and sum(map(_weighty, current[1])) <= 1:
            current = (current[0], [*current[1], *group])
            continue
        if current:
            yield current
        current = (name, group)
    if current:
        yield current


def _collapsed(groups: Sequence[_Group]) -> Iterator[Block]:
    """Equal neighbours as one block."""
    for _, run in groupby(
        groups, key=lambda item: [(row.kind, row.detail, row.output_shape, row.parameters, row.calls) for row in item[1]]
    ):
        names, same = zip(*run, strict=True)
        yield Block(
            names[0] if len(same) == 1 else f"{names[0]} to {_without_common(names[-1], names[0])}",
            _content(same[0]),
            _family(same[0]),
            next((row.output_shape[1:] for row in reversed(same[-1]) if row.output_shape), ()),
            sum(row.parameters for group in same for row in group),
            sum(row.macs for group in same for row in group),
            len(same),
        )


def _without_common(name: str, other: str) -> str:
    """A name without the modules that the other one has too, but for the innermost of them."""
    own, theirs = name.split("."), other.split(".")
    common = next((index for index, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]), 0)
    return ".".join(own[max(0, common - 1) :])


def _content(group: Sequence[LayerRow]) -> str:
    if len(group) <= CHAIN:
        return " → ".join(_word(row) for row in group) + (f", used {group[0].calls} times" if group[0].calls > 1 else "")
    heavy = Counter(_word(row) for row in group if _weighty(row))
    light = dict.fromkeys(_WORDS.get(row.kind, row.kind) for row in group if not _weighty(row))
    return ", ".join([*(f"{count}× {word}" if count > 1 else word for word, count in heavy.items()), *light])


def _word(row: LayerRow) -> str:
    size = row.detail.split(",")[0].replace("x", "×") if row.detail and row.kind != "AdaptiveAvgPool2d" else ""
    stride = next((part.strip() for part in row.detail.split(",") if part.strip().startswith("stride")), "")
    groups = " depthwise" if "groups" in row.detail else ""
    step = f" /{stride.split()[1]}" if stride and "Conv" in row.kind else ""
    return f"{_WORDS.get(row.kind, row.kind)}{groups} {size}".strip() + step


def _family(group: Sequence[LayerRow]) -> str:
    kinds = {row.kind for row in group}
    return "conv" if any("Conv" in kind for kind in kinds) else "linear" if "Linear" in kinds else "other"


def _weighty(row: LayerRow) -> bool:
    return "Conv" in row.kind or row.kind == "Linear" or row.macs > 0


def _parent(row: LayerRow) -> str:
    return row.name.rpartition(".")[0]


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _short(number: int) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(number)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"
