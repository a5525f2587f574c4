"""jetlens adopt: flags to the sidecar of an ONNX file or a TensorRT engine made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from jetlens.cli import flags
from jetlens.errors import UsageError
from jetlens.export.presets import PRESETS
from jetlens.spec import Anchor, ChannelOrder, Layout, ResizeFilter, ResizeRule, TaskName

__all__ = ["command"]


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The model to describe: .onnx, or a TensorRT engine (.plan, .engine, .trt).", show_default=False
        ),
    ],
    task: Annotated[str | None, typer.Option(help="classification, detection or segmentation.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="A file with one name a line, or imagenet, coco80, coco91, voc, cityscapes, cifar10.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"A well-known family: {', '.join(PRESETS)}.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="A,B,C", help="Subtracted from each channel, in grey levels 0-255.")] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="Divides each channel, in grey levels 0-255.")] = None,
    order: Annotated[str | None, typer.Option(help="Channel order: rgb, bgr or gray.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, letterbox or crop.")] = None,
    filter: Annotated[str | None, typer.Option(help="antialias (Pillow, torchvision) or linear (cv2).")] = None,
    decoder: Annotated[str | None, typer.Option(help="How to read the outputs, such as logits, yolov8 or ssd.")] = None,
    decoder_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=JSON", help="What the decoder needs besides; repeatable.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="nchw or nhwc.")] = None,
    label_offset: Annotated[int | None, typer.Option(help="Subtracted from the graph's class ids before labels are looked up.")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Input size, where the graph leaves it free.")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="With --resize crop: the short side before the crop.")] = None,
    pad: Annotated[int | None, typer.Option(min=0, max=255, help="With --resize letterbox: the grey level around the picture.")] = None,
    anchor: Annotated[str | None, typer.Option(help="With --resize letterbox: center or top-left.")] = None,
    confidence: Annotated[float | None, typer.Option(min=0, max=1, help="Default threshold of a detector.")] = None,
    iou: Annotated[float | None, typer.Option(min=0, max=1, help="Default overlap for non-maximum suppression.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; the file's if not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Copy the model to this file and write the sidecar beside it.")] = None,
    bake: Annotated[bool, typer.Option("--bake", help="Also write NAME.baked.onnx, which takes uint8 pixels.")] = False,
    try_image: Annotated[Path | None, typer.Option("--try", metavar="IMAGE", help="Show the model's answer to this picture.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Vouch for a TensorRT engine: it is code that runs when it is loaded.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a sidecar that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe an ONNX file or a TensorRT engine made elsewhere, so that every command can run it.

    What no flag says is taken from the preset, then from the graph; what neither tells is assumed and printed.
    """
    from jetlens.export.adopt import AdoptOptions, adopt
    from jetlens.imagefile import load_image

    options = AdoptOptions(
        task=flags.choice("task", task, get_args(TaskName)),
        labels=labels,
        preset=flags.choice("preset", preset, PRESETS),
        mean=flags.grey_levels("--mean", mean),
        std=flags.grey_levels("--std", std),
        order=flags.choice("channel order", order, get_args(ChannelOrder)),
        resize=flags.choice("resize rule", resize, get_args(ResizeRule)),
        filter=flags.choice("filter", filter, get_args(ResizeFilter)),
        decoder=decoder,
        layout=flags.choice("layout", layout, get_args(Layout)),
        label_offset=label_offset,
        size_hw=None if size is None else flags.size_hw(size, "480x640"),
        short_side=short_side,
        pad=pad,
        anchor=flags.choice("anchor", anchor, get_args(Anchor)),
        confidence=confidence,
        iou=iou,
        name=name,
        decoder_options=_decoder_options(decoder_option or []),
    )
    picture = None if try_image is None else load_image(try_image)
    result = adopt(model, options, output=output, bake=bake, force=force, picture=picture, trust=trust)
    _print(result, as_json, try_image)


def _decoder_options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE, where a value that is no JSON is a text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--decoder-option {pair}: give KEY=VALUE, such as strides=[8,16,32]")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def _print(result: Any, as_json: bool, tried: Path | None) -> None:
    """The notes, what was written, and the answer to the picture that was tried."""
    from jetlens.spec import sidecar_path

    answer = None if result.trial is None else result.trial.to_dict()
    if as_json:
        record = {
            "path": str(result.path),
            "task": result.spec.task,
            "decoder": result.spec.decoder,
            "classes": len(result.spec.labels),
            "notes": list(result.notes),
            "baked": None if result.baked is None else str(result.baked),
            "tried": result.tried,
            "trial": answer,
        }
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    for note in result.notes:
        typer.echo(note)
    if not result.tried:
        typer.echo("not tried on any picture: it cannot be opened here")
    elif answer is None:
        typer.echo("tried on a synthetic picture: every answer is finite; --try PHOTO shows whether it is sensible")
    else:
        typer.echo(f"tried on {tried}:")
        ((_, rows),) = answer.items()
        rows.sort(key=lambda row: -row.get("ratio", row.get("confidence", 0.0)))
        for row in rows[:8]:
            where = f"  at {[round(value) for value in row['xyxy']]}" if "xyxy" in row else ""
            share = f"{row['ratio']:.1%} of the pixels" if "ratio" in row else f"{row['confidence']:.3f}"
            typer.echo(f"  {row['label']}: {share}{where}")
        if not rows:
            typer.echo(f"  nothing above confidence {result.spec.confidence}")
    typer.echo(f"wrote {sidecar_path(result.path)}")
    if result.baked is not None:
        typer.echo(f"wrote {result.baked} (answers differ by {result.baked_deviation:.1g} of the largest)")
