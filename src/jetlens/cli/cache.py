"""`jetlens cache`: the TensorRT engines that are kept, why one would be built, and how to be rid of them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jetlens.cli import flags
from jetlens.engines import cache
from jetlens.engines.cache import Entry
from jetlens.engines.key import model_name
from jetlens.engines.options import BuildOptions
from jetlens.engines.trust import distrust, trusted_plans
from jetlens.errors import UsageError
from jetlens.folders import cache_folder

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, explain and prune the TensorRT engines that are kept.")

_JSON = typer.Option("--json", help="Print one JSON object an engine.")
_SHOWN = ("batch", "gpu", "tensorrt", "driver")


@app.command("ls")
def list_engines(as_json: Annotated[bool, _JSON] = False) -> None:
    """Show every engine, for what it was built, whether it is whole and signed, and the engines elsewhere that you vouched for."""
    rows = cache.entries()
    vouched = trusted_plans()
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_record(row)))
        for plan in vouched:
            typer.echo(json.dumps({"name": plan.name, "sha256": plan.sha256, "bytes": plan.plan_bytes, "trusted": plan.created}))
        return
    folder = cache_folder("engines")
    if rows:
        _show(rows)
        typer.echo(f"{len(rows)} engines, {sum(row.size for row in rows) / 2**20:.1f} MiB in {folder}")
    else:
        typer.echo(f"no engines in {folder}; the first run with --backend tensorrt builds one")
    for plan in vouched:
        typer.echo(
            f"trusted since {plan.created[:10]}: {plan.name}, sha256 {plan.sha256[:12]} (jetlens cache prune --trusted takes it back)"
        )


def _show(rows: list[Entry]) -> None:
    table = Table("model", "precision", *_SHOWN, "MiB", "last used", "state", box=None, pad_edge=False)
    for row in rows:
        key = row.manifest.key if row.manifest else {}
        precision = row.manifest.facts.precision if row.manifest else ""
        used = datetime.fromtimestamp(row.used_s).strftime("%Y-%m-%d") if row.used_s else ""
        cells = (row.name, precision, *(key.get(name, "") for name in _SHOWN), f"{row.size / 2**20:.1f}", used, row.problem or "ok")
        table.add_row(*map(Text, cells))
    Console(highlight=False).print(table)


@app.command("why")
def why(
    model: Annotated[str, typer.Argument(help="An .onnx file or a model's name.")],
    batch: Annotated[str, typer.Option(metavar="MIN:OPT:MAX", help="Smallest, usual and largest batch.")] = "1:1:1",
    precision: Annotated[str | None, typer.Option(help="fp16 or int8: the file NAME.fp16.onnx or NAME.int8.onnx beside the model.")] = None,
    workspace: Annotated[int, typer.Option(metavar="MIB", help="Scratch memory that the builder may use.")] = 1024,
    optimization_level: Annotated[int | None, typer.Option(help="0 (fastest build) to 5 (fastest engine).")] = None,
    dla_core: Annotated[int | None, typer.Option(help="Core of a Jetson's deep learning accelerator.")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine that later TensorRT versions load too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the engine of a model is kept, and if not, which fact differs from the nearest one that is; builds nothing."""
    from jetlens.cli.build import graph_path

    path = graph_path(model, precision)
    options = BuildOptions(
        batch=flags.batch(batch),
        workspace_mib=workspace,
        optimization_level=optimization_level,
        dla_core=dla_core,
        version_compatible=version_compatible,
    )
    content = path.read_bytes()
    answer = cache.why(content, options, name=model_name(content))
    if as_json:
        changes = [{"field": row.field, "cached": row.cached, "asked": row.asked} for row in answer.differences]
        entry = None if answer.entry is None else _record(answer.entry)
        record = {"model": str(path), "cached": answer.cached, "reason": answer.reason, "differences": changes, "unknown": answer.unknown}
        typer.echo(json.dumps({**record, "nearest": entry}))
        return
    typer.echo(f"{path.name}: {'' if answer.cached else 'would be built: '}{answer.reason}")
    if answer.entry is not None:
        typer.echo(f"  {'engine' if answer.cached else 'nearest'}  {answer.entry.path}")
    if answer.unknown:
        typer.echo(f"  unknown on this machine: {', '.join(answer.unknown)}")


@app.command("prune")
def prune(
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", min=0, help="Remove engines that were not used for so long.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every engine, and the timings of layers.")] = False,
    model: Annotated[str | None, typer.Option(help="Only engines of this model: a name or an .onnx file.")] = None,
    trusted: Annotated[bool, typer.Option("--trusted", help="Take back the trust in adopted engines, of all or of one --model.")] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Remove engines: damaged ones and those for another GPU, driver or TensorRT, unless a flag says which."""
    if trusted:
        if everything or older_than is not None:
            raise UsageError("--trusted goes with --model alone; leave --all and --older-than away")
        _take_back(model, as_json)
        return
    if everything and older_than is not None:
        raise UsageError("--all and --older-than say two things; give one of them")
    name = None if model is None else Path(model).stem if model.lower().endswith(".onnx") else model
    # A name alone means all of its engines.
    gone = cache.prune(older_than_days=older_than, name=name, everything=everything or (name is not None and older_than is None))
    if as_json:
        for row in gone:
            typer.echo(json.dumps(_record(row)))
        return
    for row in gone:
        typer.echo(f"removed {row.path.name}{f' ({row.problem})' if row.problem else ''}")
    typer.echo(f"{len(gone)} engines removed, {sum(row.size for row in gone) / 2**20:.1f} MiB freed")


def _take_back(model: str | None, as_json: bool) -> None:
    for plan in trusted_plans():
        if model in (None, plan.name):
            distrust(plan.sha256)
            gone = {"name": plan.name, "sha256": plan.sha256}
            typer.echo(json.dumps(gone) if as_json else f"no longer trusted: {plan.name}, sha256 {plan.sha256[:12]}")


def _record(row: Entry) -> dict[str, Any]:
    manifest = row.manifest
    facts = manifest.facts if manifest else None
    return {
        "path": str(row.path),
        "name": row.name,
        "bytes": row.size,
        "last_used": datetime.fromtimestamp(row.used_s).astimezone().isoformat(timespec="seconds") if row.used_s else None,
        "problem": row.problem or None,
        "precision": facts.precision if facts else None,
        "created": manifest.created if manifest else None,
        "build_s": facts.build_s if facts else None,
        "sha256": manifest.sha256 if manifest else None,
        "key": dict(manifest.key) if manifest else None,
    }
