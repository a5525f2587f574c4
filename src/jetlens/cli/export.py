"""jetlens export: a checkpoint or a named network to a deployable ONNX graph, and such a graph to fp16, to int8 or to a camera's frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from jetlens.cli.export_flags import Flags, Lowered, Request, read_flags

__all__ = ["command"]

_OWN, _KIND, _LOWER = "A network of your own", "Kind of graph", "Precision"


Say = Callable[[str], None]
Record = dict[str, Any]


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|CHECKPOINT|MODULE:FACTORY|FILE.onnx",
            help="A torchvision network, such as resnet18, a trained checkpoint, a network of your own, or a deployable graph to lower or reframe.",
        ),
    ],
    weights: Annotated[Path | None, typer.Option(help="A state_dict (.pth, .safetensors) in place of torchvision's own weights.")] = None,
    network: Annotated[str | None, typer.Option(help="module:factory, for a checkpoint of a network of your own.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; NAME.onnx here if not given.")] = None,
    taps: Annotated[bool, typer.Option("--taps", help="Also write NAME.taps.onnx, which answers with the raw outputs besides.")] = False,
    untrained: Annotated[bool, typer.Option("--untrained", help="Export random weights: for measuring speed only.")] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset, 11 to 20; every TensorRT from 8.6 on takes 17.")] = 17,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size; the network's own if not given.", rich_help_panel=_KIND)
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N|dynamic", help="Pictures in one run; dynamic, and 1 with --plain.", rich_help_panel=_KIND)
    ] = None,
    frame_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Take raw frames of a camera and resize them in the graph.", rich_help_panel=_KIND)
    ] = None,
    input_kind: Annotated[
        str | None, typer.Option("--input", help="uint8-nhwc (pictures) or nchw-float (normalised, for DeepStream).", rich_help_panel=_KIND)
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Float NCHW input, raw outputs, no description inside; batch 1.", rich_help_panel=_KIND)
    ] = False,
    input_name: Annotated[str | None, typer.Option(help="Of a graph that takes floats; images.", rich_help_panel=_KIND)] = None,
    output_name: Annotated[
        str | None, typer.Option(help="Of a graph that takes floats; several with commas.", rich_help_panel=_KIND)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or int8: NAME.int8.onnx beside the fp32 file.", rich_help_panel=_LOWER)
    ] = "fp32",
    data: Annotated[str | None, typer.Option(help="Labelled pictures that fp16 or int8 must pass.", rich_help_panel=_LOWER)] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of --data, where it does not show.", rich_help_panel=_LOWER)] = None,
    calibration: Annotated[str | None, typer.Option(help="Pictures that set int8's ranges.", rich_help_panel=_LOWER)] = None,
    calibration_method: Annotated[
        str | None, typer.Option(help="minmax, entropy or percentile; percentile.", rich_help_panel=_LOWER)
    ] = None,
    calibration_count: Annotated[int | None, typer.Option(min=1, help="Pictures of --calibration; 256.", rich_help_panel=_LOWER)] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="POINTS", min=0, max=100, help="Largest accuracy drop; 0.5.", rich_help_panel=_LOWER)
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Labelled pictures to test on; 1,000 at most.", rich_help_panel=_LOWER)] = None,
    recipe: Annotated[str | None, typer.Option(help="Way of quantizing, for tests of runtimes.", rich_help_panel=_LOWER)] = None,
    task: Annotated[str | None, typer.Option(help="classification, detection or segmentation.", rich_help_panel=_OWN)] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE|N", help="A file of names, a list that ships, or a number.", rich_help_panel=_OWN)
    ] = None,
    mean: Annotated[str | None, typer.Option(metavar="A,B,C", help="Subtracted from each channel, 0-255.", rich_help_panel=_OWN)] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="Divides each channel, 0-255.", rich_help_panel=_OWN)] = None,
    order: Annotated[str | None, typer.Option(help="Channel order: rgb, bgr or gray.", rich_help_panel=_OWN)] = None,
    resize: Annotated[str | None, typer.Option(help="stretch, letterbox or crop.", rich_help_panel=_OWN)] = None,
    filter: Annotated[str | None, typer.Option(help="antialias (Pillow, torchvision) or linear (cv2).", rich_help_panel=_OWN)] = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="With --resize crop: before the cut.", rich_help_panel=_OWN)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn a checkpoint or a named network into a deployable ONNX graph.

    The graph takes uint8 pictures and gives decoded answers; it is kept only if it answers as PyTorch does.
    """
    typed = dict(locals())
    del typed["as_json"]
    request = read_flags(Flags(**typed))
    with TemporaryDirectory(prefix="jetlens-export-") as scratch:
        record = _run(request, Path(scratch), _silent if as_json else typer.echo)
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))


def _silent(line: str) -> None:
    """Nothing but the object is printed with --json."""


def _run(request: Request, scratch: Path, say: Say) -> Record:
    """Exports, then lowers, then reframes, as far as each is asked for; what the user gets is written by the last step."""
    framed = request.frame_hw is not None
    precision = request.precision
    if request.is_graph:
        from jetlens.predictor import model_path

        base = model_path(request.flags.model)
        target = request.flags.output or _beside(request, base)
        record: Record = {"path": str(target), "source": str(base)}
        files = [] if precision else [(base, target)]
    else:
        target, base, record = _export(request, scratch, say)
        files = [(base, target)]
    if precision:
        final = target if request.is_graph else target.with_name(f"{target.stem}.{precision}.onnx")
        made = scratch / final.name if framed else final
        record["precision"] = _lower(request.flags, precision, base, made, say)
        files.append((made, final))
    if request.frame_hw is not None:
        if "taps" in request.given:
            files.append((_taps(base), _taps(target)))
        record["frames"] = [_reframe(made, request.frame_hw, final, say) for made, final in files]
        record["sha256"] = record["frames"][0]["sha256"]
    return record


def _export(request: Request, scratch: Path, say: Say) -> tuple[Path, Path, Record]:
    """The fp32 graph of a network: the file that the user gets, the one that was written, and its record."""
    from jetlens.export.onnx import DEPLOYABLE, Form, export_model
    from jetlens.export.own import own_network
    from jetlens.export.trained import network_to_export
    from jetlens.export.verify import Verification

    flags = request.flags
    if request.is_own:
        built, spec, assumed = own_network(flags.model, flags.weights, request.own)
        for line in assumed:
            say(line)
    else:
        built, spec = network_to_export(
            flags.model, flags.weights, untrained=flags.untrained, own_network=flags.network, size_hw=request.own.size_hw
        )
    target = request.flags.output or Path(f"{spec.name}.onnx")
    base = scratch / target.name if request.frame_hw else target
    form = DEPLOYABLE
    if request.floats:
        names = tuple(name.strip() for name in (flags.output_name or "").split(",")) if flags.output_name else ()
        form = Form(True, flags.plain, flags.input_name or DEPLOYABLE.input_name, names)
    checks: list[Verification] = []
    result = export_model(
        built,
        spec,
        base,
        taps=flags.taps,
        batch=request.batch,
        opset=flags.opset,
        form=form,
        allow_random=flags.untrained,
        report=checks.append,
    )
    check = checks[0]
    figures = {"raw": check.raw, "box_px": check.box_px, "mask_agreement": check.mask_agreement, "images": check.images}
    record = {"path": str(target), "task": result.task, "sha256": result.sha256, "opset": flags.opset, "deviation": figures}
    say(f"{target}: {result.task}, {base.stat().st_size / 2**20:.1f} MiB, opset {flags.opset}")
    for kind, rows in (("input ", result.inputs), ("output", result.outputs)):
        for row in rows:
            say(f"  {kind}  {row.name} {row.dtype} {list(row.shape)}")
    say(f"  checked against PyTorch: {check}")
    if flags.taps:
        say(f"  twin    {_taps(target)}")
        record["taps"] = str(_taps(target))
    return target, base, record


def _lower(flags: Flags, precision: Lowered, base: Path, target: Path, say: Say) -> Record:
    """The fp16 or int8 graph of an fp32 one, kept only if it passes its budget."""
    from jetlens.precision import Budget, make

    budget = Budget() if flags.budget is None else Budget(drop=flags.budget / 100)
    options = {
        key: value
        for key in ("data", "layout", "calibration", "calibration_count", "count", "recipe")
        if (value := getattr(flags, key)) is not None
    }
    options |= {"method": flags.calibration_method} if flags.calibration_method else {}
    report = make(base, precision, output=target, budget=budget, report=say, **options)
    for line in report.lines():
        say(line)
    return report.to_dict()


def _reframe(made: Path, frame_hw: tuple[int, int], target: Path, say: Say) -> Record:
    from jetlens.export.frame_size import add_frame_size

    spec, check = add_frame_size(made, frame_hw, target)
    (taken,) = spec.inputs
    say(f"{target}: takes frames {taken.name} {taken.dtype} {list(taken.shape)}")
    say(f"  {check}")
    return {"path": str(target), "sha256": spec.sha256, "levels": check.levels, "equal": check.equal, "answers": check.apart}


def _beside(request: Request, base: Path) -> Path:
    """What is made of a graph, named after it: beside it, or here for a model that ships."""
    folder = base.parent if Path(request.flags.model).suffix else Path()
    parts = [base.stem]
    if request.frame_hw:
        parts.append("{}x{}".format(*request.frame_hw))
    if request.precision:
        parts.append(request.precision)
    return folder / (".".join(parts) + ".onnx")


def _taps(path: Path) -> Path:
    from jetlens.export.onnx import taps_path

    return taps_path(path)
