"""jetlens export: a checkpoint or a named network to a deployable ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    model: Annotated[
        str, typer.Argument(metavar="NAME|CHECKPOINT", help="A torchvision network, such as resnet18, or a trained checkpoint.")
    ],
    weights: Annotated[Path | None, typer.Option(help="A state_dict (.pth, .safetensors) in place of torchvision's own weights.")] = None,
    network: Annotated[str | None, typer.Option(help="module:factory, for a checkpoint of a network of your own.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; NAME.onnx here if not given.")] = None,
    taps: Annotated[bool, typer.Option("--taps", help="Also write NAME.taps.onnx, which answers with the raw outputs besides.")] = False,
    untrained: Annotated[bool, typer.Option("--untrained", help="Export random weights: for measuring speed only.")] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset; every TensorRT from 8.6 on takes 17.")] = 17,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn a checkpoint or a named network into a deployable ONNX graph.

    The graph takes uint8 pictures and gives decoded answers; it is kept only if it answers as PyTorch does.
    """
    from jetlens.export.onnx import export_model, taps_path
    from jetlens.export.trained import network_to_export
    from jetlens.export.verify import Verification

    built, spec = network_to_export(model, weights, untrained=untrained, own_network=network)
    target = output if output is not None else Path(f"{spec.name}.onnx")
    checks: list[Verification] = []
    written = export_model(built, spec, target, taps=taps, opset=opset, allow_random=untrained, report=checks.append)
    check = checks[0]
    if as_json:
        figures = {"raw": check.raw, "box_px": check.box_px, "mask_agreement": check.mask_agreement, "images": check.images}
        record = {"path": str(target), "task": written.task, "sha256": written.sha256, "opset": opset, "deviation": figures}
        typer.echo(json.dumps(record | ({"taps": str(taps_path(target))} if taps else {}), ensure_ascii=False))
        return
    (image,), (answer,) = written.inputs, written.outputs
    size_mib = target.stat().st_size / 2**20
    typer.echo(f"{target}: {written.task}, {size_mib:.1f} MiB, opset {opset}")
    typer.echo(f"  input   {image.name} {image.dtype} {list(image.shape)}")
    typer.echo(f"  output  {answer.name} {answer.dtype} {list(answer.shape)}")
    typer.echo(f"  checked against PyTorch: {check}")
    if taps:
        typer.echo(f"  twin    {taps_path(target)}")
