"""The flags of jetlens export: texts to checked values, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from jetlens.cli.flags import choice, grey_levels, size_hw
from jetlens.errors import UsageError
from jetlens.spec import ChannelOrder, ResizeFilter, ResizeRule, TaskName

if TYPE_CHECKING:
    from jetlens.export.own import OwnOptions

__all__ = ["Flags", "Lowered", "Request", "read_flags"]

Pixels = Literal["uint8-nhwc", "nchw-float"]
Lowered = Literal["fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Flags:
    """The command line as it was typed."""

    model: str
    weights: Path | None
    network: str | None
    output: Path | None
    taps: bool
    untrained: bool
    opset: int
    size: str | None
    batch: str | None
    frame_size: str | None
    input_kind: str | None
    plain: bool
    input_name: str | None
    output_name: str | None
    precision: str
    data: str | None
    layout: str | None
    calibration: str | None
    calibration_method: str | None
    calibration_count: int | None
    budget: float | None
    count: int | None
    recipe: str | None
    task: str | None
    labels: str | None
    mean: str | None
    std: str | None
    order: str | None
    resize: str | None
    filter: str | None
    short_side: int | None

    def given(self) -> frozenset[str]:
        """The flags that were not left away."""
        usual = {"opset": 17, "precision": "fp32"}
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        return frozenset(name for name, value in values.items() if value not in (None, False, usual.get(name))) - {"model", "output"}


@dataclass(frozen=True, slots=True)
class Request:
    """All that the flags say, each value checked by itself.

    Attributes:
        given: the flags that were not left away.
        precision: None for fp32.
        floats: whether the graph takes normalised floats.
        is_own: whether the model is ``module:factory``.
        is_graph: whether the model is an ONNX file or ships as one.
    """

    flags: Flags
    given: frozenset[str]
    frame_hw: tuple[int, int] | None
    batch: int | None
    precision: Lowered | None
    floats: bool
    own: OwnOptions
    is_own: bool
    is_graph: bool


def read_flags(flags: Flags) -> Request:
    """The values that the flags stand for.

    Raises:
        UsageError: a value is not of its kind, or flags contradict each other.
    """
    from jetlens.export.own import OwnOptions, is_own_name
    from jetlens.predictor import shipped_names

    choice("--input", flags.input_kind, get_args(Pixels))
    own = OwnOptions(
        task=choice("task", flags.task, get_args(TaskName)),
        labels=flags.labels,
        size_hw=_sides("--size", flags.size),
        mean=grey_levels("--mean", flags.mean),
        std=grey_levels("--std", flags.std),
        order=choice("channel order", flags.order, get_args(ChannelOrder)),
        resize=choice("resize rule", flags.resize, get_args(ResizeRule)),
        filter=choice("filter", flags.filter, get_args(ResizeFilter)),
        short_side=flags.short_side,
    )
    if flags.output is not None and flags.output.suffix != ".onnx":
        raise UsageError(f"the output is {flags.output.name!r}; give a name that ends in .onnx")
    is_file = Path(flags.model).exists()
    precision = choice("precision", flags.precision, ("fp32", *get_args(Lowered)))
    request = Request(
        flags=flags,
        given=flags.given(),
        frame_hw=_sides("--frame-size", flags.frame_size),
        batch=_batch(flags.batch, plain=flags.plain),
        precision=None if precision == "fp32" else cast(Lowered, precision),
        floats=flags.plain or flags.input_kind == "nchw-float",
        own=own,
        is_own=is_own_name(flags.model) and not is_file,
        is_graph=Path(flags.model).suffix.lower() == ".onnx" or (flags.model in shipped_names() and not is_file),
    )
    _refuse_contradictions(request)
    return request


_OWN_FLAGS = frozenset({"task", "labels", "mean", "std", "order", "resize", "filter", "short_side"})
_NETWORK_FLAGS = frozenset(
    {"weights", "network", "taps", "untrained", "opset", "size", "batch", "input_kind", "plain", "input_name", "output_name"}
)
_LOWER_FLAGS = frozenset({"data", "layout", "calibration", "calibration_method", "calibration_count", "budget", "count", "recipe"})
_NOT_PLAIN = frozenset({"taps", "frame_size", "precision"})


def _refuse_contradictions(request: Request) -> None:
    """Refuses flags that do not go together, in one line."""
    given = request.given
    lowered = request.precision is not None
    rules: tuple[tuple[bool, frozenset[str], str], ...] = (
        (
            request.is_graph,
            _NETWORK_FLAGS | _OWN_FLAGS,
            f"{request.flags.model} is a graph already: only --precision and --frame-size go with it, not",
        ),
        (
            not request.is_own,
            _OWN_FLAGS,
            f"{request.flags.model} says itself what it is (a network of your own is MODULE:FACTORY): it does not take",
        ),
        (not lowered, _LOWER_FLAGS, "without --precision fp16 or int8 nothing is measured: it does not go with"),
        (
            request.precision == "fp16",
            frozenset({"calibration", "calibration_method", "calibration_count"}),
            "fp16 needs no calibration: leave away",
        ),
        ("plain" in given, _NOT_PLAIN, "--plain writes the network alone, in fp32 and with raw outputs: it does not go with"),
        (request.floats, frozenset({"frame_size"}), "a graph that takes floats resizes nothing: --input nchw-float does not go with"),
        (
            not request.floats,
            frozenset({"input_name", "output_name"}),
            "the names of a graph for uint8 pictures are fixed (--plain frees them):",
        ),
        (request.is_own, frozenset({"network"}), "the network is named already: leave away"),
    )
    for applies, flags, why in rules:
        wrong = sorted(_flag(name) for name in flags & given)
        if applies and wrong:
            raise UsageError(f"{why} {', '.join(wrong)}")
    if request.flags.plain and request.flags.input_kind == "uint8-nhwc":
        raise UsageError("--plain takes floats: leave away --input uint8-nhwc, or --plain")
    if request.is_own and ("weights" in given) == ("untrained" in given):
        raise UsageError(f"{request.flags.model} needs its weights: --weights FILE.pth, or --untrained alone if random ones are wanted")
    if request.is_graph and not lowered and request.frame_hw is None:
        raise UsageError(
            f"{request.flags.model} is ONNX already; describe it with jetlens adopt, or say what to make of it: --precision fp16, int8 or --frame-size HxW"
        )


def _flag(name: str) -> str:
    return "--input" if name == "input_kind" else "--" + name.replace("_", "-")


def _sides(flag: str, text: str | None) -> tuple[int, int] | None:
    return None if text is None else size_hw(text, "720x1280", flag)


def _batch(text: str | None, *, plain: bool) -> int | None:
    if text is None:
        return 1 if plain else None
    if text == "dynamic":
        return None
    if not (text.isdecimal() and 1 <= int(text) <= 1024):
        raise UsageError(f"--batch {text[:40]}: give a number of pictures from 1 to 1024, or dynamic")
    return int(text)
