"""`jetlens build`: a TensorRT engine from an ONNX model, in the cache or in a file; and what would be built where TensorRT is not."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from jetlens.atomic import write_atomic
from jetlens.cli import flags
from jetlens.cli.terminal import printable, tell, tensor_text
from jetlens.engines.api import load_tensorrt
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import SUFFIXES, Engine, PlanFacts, facts_to_dict
from jetlens.engines.trtexec import Summary, arguments, command_line, find_trtexec, run_trtexec, version_of_trtexec
from jetlens.errors import BackendError, OutputError, SidecarError, UsageError
from jetlens.graph import GraphFacts, read_graph
from jetlens.predictor import model_path, precision_path
from jetlens.spec import read_model, sidecar_path, write_sidecar

__all__ = ["command"]

_MAJORS = {"TensorRT 8.6": 8, "TensorRT 10": 10, "TensorRT 11": 11}
_STATISTICS = ("min", "mean", "median", "p90", "p95", "p99", "max")


def command(
    model: Annotated[str, typer.Argument(metavar="FILE.onnx|NAME", help="An .onnx file or a model's name.")],
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp16 or int8: builds NAME.fp16.onnx or NAME.int8.onnx beside the model.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="MIN:OPT:MAX", help="Batches that the engine takes and the one it is fastest for.")
    ] = "1:1:1",
    workspace: Annotated[int, typer.Option(metavar="MIB", help="Scratch memory that the builder may give to one layer.")] = 1024,
    optimization_level: Annotated[int | None, typer.Option(help="0 (fastest build) to 5 (fastest engine).")] = None,
    dla_core: Annotated[int | None, typer.Option(help="A Jetson's deep learning accelerator; what it cannot run goes to the GPU.")] = None,
    version_compatible: Annotated[bool, typer.Option("--version-compatible", help="Later versions of TensorRT load it too.")] = False,
    no_timing_cache: Annotated[bool, typer.Option("--no-timing-cache", help="Measure every layer anew.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="A build that takes longer is stopped.")] = 3600,
    output: Annotated[Path | None, typer.Option(metavar="FILE.plan", help="Also write the plain plan here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --output.")] = False,
    use_trtexec: Annotated[bool, typer.Option("--trtexec", help="Build and time with NVIDIA's trtexec; writes a file.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build nothing: say what would be built, what is missing, and the command.")
    ] = False,
    no_save: Annotated[bool, typer.Option("--no-save", help="Keep nothing in the cache.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build a TensorRT engine from an ONNX model; predict, run and bench find it in the cache."""
    path = graph_path(model, precision)
    content = path.read_bytes()
    graph = read_graph(content, str(path))
    graph.require_whole()
    options = BuildOptions(
        batch=flags.batch(batch),
        workspace_mib=workspace,
        optimization_level=optimization_level,
        dla_core=dla_core,
        version_compatible=version_compatible,
        timing_cache=not no_timing_cache,
        timeout_s=timeout,
        save=not no_save,
    )
    target = _target(output, path, force, needed=use_trtexec)
    job = _Job(path, content, graph, options, target)
    if dry_run:
        _print(job.dry_run(), as_json)
    elif use_trtexec:
        _print(job.with_trtexec(), as_json)
    else:
        _print(job.build(), as_json)


@dataclass(frozen=True, slots=True)
class _Job:
    """One model to build, and how.

    Attributes:
        output: the file to write the plan to; None to keep it in the cache alone.
    """

    path: Path
    content: bytes
    graph: GraphFacts
    options: BuildOptions
    output: Path | None

    def build(self) -> dict[str, Any]:
        """Builds or finds the engine, and writes it where it is wanted."""
        from jetlens.engines.cache import obtain
        from jetlens.engines.key import model_name

        try:
            load_tensorrt()
        except BackendError:
            self._say_commands()
            raise
        engine = obtain(self.content, self.options, name=model_name(self.content), report=tell)
        facts = engine.manifest.facts
        record = {
            "model": str(self.path),
            "engine": None if engine.path is None else str(engine.path),
            "reused": engine.reused,
            "why": engine.why,
            "bytes": len(engine.plan),
            "sha256": engine.manifest.sha256,
            **facts_to_dict(facts),
        }
        if self.output is not None:
            self._write(self.output, engine)
            record["output"] = str(self.output)
        return {"lines": self._lines(engine), **record}

    def with_trtexec(self) -> dict[str, Any]:
        """Runs trtexec for the same build and tells what it measured."""
        trtexec = find_trtexec()
        if trtexec is None or self.output is None:
            self._say_commands()
            raise BackendError("trtexec is not here: it comes with TensorRT (on a Jetson in /usr/src/tensorrt/bin); leave --trtexec out")
        version = _version() or version_of_trtexec(trtexec)
        plan = self.output
        log = plan.with_name(f"{plan.name}.trtexec.log")
        before = _written(plan)
        summary = run_trtexec(trtexec, self._arguments(_major(version), plan), log=log, timeout_s=self.options.timeout_s, report=tell)
        if _written(plan) in (None, before):
            raise BackendError(f"trtexec ended well and wrote no engine; its log: {log}")
        record = {"model": str(self.path), "output": str(plan), "bytes": plan.stat().st_size, "log": str(log), **asdict(summary)}
        return {"lines": _summary_lines(summary, plan, log), **record}

    def dry_run(self) -> dict[str, Any]:
        """What would be built, what this machine lacks for it, and the command for trtexec."""
        from jetlens.engines.cache import why
        from jetlens.engines.key import model_name

        missing = _missing()
        answer = why(self.content, self.options, name=model_name(self.content))
        trtexec = find_trtexec()
        commands = self._commands(trtexec)
        batch = ":".join(map(str, self.options.batch))
        lines = [
            f"{self.path.name}: {self.graph.precision} graph, batch {batch}, {self.options.workspace_mib} MiB of workspace",
            f"TensorRT: {missing or _version()}",
            f"trtexec: {trtexec or 'not found on the path, in /usr/src/tensorrt/bin or in /opt/tensorrt/bin'}",
            f"cache: {'' if answer.cached else 'it would be built: '}{answer.reason}",
            "the same build with trtexec:",
            *(f"  {f'{name}: ' if len(commands) > 1 else ''}{line}" for name, line in commands.items()),
        ]
        record = {
            "model": str(self.path),
            "precision": self.graph.precision,
            "batch": list(self.options.batch),
            "tensorrt": _version() or None,
            "missing": missing or None,
            "trtexec": None if trtexec is None else str(trtexec),
            "cached": answer.cached,
            "reason": answer.reason,
            "commands": commands,
        }
        return {"lines": lines, **record}

    def _commands(self, trtexec: Path | None) -> dict[str, str]:
        """The trtexec command by TensorRT version: of the one that is here, or of each where none is."""
        version = _version() or (version_of_trtexec(trtexec) if trtexec else "")
        majors = {f"TensorRT {version}": _major(version)} if version else _MAJORS
        plan = self.output or Path(f"{self.path.stem}.plan")
        return {name: command_line(trtexec, self._arguments(major, plan)) for name, major in majors.items()}

    def _say_commands(self) -> None:
        for name, line in self._commands(find_trtexec()).items():
            tell(f"with trtexec of {name}: {line}")

    def _arguments(self, major: int, plan: Path) -> list[str]:
        half = ["fp16"] if self.graph.parameters.get("float16") else []
        precisions = [*half, *(["int8"] if self.graph.precision == "int8" else [])]
        tactics = os.environ.get("TRT_BUNDLE_TACTICS", "")
        cache = plan.with_name("timings.cache") if self.options.timing_cache and self.options.save else None
        return arguments(
            self.path,
            plan,
            self.options,
            inputs=self.graph.inputs,
            precisions=precisions,
            major=major,
            timing_cache=cache,
            tactics=tactics,
        )

    def _lines(self, engine: Engine) -> list[str]:
        facts = engine.manifest.facts
        where = str(engine.path) if engine.path else "in memory, not kept"
        how = "reused from the cache" if engine.reused else f"built in {facts.build_s:.0f} s ({engine.why})"
        layers = f" ({', '.join(f'{count} {kind}' for kind, count in sorted(facts.layers.items()))} layers)" if facts.layers else ""
        return [
            f"{self.path.name}: {how}",
            f"engine: {where}",
            f"  {len(engine.plan) / 2**20:.2f} MiB, {facts.precision}{layers}, {facts.device_memory_mib:.1f} MiB of GPU memory a context",
            *_tensor_lines(facts),
            *(f"  note: {note}" for note in facts.notes),
            *([f"written: {self.output}"] if self.output else []),
        ]

    def _write(self, output: Path, engine: Engine) -> None:
        """Writes the plain plan, its manifest and, where the model has one, its sidecar; this machine made it, so it may run here."""
        from jetlens.engines.trust import trust

        write_atomic(output, engine.plan)
        manifest = engine.manifest
        content = {**{key: getattr(manifest, key) for key in ("name", "sha256", "created")}, "key": dict(manifest.key)}
        write_atomic(manifest_path(output), json.dumps({**content, "facts": facts_to_dict(manifest.facts)}, indent=1).encode() + b"\n")
        trust(engine.plan, manifest.facts, output.name)
        try:
            _, spec = read_model(self.path)
        except SidecarError:
            return
        write_sidecar(output, replace(spec, precision=manifest.facts.precision))


def graph_path(model: str, precision: str | None) -> Path:
    """The ONNX file of a precision, from which an engine is built.

    Raises:
        UsageError: it is an engine already.
    """
    path = precision_path(model_path(model), flags.precision(precision))
    if path.suffix.lower() in SUFFIXES:
        raise UsageError(f"{path} is an engine itself; give the .onnx file that it was built from")
    return path


def manifest_path(plan: Path) -> Path:
    """Where the manifest of a plan stands that ``jetlens build --output`` wrote."""
    return plan.with_name(f"{plan.name}.manifest.json")


def _written(plan: Path) -> tuple[int, int] | None:
    """When a file was written and what it is on the disk; None where there is none or nothing in it."""
    if not plan.is_file() or not plan.stat().st_size:
        return None
    return plan.stat().st_mtime_ns, plan.stat().st_ino


def _target(output: Path | None, model: Path, force: bool, *, needed: bool) -> Path | None:
    """The plan's file, free or to be replaced."""
    if output is None and not needed:
        return None
    target = output or Path(f"{model.stem}.plan")
    if target.is_dir():
        target = target / f"{model.stem}.plan"
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--output {target}: give a file name that ends in {', '.join(SUFFIXES)}, or a folder that exists")
    taken = [path for path in (target, manifest_path(target), sidecar_path(target)) if path.exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} is there already; give --force to replace it, or another --output")
    return target


def _missing() -> str:
    try:
        load_tensorrt()
    except BackendError as error:
        return str(error)
    return ""


def _version() -> str:
    try:
        return str(load_tensorrt().__version__)
    except BackendError:
        return ""


def _major(version: str) -> int:
    number = version.partition(".")[0]
    return int(number) if number.isdecimal() else _MAJORS["TensorRT 10"]


def _tensor_lines(facts: PlanFacts) -> list[str]:
    rows = [("input", row) for row in facts.inputs] + [("output", row) for row in facts.outputs]
    return [f"  {side} {tensor_text(row.name, row.dtype, row.shape)}" for side, row in rows]


def _summary_lines(summary: Summary, plan: Path, log: Path) -> list[str]:
    """What trtexec measured, in words; what its log does not say is left out."""
    rows = [f"{plan}: {plan.stat().st_size / 2**20:.2f} MiB" + (f", built in {summary.build_s:.0f} s" if summary.build_s else "")]
    if summary.version or summary.device:
        rows.append(f"TensorRT {summary.version or 'of unknown version'} on {summary.device or 'an unnamed device'}")
    if summary.throughput_per_s is not None:
        rows.append(f"throughput {summary.throughput_per_s:g} runs/s")
    for name, times in (("latency", summary.latency_ms), ("GPU compute", summary.gpu_compute_ms)):
        if times:
            rows.append(f"{name} ms: {', '.join(f'{key} {times[key]:g}' for key in _STATISTICS if key in times)}")
    if summary.host_walltime_s is not None:
        rows.append(f"measured for {summary.host_walltime_s:g} s")
    return [*rows, f"log: {log}", f"to run it: jetlens adopt {plan} --trust --task T --labels FILE"]


def _print(record: dict[str, Any], as_json: bool) -> None:
    lines = record.pop("lines")
    if as_json:
        typer.echo(json.dumps(record))
        return
    for line in lines:
        typer.echo(printable(line))
