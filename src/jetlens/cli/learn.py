"""`jetlens learn`: teaching views of networks and of classical operations, each a picture with its explanation and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

if TYPE_CHECKING:
    from jetlens.frame import Image
    from jetlens.learn.lesson import Lesson
    from jetlens.learn.views import View
    from jetlens.media import Source

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="See on a picture what convolutions, activations and the like do.")

_Picture = Annotated[
    str | None, typer.Argument(metavar="PICTURE", help="An image file or address; the orange line if not given.", show_default=False)
]
_Batch = Annotated[
    list[str] | None,
    typer.Argument(metavar="PICTURE...", help="A batch of pictures; six of the orange line if not given.", show_default=False),
]
_Stream = Annotated[
    str | None,
    typer.Argument(metavar="INPUT", help="Image, video, folder, camera or test://orange-line; a still if not given.", show_default=False),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the numbers as one JSON object.")]
_Model = Annotated[str, typer.Option("--model", help="A shipped model, an .onnx file, a checkpoint, or a network's name.")]
_Weights = Annotated[Path | None, typer.Option("--weights", help="A weights file for a torchvision network's name.")]
_Untrained = Annotated[bool, typer.Option("--untrained", help="Take random weights.")]
_Network = Annotated[str | None, typer.Option("--network", help="module:factory of a checkpoint of your own network.")]
_Layer = Annotated[str | None, typer.Option("--layer", help="A layer; the first activation if not given.")]
_Output = Annotated[Path, typer.Option("--output", help="The picture to write, .png.")]
_ViewOutput = Annotated[Path | None, typer.Option("--output", help="The picture (.png, .jpg ...), video (.mp4 ...) or folder to write.")]
_Frames = Annotated[int | None, typer.Option("--frames", min=1, help="Of a stream, the first so many frames.")]


@app.command()
def convolution(
    picture: _Picture = None,
    kernel: Annotated[
        str,
        typer.Option(
            "--kernel", help='sobel-x, sobel-y, laplacian, sharpen, blur, gaussian, emboss ..., or rows of numbers: "-1,0,1;-2,0,2;-1,0,1".'
        ),
    ] = "sobel-x",
    stride: Annotated[int, typer.Option("--stride", min=1, max=32, help="Pixels from one position to the next.")] = 1,
    padding: Annotated[
        int | None, typer.Option("--padding", min=0, max=64, help="Zeros around the picture; half the kernel if not given.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="ROW,COLUMN of the result to show step by step.")] = None,
    output: _Output = Path("convolution.png"),
    as_json: _Json = False,
) -> None:
    """Slide a kernel over a picture: products and sums step by step, and the same by PyTorch and OpenCV."""
    from jetlens.learn.convolution import convolution as lesson
    from jetlens.learn.kernels import read_kernel
    from jetlens.learn.lesson import check_output
    from jetlens.learn.pictures import picture as read

    weights, name = read_kernel(kernel)
    check_output(output, picture)
    _tell(lesson(read(picture)[0], weights, name, output, stride=stride, padding=padding, at=at), as_json)


@app.command()
def activations(
    at: Annotated[str, typer.Option("--at", help="Where the table has values, with commas between.")] = "-3,-1,-0.5,0,0.5,1,3",
    output: _Output = Path("activations.png"),
    as_json: _Json = False,
) -> None:
    """Compare ReLU, leaky ReLU, ELU, sigmoid and tanh, and their derivatives."""
    from jetlens.errors import UsageError
    from jetlens.learn.activations import activations as lesson
    from jetlens.learn.lesson import check_output

    try:
        points = [float(word) for word in at.split(",")]
    except ValueError:
        raise UsageError(f"--at {at[:60]!r}: give numbers with commas between, such as -2,0,2") from None
    _tell(lesson(check_output(output), points), as_json)


@app.command()
def pooling(
    picture: _Picture = None,
    model: _Model = "orange-grade",
    layer: _Layer = None,
    channel: Annotated[
        int | None, typer.Option("--channel", min=0, help="A map of the layer; the one that varies most if not given.")
    ] = None,
    window: Annotated[int, typer.Option("--window", min=1, max=8, help="Side of the window.")] = 2,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, max=32, help="From window to window; the window's side if not given.")
    ] = None,
    weights: _Weights = None,
    untrained: _Untrained = False,
    network: _Network = None,
    output: _Output = Path("pooling.png"),
    as_json: _Json = False,
) -> None:
    """Pool a real feature map: maximum, average and global average, and the same by the libraries."""
    from jetlens.learn.inside import look_inside
    from jetlens.learn.lesson import check_output
    from jetlens.learn.pooling import pooling as lesson

    check_output(output, picture)
    inside = look_inside(model, weights=weights, untrained=untrained, own_network=network)
    image = _pictures(inside.spec.task, [picture] if picture else [])[0]
    _tell(lesson(inside, image, output, layer=layer, channel=channel, window=window, stride=stride), as_json)


@app.command()
def normalization(
    pictures: _Batch = None,
    model: _Model = "orange-grade",
    layer: _Layer = None,
    groups: Annotated[int | None, typer.Option("--groups", min=1, help="Of group norm; up to 8 if not given.")] = None,
    weights: _Weights = None,
    untrained: _Untrained = False,
    network: _Network = None,
    output: _Output = Path("normalization.png"),
    as_json: _Json = False,
) -> None:
    """Normalise a real feature map: batch, layer, group and instance norm, and the same by the libraries."""
    from jetlens.learn.inside import look_inside
    from jetlens.learn.lesson import check_output
    from jetlens.learn.normalization import normalization as lesson

    check_output(output, *(pictures or []))
    inside = look_inside(model, weights=weights, untrained=untrained, own_network=network)
    _tell(lesson(inside, _pictures(inside.spec.task, pictures or [], 6), output, layer=layer, groups=groups), as_json)


@app.command()
def features(
    picture: _Picture = None,
    model: _Model = "orange-grade",
    layer: _Layer = None,
    cam_layer: Annotated[
        str | None, typer.Option("--cam-layer", help="Layer of the class activation map; the last before pooling if not given.")
    ] = None,
    class_text: Annotated[
        str | None, typer.Option("--class", help="Class id or label of the class activation map; the model's answer if not given.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List the layers and stop.")] = False,
    weights: _Weights = None,
    untrained: _Untrained = False,
    network: _Network = None,
    output: _Output = Path("features.png"),
    as_json: _Json = False,
) -> None:
    """Show the feature maps of a layer and, for a classifier, where the picture speaks for a class."""
    from jetlens.learn.features import features as lesson
    from jetlens.learn.features import layer_list
    from jetlens.learn.inside import look_inside
    from jetlens.learn.lesson import check_output

    check_output(output, picture)
    inside = look_inside(model, weights=weights, untrained=untrained, own_network=network)
    if layers:
        typer.echo(json.dumps(dict(inside.layers)) if as_json else "\n".join(layer_list(inside)))
        return
    image = _pictures(inside.spec.task, [picture] if picture else [])[0]
    _tell(lesson(inside, image, output, layer=layer, cam_layer=cam_layer, class_text=class_text), as_json)


@app.command()
def architecture(
    model: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Ours or torchvision's by name, a checkpoint, an .onnx file, or module:factory.")
    ],
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, help="Of a network that is built; what is usual for it if not given.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="Height x width of its pictures.")] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, max=64, help="Of its pictures.")] = 3,
    network: _Network = None,
    output: _Output = Path("architecture.png"),
    as_json: _Json = False,
) -> None:
    """Draw a network and list its layers with output shapes, parameters and multiplications."""
    from jetlens.cli.flags import size_hw
    from jetlens.learn.architecture import NetworkOptions
    from jetlens.learn.architecture import architecture as lesson
    from jetlens.learn.lesson import check_output

    options = NetworkOptions(classes, None if size is None else size_hw(size, "224x224"), channels, network)
    _tell(lesson(model, check_output(output), options), as_json)


@app.command()
def edges(
    source: _Stream = None,
    low: Annotated[float, typer.Option("--low", help="Canny goes on where the gradient is so large.")] = 50.0,
    high: Annotated[float, typer.Option("--high", help="Canny begins where the gradient is so large.")] = 120.0,
    sigma: Annotated[float, typer.Option("--sigma", min=0, max=50, help="Gaussian blur before, in pixels; 0 for none.")] = 1.0,
    output: _ViewOutput = None,
    frames: _Frames = None,
    as_json: _Json = False,
) -> None:
    """Find edges: Sobel, Laplacian and Canny, on a picture or on every frame of a stream."""
    from jetlens.learn.edges import Edges

    _show(Edges(low, high, sigma), source, output, frames, as_json)


@app.command()
def colors(
    source: _Stream = None,
    hue: Annotated[str, typer.Option("--hue", help="FROM-TO in degrees; 340-20 goes through red.")] = "10-50",
    saturation: Annotated[float, typer.Option("--saturation", min=0, max=1, help="Least saturation of what is kept.")] = 0.4,
    value: Annotated[float, typer.Option("--value", min=0, max=1, help="Least value of what is kept.")] = 0.25,
    output: _ViewOutput = None,
    frames: _Frames = None,
    as_json: _Json = False,
) -> None:
    """Take colours apart: RGB, gray, HSV and LAB channels, and what lies in a range of hue."""
    from jetlens.learn.colors import Colors, hue_range

    _show(Colors(hue_range(hue), saturation, value), source, output, frames, as_json)


@app.command()
def keypoints(
    source: _Stream = None,
    match: Annotated[str | None, typer.Option("--match", help="A picture to match with; the same one, turned, if not given.")] = None,
    method: Annotated[str, typer.Option("--method", help="orb or sift, whose points are matched.")] = "orb",
    most: Annotated[int, typer.Option("--most", min=1, max=10000, help="Points of each kind.")] = 400,
    output: _ViewOutput = None,
    frames: _Frames = None,
    as_json: _Json = False,
) -> None:
    """Find keypoints: ORB, SIFT and Shi-Tomasi corners, and those that match in two pictures or from frame to frame."""
    from jetlens.errors import UsageError
    from jetlens.learn.keypoints import Keypoints
    from jetlens.learn.pictures import picture, reduced

    with _opened(source) as (opened, name):
        if match is not None and not isinstance(opened, np.ndarray):
            raise UsageError(f"--match goes with a picture; the frames of {name} are matched with each other")
        other = None if match is None else reduced(picture(match)[0])
        view = Keypoints(most, method, other, stream=not isinstance(opened, np.ndarray))
        _show_opened(view, opened, _target(view.name, opened, source, output, match), frames, as_json)


def _show(view: View, source: str | None, output: Path | None, frames: int | None, as_json: bool) -> None:
    """Opens the input and shows the view of it."""
    with _opened(source) as (opened, _):
        _show_opened(view, opened, _target(view.name, opened, source, output), frames, as_json)


@contextmanager
def _opened(source: str | None) -> Iterator[tuple[Image | Source, str]]:
    """The input and its name; a stream is closed in the end."""
    from jetlens.learn.pictures import open_input

    opened, name = open_input(source)
    with nullcontext() if isinstance(opened, np.ndarray) else opened:
        yield opened, name


def _target(name: str, opened: Image | Source, source: str | None, output: Path | None, *others: str | None) -> Path:
    """Where the view goes: never over an input."""
    from jetlens.learn.lesson import check_apart
    from jetlens.learn.showing import default_output

    return check_apart(output or default_output(name, opened), source, *others)


def _show_opened(view: View, opened: Image | Source, target: Path, frames: int | None, as_json: bool) -> None:
    from jetlens.cli.progress import StreamProgress
    from jetlens.learn.showing import show_picture, show_stream
    from jetlens.learn.views import opencv

    opencv()
    if isinstance(opened, np.ndarray):
        _tell(show_picture(view, opened, target), as_json)
        return
    total = frames if opened.info.frames is None else min(opened.info.frames, frames or opened.info.frames)
    with StreamProgress(view.name, total) as progress:
        lesson = show_stream(view, opened, target, frames=frames, advance=progress.advance)
    _tell(lesson, as_json)


def _pictures(task: str, given: list[str], count: int = 1) -> list[Image]:
    """The user's pictures, or some that suit the task: single fruit for a classifier, the whole line for others."""
    from jetlens.learn import pictures

    if given:
        return [pictures.picture(text)[0] for text in given]
    if task == "classification":
        return pictures.fruits(count) if count > 1 else [pictures.fruit()]
    return pictures.stills(count)


def _tell(lesson: Lesson, as_json: bool) -> None:
    """Prints a lesson, or its numbers."""
    from jetlens.cli.terminal import printable

    if as_json:
        typer.echo(json.dumps({"title": lesson.title, **lesson.numbers, "files": [str(path) for path in lesson.files]}, ensure_ascii=False))
        return
    lines = [lesson.title, *lesson.text, "", *lesson.lines, *(f"-> {path}" for path in lesson.files)]
    for line in lines:
        typer.echo(printable(line))
