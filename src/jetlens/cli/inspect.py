"""`jetlens inspect`: what a model file is, takes and answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from jetlens.cli import flags
from jetlens.cli.inspect_plan import plan_record, show_plan
from jetlens.cli.terminal import facts_table, tensor_text
from jetlens.engines.plan import SUFFIXES
from jetlens.errors import ModelError, SidecarError
from jetlens.graph import GraphFacts, read_graph
from jetlens.predictor import check_contract, model_path
from jetlens.spec import METADATA_KEY, ModelSpec, PreprocessSpec, sidecar_path

__all__ = ["command"]

_SHOWN_LABELS = 12
_SHOWN_OPERATORS = 8


def command(
    model: Annotated[str, typer.Argument(help="An .onnx file, a TensorRT engine (.plan, .engine, .trt) or a model's name.")],
    weights: flags.WeightsFlag = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model file is, takes and answers, with or without a sidecar; exits with 1 if the sidecar is not this file's."""
    path = model_path(model, weights)
    content = path.read_bytes()
    if path.suffix.lower() in SUFFIXES:
        record = plan_record(path, content)
        if as_json:
            typer.echo(json.dumps(record))
        else:
            show_plan(record)
        return
    if not content:
        raise ModelError(f"{path}: the model file is empty; export or copy it again")
    graph = read_graph(content, str(path))
    digest = hashlib.sha256(content).hexdigest()
    spec, problem = _sidecar(path, digest, graph)
    if as_json:
        typer.echo(json.dumps(_facts(path, content, digest, graph, spec, problem)))
    else:
        _show(path, content, digest, graph, spec, _status(path, graph, spec, problem))
    if problem is not None:
        raise problem


def _sidecar(path: Path, digest: str, graph: GraphFacts) -> tuple[ModelSpec | None, SidecarError | None]:
    """The sidecar's spec if there is one, and what is wrong with it."""
    file = sidecar_path(path)
    if not file.is_file():
        return None, None
    spec = None
    try:
        spec = ModelSpec.from_json(file.read_bytes(), origin=str(file))
        if spec.sha256 != digest:
            raise SidecarError(
                f"{file.name} belongs to another file (sha256 {spec.sha256[:12]}, {path.name} has {digest[:12]}): copy the right pair"
            )
        check_contract(graph, spec, path.name)
    except SidecarError as error:
        return spec, error
    return spec, None


def _status(path: Path, graph: GraphFacts, spec: ModelSpec | None, problem: SidecarError | None) -> str:
    """Whether the sidecar is there and this file's."""
    if problem is not None:
        return "wrong, see below"
    if spec is None:
        return f"none; to run the model write one: jetlens adopt {path}"
    own = ", and agrees with the one in the graph" if METADATA_KEY in graph.metadata else ""
    return f"{sidecar_path(path).name}, hash matches{own}"


def _facts(
    path: Path, content: bytes, digest: str, graph: GraphFacts, spec: ModelSpec | None, problem: SidecarError | None
) -> dict[str, Any]:
    return {
        "path": str(path),
        "bytes": len(content),
        "sha256": digest,
        "sidecar": "wrong" if problem else "missing" if spec is None else "ok",
        "problem": None if problem is None else str(problem),
        "producer": graph.producer,
        "ir_version": graph.ir_version,
        "opsets": dict(graph.opsets),
        "precision": graph.precision,
        "parameters": sum(graph.parameters.values()),
        "operators": dict(graph.operators),
        "external": list(graph.external),
        "metadata": sorted(graph.metadata),
        "inputs": [dataclasses.asdict(row) for row in graph.inputs],
        "outputs": [dataclasses.asdict(row) for row in graph.outputs],
        "spec": None if spec is None else json.loads(spec.to_json()),
    }


def _show(path: Path, content: bytes, digest: str, graph: GraphFacts, spec: ModelSpec | None, status: str) -> None:
    rows = (*_file_rows(path, content, digest, graph), ("sidecar", status), *(_spec_rows(spec) if spec else ()))
    Console().print(facts_table(rows))


def _file_rows(path: Path, content: bytes, digest: str, graph: GraphFacts) -> list[tuple[str, str]]:
    most = sorted(graph.operators.items(), key=lambda item: -item[1])
    operators = ", ".join(f"{count} {name}" for name, count in most[:_SHOWN_OPERATORS]) + (", ..." if len(most) > _SHOWN_OPERATORS else "")
    opsets = ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())
    rows = [
        ("file", str(path)),
        ("size", f"{len(content) / 2**20:.2f} MiB, {sum(graph.parameters.values()):,} parameters"),
        ("sha256", digest),
        ("graph", f"opset {opsets}, IR {graph.ir_version}, precision {graph.precision}, by {graph.producer or 'an unnamed program'}"),
        ("operators", f"{sum(graph.operators.values())}: {operators}"),
        *(("input", tensor_text(row.name, row.dtype, row.shape)) for row in graph.inputs),
        *(("output", tensor_text(row.name, row.dtype, row.shape)) for row in graph.outputs),
    ]
    if graph.external:
        rows.append(("refused", f"{len(graph.external)} tensors are kept in other files; save the model as one file to run it"))
    return rows


def _spec_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    labels = ", ".join(label or "(gap)" for label in spec.labels[:_SHOWN_LABELS]) + (", ..." if len(spec.labels) > _SHOWN_LABELS else "")
    options = f" {json.dumps(dict(spec.decoder_options))}" if spec.decoder_options else ""
    rows = [
        ("name", spec.name),
        ("task", spec.task),
        ("labels", f"{len(spec.labels)}: {labels}"),
        ("resize", _resize(spec.preprocess)),
        ("normalise", _normalise(spec.preprocess)),
        ("decoder", f"{spec.decoder}{options}" + (f", label offset {spec.label_offset}" if spec.label_offset else "")),
    ]
    if spec.task == "detection":
        rows.append(("thresholds", f"confidence {spec.confidence}, IoU {spec.iou}"))
    for name, facts in (("weights", spec.weights), ("accuracy", spec.accuracy)):
        if facts:
            rows.append((name, ", ".join(f"{key} {value}" for key, value in facts.items())))
    return rows


def _resize(rule: PreprocessSpec) -> str:
    height, width = rule.size_hw
    detail = {
        "stretch": "",
        "letterbox": f", {rule.anchor}, padded with {rule.pad_value}",
        "crop": f", short side to {rule.short_side or min(rule.size_hw)}, centre cut out",
    }[rule.resize]
    frames = f", in the graph, from frames of {rule.frame_hw[0]}x{rule.frame_hw[1]}" if rule.frame_hw else ""
    return f"{rule.resize} to {height}x{width} (height x width), filter {rule.filter}{detail}{frames}"


def _normalise(rule: PreprocessSpec) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (rule.mean, rule.std))
    where = "in the graph" if rule.baked else f"on the host, to {rule.dtype} {rule.layout}"
    return f"{rule.channel_order}, minus [{mean}], divided by [{std}], {where}"
