"""A network of the user's own, named as ``module:factory``: its code, its weights and what the user says of its pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens.errors import ModelError, UsageError
from jetlens.labels import find_labels
from jetlens.models import build
from jetlens.models.weights import fill, read_weights
from jetlens.registry import require
from jetlens.spec import ChannelOrder, ModelSpec, PreprocessSpec, ResizeFilter, ResizeRule, TaskName

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OwnOptions", "is_own_name", "own_network"]

_MOST_CLASSES = 100_000


@dataclass(frozen=True, slots=True)
class OwnOptions:
    """What the user says of a network of their own; None is assumed and said.

    Attributes:
        labels: a list that ships, a file, or the number of classes.
        mean: subtracted from each channel, in grey levels (0 to 255), in the order of ``order``; one value serves all channels.
        std: divides each channel, in grey levels.
        short_side: with ``crop``, the short side before the cut.
    """

    task: TaskName | None = None
    labels: str | None = None
    size_hw: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: ChannelOrder | None = None
    resize: ResizeRule | None = None
    filter: ResizeFilter | None = None
    short_side: int | None = None


def is_own_name(text: str) -> bool:
    """Whether a text is ``module:factory`` and no file or name."""
    module, colon, factory = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *factory.split(".")))


def own_network(target: str, weights: Path | None, options: OwnOptions) -> tuple[nn.Module, ModelSpec, tuple[str, ...]]:
    """The network that the user's factory makes, with the weights of a file, the spec of its export, and a line for what was assumed.

    The factory gets what its signature has of ``num_classes``, ``in_channels`` and ``size_hw``. Weights are read without running anything.

    Args:
        weights: a state_dict (.pth, .safetensors); None leaves the network's random weights, and the spec names no source.

    Raises:
        UsageError: task, labels or size are not given, or the factory cannot be used.
        WeightsError: the weights cannot be read or belong to another network.
        ModelError: the network does not answer as its task does.
    """
    missing = [
        flag for flag, value in (("--task", options.task), ("--labels", options.labels), ("--size", options.size_hw)) if value is None
    ]
    if missing:
        raise UsageError(
            f"{target}: {' and '.join(missing)} must say what the network is, such as --task segmentation --labels 4 --size 224x224"
        )
    assert options.task is not None
    assert options.labels is not None
    assert options.size_hw is not None
    names = _labels(options.labels)
    preprocess, assumed = _preprocess(options, options.size_hw)
    channels = len(preprocess.mean)
    made = build(target, own_code=True, num_classes=len(names), in_channels=channels, size_hw=options.size_hw)
    source: dict[str, Any] = {}
    if weights is not None:
        fill(made, read_weights(weights), str(weights))
        source = {"source": f"file {weights.name} for {target}"}
    network = _checked(target, made, options.task, names, (channels, *options.size_hw))
    name = target.partition(":")[2].rpartition(".")[2]
    return network, ModelSpec(name, options.task, names, preprocess, "", weights=source), assumed


def _labels(given: str) -> tuple[str, ...]:
    if given.isdecimal():
        if not 1 <= int(given) <= _MOST_CLASSES:
            raise UsageError(f"--labels {given}: give 1 to {_MOST_CLASSES} classes, or a file with one name a line")
        return tuple(f"class {index}" for index in range(int(given)))
    return find_labels(given)


def _preprocess(options: OwnOptions, size_hw: tuple[int, int]) -> tuple[PreprocessSpec, tuple[str, ...]]:
    order = options.order or "rgb"
    channels = 1 if order == "gray" else 3
    mean, std = (_channels(values, channels) for values in (options.mean or (0.0,), options.std or (255.0,)))
    rule = PreprocessSpec(
        size_hw,
        options.resize or "stretch",
        options.filter or "antialias",
        options.short_side,
        channel_order=order,
        mean=mean,
        std=std,
    )
    words = {
        "--mean and --std": (options.mean or options.std, "pixels from 0 to 1"),
        "--order": (options.order, order),
        "--resize": (options.resize, rule.resize),
        "--filter": (options.filter, f"{rule.filter} filter"),
    }
    open_ones = {flag: word for flag, (value, word) in words.items() if value is None}
    if not open_ones:
        return rule, ()
    return rule, (f"assumed: {', '.join(open_ones.values())}; if it was trained otherwise, say so with {', '.join(open_ones)}",)


def _channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def _checked(target: str, network: nn.Module, task: TaskName, names: tuple[str, ...], shape: tuple[int, int, int]) -> nn.Module:
    """The network as the exporter takes it, after it has answered an empty picture with as many classes as there are labels."""
    torch = require("torch", extra="export", why="export")
    network.eval()
    try:
        with torch.inference_mode():
            answer: Any = network(torch.zeros(1, *shape))
    except Exception as error:  # the user's code can raise anything
        words = " ".join(str(error).split())[:120]
        raise ModelError(f"{target} fails on a picture [1, {', '.join(map(str, shape))}]: {type(error).__name__}: {words}") from error
    if isinstance(answer, dict) and "out" in answer and task == "segmentation":
        from jetlens.models.torchvision_networks import RawSegmenter

        network, answer = RawSegmenter(network), answer["out"]
    if task == "detection":
        return network  # its outputs are checked where they are decoded
    axes = 2 if task == "classification" else 4
    if not torch.is_tensor(answer) or answer.ndim != axes or answer.shape[1] != len(names):
        found: Tensor | Any = answer
        what = list(found.shape) if torch.is_tensor(found) else type(found).__name__
        wanted = f"[1, {len(names)}]" if axes == 2 else f"[1, {len(names)}, h, w]"
        raise ModelError(
            f"{target} answers {what}; {task} with {len(names)} labels needs logits {wanted}: mend --task, --labels or the factory"
        )
    return network
