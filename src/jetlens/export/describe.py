"""Describing a foreign graph: what the user says, what its family does, what the graph shows, and what had to be assumed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import Session
from jetlens.errors import ModelError, UnknownNameError, UsageError
from jetlens.export.guess import Guess, guesses
from jetlens.export.presets import PRESETS, Preset, preset
from jetlens.frame import Image
from jetlens.graph import GraphFacts
from jetlens.labels import find_labels, labels
from jetlens.ops.images import normalize
from jetlens.spec import METADATA_KEY, ModelSpec, PreprocessSpec, TaskName, TensorSpec
from jetlens.tasks.base import Arrays

__all__ = ["AdoptOptions", "describe", "probe_picture"]

_INTERCHANGEABLE = ({"logits", "probabilities"}, {"logits", "mask"})
_USUAL_LABELS = {1000: "imagenet", 1001: "imagenet", 80: "coco80", 90: "coco91", 91: "coco91", 20: "voc", 21: "voc"}
_BACKGROUNDS = ("background", "__background__", "unlabeled")
_UNSURE = 0.5
_READ_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("detections", "yolov5", "yolov8", "fastestdet", "probabilities"), ("output",)),
    "yolox": ("output", "strides", "decoded"),
    "yunet": ("strides",),
    "nanodet": ("output", "scores", "boxes", "strides", "bins", "center"),
    "ssd": ("boxes", "scores", "classes", "normalised", "corners", "activation"),
    "mask": ("output",),
    "logits": ("output", "layout", "threshold"),
}
"""What each decoder reads of its options."""
_OPTION_VALUES = {"corners": ("xyxy", "yxyx", "cxcywh"), "activation": ("none", "softmax", "sigmoid"), "layout": ("nchw", "nhwc")}


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """What the user knows of the model; None is taken from the preset, else from the graph, else assumed and said.

    Attributes:
        labels: a list that ships (``imagenet``, ``coco80`` ...) or a file.
        mean: subtracted from each channel, in grey levels (0 to 255), in the order of ``order``; one value serves all channels.
        std: divides each channel, in grey levels.
        pad: grey level around a letterboxed picture.
        decoder_options: what the decoder needs over what the graph tells.
    """

    task: TaskName | None = None
    labels: str | Path | None = None
    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: str | None = None
    resize: str | None = None
    filter: str | None = None
    decoder: str | None = None
    layout: str | None = None
    label_offset: int | None = None
    size_hw: tuple[int, int] | None = None
    short_side: int | None = None
    pad: int | None = None
    anchor: str | None = None
    confidence: float | None = None
    iou: float | None = None
    name: str | None = None
    decoder_options: Mapping[str, Any] = field(default_factory=dict)

    def preprocess(self) -> dict[str, Any]:
        """The fields of PreprocessSpec that the user gave."""
        given = {
            "mean": self.mean,
            "std": self.std,
            "channel_order": self.order,
            "resize": self.resize,
            "filter": self.filter,
            "short_side": self.short_side,
            "pad_value": self.pad,
            "anchor": self.anchor,
        }
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Input:
    """The picture input of a graph."""

    tensor: TensorSpec
    layout: str
    channels: int
    size_hw: tuple[int, int]


def describe(graph: GraphFacts, session: Session, options: AdoptOptions, name: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec of a graph, and a line for all that was found in it or assumed.

    Raises:
        ModelError: the graph has no picture input, or does not fit the options.
    """
    own = graph.metadata.get(METADATA_KEY)
    if own is not None:
        spec = ModelSpec.from_json(own, origin=f"the metadata in {name}")
        return replace(spec, name=options.name or spec.name), (
            "found: the spec in the graph's own metadata; flags other than --name do not apply",
        )
    notes: list[str] = []
    chosen = preset(options.preset) if options.preset else None
    source = _input(session, options, chosen, notes)
    answers = _probe(session, source, options, chosen)
    names = _given_labels(graph, options, notes)
    guess = _choose(guesses(answers, source.size_hw), answers, options, chosen, names)
    notes.append(f"found: {guess.task}, decoder {guess.decoder} ({guess.confidence:.0%} sure): {guess.why}")
    _check_decoder_options(guess.decoder, options.decoder_options)
    family = chosen or preset(guess.preset)
    preprocess = _preprocess(source, options, family)
    if chosen is None:
        notes.extend(_assumptions(options, guess.preset, preprocess))
    notes.extend(_doubts(options))
    names, offset = _labels(names, guess, family, options, notes)
    spec = ModelSpec(
        name=options.name or name,
        task=guess.task,
        labels=names,
        preprocess=preprocess,
        decoder=guess.decoder,
        decoder_options={**guess.options, **family.decoder_options, **options.decoder_options},
        label_offset=offset,
        confidence=family.confidence if options.confidence is None else options.confidence,
        iou=family.iou if options.iou is None else options.iou,
        inputs=session.inputs,
        outputs=session.outputs,
        precision=graph.precision,
        weights={"adopted_from": name, "producer": graph.producer},
    )
    return spec, tuple(notes)


def _check_decoder_options(decoder: str, given: Mapping[str, Any]) -> None:
    """Refuses options that a decoder would not read, which are mistakes of spelling."""
    for key, value in given.items():
        if key not in _READ_OPTIONS.get(decoder, ()):
            raise UnknownNameError(f"option of decoder {decoder}", key, _READ_OPTIONS.get(decoder, ()))
        if value not in _OPTION_VALUES.get(key, (value,)):
            raise UnknownNameError(f"value of the decoder option {key}", str(value), _OPTION_VALUES[key])
        strides = isinstance(value, list) and all(type(stride) is int and stride > 0 for stride in value)
        number = isinstance(value, (int, float)) and abs(value) < 1e9
        if (key == "strides" and not strides) or (key in ("bins", "center", "threshold") and not number):
            raise UsageError(
                f"decoder option {key} is {str(value)[:40]}; give {'a list such as [8,16,32]' if key == 'strides' else 'a number'}"
            )


def probe_picture(size_hw: tuple[int, int]) -> Image:
    """A picture of soft random colours, always the same, uint8 [h, w, 3]."""
    height, width = size_hw
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def _input(session: Session, options: AdoptOptions, chosen: Preset | None, notes: list[str]) -> _Input:
    if len(session.inputs) != 1:
        names = ", ".join(row.name for row in session.inputs)
        raise ModelError(f"the graph takes {len(session.inputs)} inputs ({names[:120]}); only graphs that take one picture can be adopted")
    tensor = session.inputs[0]
    if len(tensor.shape) != 4 or tensor.dtype not in ("float32", "float16", "uint8"):
        raise ModelError(
            f"input {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}; a picture is float32, float16 or uint8 with 4 axes "
            "([N, C, H, W] or [N, H, W, C])"
        )
    layout = options.layout or _layout(tensor)
    channels, size = (tensor.shape[1], tensor.shape[2:]) if layout == "nchw" else (tensor.shape[3], tensor.shape[1:3])
    if isinstance(channels, str):
        channels = 1 if options.order == "gray" else 3
    if channels not in (1, 3):
        raise ModelError(
            f"input {tensor.name!r} of shape {list(tensor.shape)} has {channels} channels in layout {layout}; 1 or 3 are allowed: set --layout"
        )
    return _Input(tensor, layout, channels, _size(tensor, size, options, chosen, notes))


def _layout(tensor: TensorSpec) -> str:
    first, last = tensor.shape[1] in (1, 3), tensor.shape[3] in (1, 3)
    if first == last:
        raise ModelError(
            f"the shape {list(tensor.shape)} of input {tensor.name!r} does not tell where the channels are; give --layout nchw or nhwc"
        )
    return "nchw" if first else "nhwc"


def _size(
    tensor: TensorSpec, axes: tuple[int | str, ...], options: AdoptOptions, chosen: Preset | None, notes: list[str]
) -> tuple[int, int]:
    """The input's size: the graph's own where it is fixed, else the user's, else the preset's."""
    wanted = options.size_hw or (chosen.size_hw if chosen else None)
    fixed = [axis for axis in axes if isinstance(axis, int)]
    if options.size_hw and any(isinstance(axis, int) and axis != want for axis, want in zip(axes, options.size_hw, strict=True)):
        raise ModelError(
            f"input {tensor.name!r} is fixed to {axes[0]}x{axes[1]} (height x width); --size {options.size_hw[0]}x{options.size_hw[1]} differs"
        )
    if len(fixed) == 2:
        return fixed[0], fixed[1]
    if wanted is None:
        raise ModelError(f"the size of input {tensor.name!r} is free ({list(tensor.shape)}); give --size HxW, such as --size 224x224")
    height, width = (axis if isinstance(axis, int) else want for axis, want in zip(axes, wanted, strict=True))
    if not options.size_hw:
        notes.append(f"assumed: input size {height}x{width}, the preset's, where the graph leaves it free (--size HxW)")
    return height, width


def _preprocess(source: _Input, options: AdoptOptions, family: Preset) -> PreprocessSpec:
    """The user's fields over the family's, in the graph's own type, layout and number of channels."""
    values = {**family.preprocess, **options.preprocess()}
    dtype = source.tensor.dtype
    if source.channels == 1 and options.order is None:
        values["channel_order"] = "gray"
    gray = values.get("channel_order") == "gray"
    if gray != (source.channels == 1):
        raise ModelError(
            f"the graph takes {source.channels} channels; channel order {values['channel_order']!r} does not: set --order or --preset"
        )
    for key, neutral in (("mean", 0.0), ("std", 1.0)):
        given = tuple(values.get(key, (neutral,)))
        if dtype == "uint8" and getattr(options, key) is None:
            given = (neutral,)
        values[key] = given * source.channels if len(given) == 1 else given
        if dtype == "uint8" and set(values[key]) != {neutral}:
            raise ModelError(f"the graph takes uint8 and normalises by itself; leave --{key} away")
        if source.channels == 1 and len(given) == 3 and getattr(options, key) is None:
            values[key] = (float(np.mean(given)),)
    plain = dtype == "uint8" and source.layout == "nhwc" and values.get("channel_order", "rgb") == "rgb"
    return PreprocessSpec(size_hw=source.size_hw, layout=cast(Any, source.layout), dtype=cast(Any, dtype), baked=plain, **values)


def _probe(session: Session, source: _Input, options: AdoptOptions, chosen: Preset | None) -> Arrays:
    """The graph's answers to the probe picture.

    Raises:
        ModelError: it does not run at this size, or an answer is not finite.
    """
    rule = _preprocess(source, options, chosen or PRESETS["mnist" if source.channels == 1 else "torchvision-classifier"])
    picture = probe_picture(source.size_hw)[None]
    one: NDArray[Any] = picture if rule.baked else normalize(picture, rule)
    batch = source.tensor.shape[0]
    answers = session.run({source.tensor.name: one.repeat(batch, axis=0) if isinstance(batch, int) else one})
    for name, array in answers.items():
        wrong = int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind == "f" else 0
        if wrong:
            raise ModelError(
                f"output {name!r} has {wrong} of {array.size} values NaN or infinite for a picture of random colours; "
                "check mean and std (--preset, --mean, --std), or the file is damaged or overflows in fp16"
            )
    return answers


def _given_labels(graph: GraphFacts, options: AdoptOptions, notes: list[str]) -> tuple[str, ...] | None:
    """The user's labels, else those in the graph's metadata."""
    if options.labels is not None:
        return find_labels(options.labels)
    text = graph.metadata.get("names", "")
    try:
        table = ast.literal_eval(text) if len(text) < 1 << 20 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not (isinstance(table, dict) and table and all(isinstance(key, int) and isinstance(name, str) for key, name in table.items())):
        return None
    if sorted(table) != list(range(len(table))):
        return None
    notes.append(f"found: {len(table)} labels in the graph's metadata")
    return tuple(table[i] for i in range(len(table)))


def _choose(found: Sequence[Guess], answers: Arrays, options: AdoptOptions, chosen: Preset | None, names: tuple[str, ...] | None) -> Guess:
    """The surest reading that fits what was said."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in list(answers.items())[:4])
    task = options.task or (chosen.task if chosen else None)
    decoder = options.decoder or (chosen.decoder if chosen else None)
    if chosen and options.task and chosen.task != options.task:
        raise ModelError(f"preset {options.preset} is for {chosen.task}, and --task is {options.task}; leave one of them away")
    fitting = [guess for guess in found if task in (None, guess.task)]
    if decoder:
        exact = [guess for guess in fitting if guess.decoder == decoder]
        alike = [replace(guess, decoder=decoder) for guess in fitting if any({guess.decoder, decoder} == pair for pair in _INTERCHANGEABLE)]
        fitting = exact or alike
        if not fitting and options.decoder and task:
            return Guess(
                task, decoder, None, 1.0, f"as told, for {shapes}", "ssd-signed" if task == "detection" else "torchvision-classifier"
            )
    if names is not None:
        fitting = [
            guess for guess in fitting if guess.classes is None or _offset(guess, names) is not None or options.label_offset is not None
        ] or fitting
    if not fitting:
        other = f"; they look like {found[0].task}, decoder {found[0].decoder}" if found else ""
        asked = " and ".join(text for text in (task, decoder and f"decoder {decoder}") if text) or "any known decoder"
        raise ModelError(f"the answers ({shapes[:120]}) do not fit {asked}{other}: choose another --task, --preset or --decoder"[:300])
    if task is None and fitting[0].confidence < _UNSURE:
        raise ModelError(f"the answers ({shapes[:120]}) do not tell the task surely; give --task classification, detection or segmentation")
    return fitting[0]


def _offset(guess: Guess, names: tuple[str, ...]) -> int | None:
    """What to subtract from the graph's ids so that they fit the labels: 1 where only the graph has a background; None if nothing fits."""
    if guess.classes is None:
        return 0
    return {0: 0, 1: 1}.get(guess.classes - len(names))


def _labels(
    names: tuple[str, ...] | None, guess: Guess, family: Preset, options: AdoptOptions, notes: list[str]
) -> tuple[tuple[str, ...], int]:
    """The labels without a background where the task has none, and the label offset that goes with them."""
    given = names is not None
    if names is None:
        names = _usual_labels(guess, family, options.preset is not None, notes)
    offset = _offset(guess, names) if options.label_offset is None else options.label_offset
    if guess.task != "segmentation" and names and names[0].lower() in _BACKGROUNDS and options.label_offset is None:
        # Ids count from the background on; it is no answer itself.
        names = names[1:]
        offset = 1 if guess.classes is None else _offset(guess, names)
    if offset is None or (guess.classes is not None and guess.classes - offset != len(names)):
        what = f"--labels {options.labels} has" if options.labels is not None else "the labels are"
        more = "" if options.label_offset is None else f" with --label-offset {options.label_offset}"
        raise ModelError(
            f"the graph tells {guess.classes} classes apart, {what} {len(names)}{more}; give the labels that it was trained with, one a line"
        )
    if given and offset:
        notes.append(f"found: label offset {offset}, so class {offset} of the graph is {names[0]!r}")
    return names, offset


def _usual_labels(guess: Guess, family: Preset, said: bool, notes: list[str]) -> tuple[str, ...]:
    """The family's labels if they are as many as the graph's classes, else the list that usually has so many, else numbers."""
    own = labels(family.labels) if isinstance(family.labels, str) else family.labels
    for source, names in ((family.labels, own), (usual := _USUAL_LABELS.get(guess.classes or 0), labels(usual) if usual else None)):
        if names and (_offset(guess, names) is not None or (names[0] in _BACKGROUNDS and guess.classes == len(names) - 1)):
            shown = source if isinstance(source, str) else ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            if not (said and source is family.labels):
                notes.append(f"assumed: labels {shown} (--labels FILE)")
            return names
    notes.append(f"assumed: no labels, the {guess.classes or 'unknown number of'} classes are shown by their number (--labels FILE)")
    return ("",) * (guess.classes or 0)


def _assumptions(options: AdoptOptions, name: str, rule: PreprocessSpec) -> list[str]:
    """What nobody said about how to feed pixels."""
    given = options.preprocess()
    detail = {
        "crop": f" of short side {rule.short_side}" if rule.short_side else "",
        "letterbox": f" ({rule.anchor}, pad {rule.pad_value})",
        "stretch": "",
    }
    words = {
        "resize": rule.resize + detail[rule.resize],
        "filter": f"filter {rule.filter}",
        "channel_order": f"order {rule.channel_order}",
        "mean": f"mean {','.join(f'{value:g}' for value in rule.mean)}",
        "std": f"std {','.join(f'{value:g}' for value in rule.std)}",
    }
    if rule.dtype == "uint8":
        words = {key: text for key, text in words.items() if key not in ("mean", "std")}
    open_ones = [text for key, text in words.items() if key not in given]
    if not open_ones:
        return []
    return [
        f"assumed: {', '.join(open_ones)} as in preset {name}; the graph cannot tell, so if answers look wrong give --preset or these flags"
    ]


def _doubts(options: AdoptOptions) -> list[str]:
    """What was said and is hardly meant: mean and std of pixels from 0 to 1 where grey levels are asked for."""
    small = [
        f"--{key} {','.join(f'{value:g}' for value in given)}"
        for key, given, neutral in (("mean", options.mean, 0.0), ("std", options.std, 1.0))
        if given and max(given) <= 1 and set(given) != {neutral}
    ]
    if not small:
        return []
    return [
        f"warning: {' and '.join(small)} are small for grey levels from 0 to 255; if they are meant for pixels from 0 to 1, multiply by 255"
    ]
