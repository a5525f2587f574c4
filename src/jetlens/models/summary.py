"""summary: what each layer of a network gives, holds and costs, measured with one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jetlens.registry import require

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerRow", "summary", "summary_table", "totals"]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network.

    Attributes:
        name: as ``named_modules`` has it.
        kind: its class, such as ``Conv2d``.
        output_shape: for one picture, its batch axis of 1 first; empty where the layer was not used.
        parameters: how many it holds itself; a parameter that several layers share counts once, at the first.
        macs: multiplications with their additions, of all its calls on one picture. Convolutions and linear layers count, the rest costs far less
            and counts as 0, as papers do.
        detail: kernel, stride, groups, where they say something.
        calls: how often the network used it.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    detail: str = ""
    calls: int = 1


class _Tally:
    """What the hooks saw of one layer."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.macs = 0
        self.calls = 0


def summary(network: nn.Module, input_shape: Sequence[int]) -> list[LayerRow]:
    """The layers of a network in the order in which it uses them; those that it does not use come last.

    The network is run once in evaluation mode, on its own device, with a picture of zeros, and left as it was.

    Args:
        input_shape: channels, height and width.
    """
    torch = require("torch", extra="train", why="the summary of a network")
    layers = {name: module for name, module in network.named_modules() if _is_layer(module)}
    seen: dict[str, _Tally] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            tally = seen.setdefault(name, _Tally())
            first = _first_tensor(output)
            tally.calls += 1
            if first is not None:
                tally.shape = tally.shape or tuple(first.shape)
                tally.macs += _macs(module, _first_tensor(inputs), first)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    try:
        with evaluating(network), torch.no_grad():
            parameter = next(network.parameters(), torch.zeros(()))
            network(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    counted: set[int] = set()
    unused = {name: _Tally() for name in layers if name not in seen}
    return [_row(name, layers[name], tally, counted) for name, tally in (seen | unused).items()]


def totals(rows: Sequence[LayerRow]) -> tuple[int, int]:
    """Parameters and MACs of the whole network."""
    return sum(row.parameters for row in rows), sum(row.macs for row in rows)


def summary_table(rows: Sequence[LayerRow]) -> str:
    """The layers as lines of plain text, with their totals below."""
    head = ("layer", "kind", "output", "parameters", "MACs")
    body = [
        (
            row.name,
            f"{row.kind} {row.detail}".strip() + (f" (x{row.calls})" if row.calls > 1 else ""),
            "x".join(map(str, row.output_shape[1:])) or "not used",
            f"{row.parameters:,}",
            f"{row.macs:,}",
        )
        for row in rows
    ]
    parameters, macs = totals(rows)
    last = ("total", "", "", f"{parameters:,}", f"{macs:,}")
    widths = [max(len(line[column]) for line in (head, *body, last)) for column in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < 3 else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([text(head), rule, *map(text, body), rule, text(last)])


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _is_layer(module: nn.Module) -> bool:
    """A module that computes: without parts, or with parameters of its own; empty containers are none."""
    if next(module.parameters(recurse=False), None) is not None:
        return True
    return next(module.children(), None) is None and type(module).__name__ not in ("Identity", "Sequential", "ModuleList", "ModuleDict")


def _row(name: str, module: Any, tally: _Tally, counted: set[int]) -> LayerRow:
    own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
    counted.update(id(parameter) for parameter in own)
    return LayerRow(
        name, type(module).__name__, tally.shape, sum(parameter.numel() for parameter in own), tally.macs, _detail(module), tally.calls
    )


def _detail(module: Any) -> str:
    kernel = getattr(module, "kernel_size", None)
    if kernel is None:
        return ""
    words = ["x".join(map(str, _pair(kernel)))]
    for name, plain in (("stride", 1), ("dilation", 1), ("groups", 1)):
        value = getattr(module, name, plain)
        value = _pair(value)[0] if name != "groups" else value
        if value != plain:
            words.append(f"{name} {value}")
    return ", ".join(words)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _first_tensor(value: Any) -> Any:
    """The first tensor in a tensor, sequence or mapping; None if there is none."""
    if hasattr(value, "shape"):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return next((found for found in map(_first_tensor, parts) if found is not None), None)


def _macs(module: Any, given: Any, answer: Any) -> int:
    kind = type(module).__name__
    if kind == "Linear":
        return int(answer.numel() * module.in_features)
    if kind.startswith("ConvTranspose"):
        return int(given.numel() * module.weight[0].numel())
    if kind.startswith("Conv") and hasattr(module, "weight"):
        return int(answer.numel() * module.weight[0].numel())
    return 0
