"""trtexec, NVIDIA's own builder: the command line that equals a build, and what its log says of speed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jetlens.engines.api import out_of_memory
from jetlens.engines.child import run_child
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError
from jetlens.spec import TensorSpec

__all__ = ["Summary", "arguments", "command_line", "find_trtexec", "read_log", "run_trtexec", "version_of_trtexec"]

_PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
_VERSION = re.compile(r"TensorRT(?:\.trtexec \[TensorRT v| version: )(\d[\d.]*)")
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
_STATISTIC = re.compile(rf"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = {_NUMBER} ms")
_TIMES = {
    "Latency": "latency_ms",
    "GPU Compute Time": "gpu_compute_ms",
    "Enqueue Time": "enqueue_ms",
    "H2D Latency": "upload_ms",
    "D2H Latency": "download_ms",
}
_SINGLE = {
    "throughput_per_s": re.compile(rf"Throughput: {_NUMBER} qps"),
    "host_walltime_s": re.compile(rf"Total Host Walltime: {_NUMBER} s"),
    "build_s": re.compile(rf"Engine built in {_NUMBER} sec"),
}
_CONV_TACTICS = "--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN,+EDGE_MASK_CONVOLUTIONS,+JIT_CONVOLUTIONS"
_LARGEST_LOG = 32 << 20


@dataclass(frozen=True, slots=True)
class Summary:
    """What a log of trtexec says; what it does not say is None or empty.

    Attributes:
        version: of TensorRT, such as ``8.4.12``.
        throughput_per_s: runs a second; each run is a whole batch.
        latency_ms: upload, computing and download of one run by statistic: min, max, mean, median, p90, p95, p99.
        gpu_compute_ms: the GPU's computing alone, by the same statistics.
        host_walltime_s: how long the measurement took.
        passed: trtexec's own verdict.
    """

    version: str = ""
    device: str = ""
    throughput_per_s: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    gpu_compute_ms: Mapping[str, float] = field(default_factory=dict)
    enqueue_ms: Mapping[str, float] = field(default_factory=dict)
    upload_ms: Mapping[str, float] = field(default_factory=dict)
    download_ms: Mapping[str, float] = field(default_factory=dict)
    host_walltime_s: float | None = None
    build_s: float | None = None
    passed: bool | None = None


def find_trtexec(places: Sequence[str] = _PLACES) -> Path | None:
    """The trtexec of this machine: on the path, else where JetPack and NVIDIA's containers put it."""
    found = shutil.which("trtexec")
    if found:
        return Path(found)
    return next((Path(place) for place in places if os.access(place, os.X_OK) and Path(place).is_file()), None)


def arguments(
    model: Path,
    plan: Path,
    options: BuildOptions,
    *,
    inputs: Sequence[TensorSpec],
    precisions: Sequence[str],
    major: int,
    timing_cache: Path | None = None,
    tactics: str = "",
) -> list[str]:
    """The arguments with which trtexec builds what ``engines.build`` builds.

    One thing has no flag: on TensorRT 8.6, the layers that a graph keeps in fp32 are held there by ``engines.build`` alone.

    Args:
        inputs: of the graph; a text in a shape's first place is a dynamic batch.
        precisions: of fp16 and int8, those that the graph holds.
        major: TensorRT's major version. ``--explicitBatch`` is left out: since 8.6 it is always so.
        tactics: ``conv`` leaves cuBLAS and cuDNN out, as ``TRT_BUNDLE_TACTICS`` does for the builder.
    """
    rows = [f"--onnx={model}", f"--saveEngine={plan}", *_shapes(inputs, options.batch), f"--memPoolSize=workspace:{options.workspace_mib}"]
    if major < 10:
        rows += (["--fp16"] if precisions else []) + (["--int8"] if "int8" in precisions else [])
        rows.append("--preview=+profileSharing0806")
    elif major == 10:
        rows.append("--stronglyTyped")
    if options.optimization_level is not None:
        rows.append(f"--builderOptimizationLevel={options.optimization_level}")
    if timing_cache is not None:
        rows.append(f"--timingCacheFile={timing_cache}")
    if options.dla_core is not None:
        rows += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    if options.version_compatible:
        rows += ["--versionCompatible", "--excludeLeanRuntime"]
    return [*rows, *([_CONV_TACTICS] if tactics == "conv" else []), "--profilingVerbosity=detailed"]


def command_line(trtexec: Path | None, rows: Sequence[str]) -> str:
    """The command as a shell takes it."""
    return shlex.join([str(trtexec or "trtexec"), *rows])


def run_trtexec(
    trtexec: Path, rows: Sequence[str], *, log: Path, timeout_s: float, report: Callable[[str], None], heartbeat_s: float = 10.0
) -> Summary:
    """Runs trtexec in the current folder, keeps its log and reads it.

    Raises:
        BackendError: it fails, or takes too long; the message names the log.
    """
    next_s = heartbeat_s

    def beat(elapsed_s: float) -> None:
        nonlocal next_s
        if elapsed_s >= next_s:
            next_s = elapsed_s + heartbeat_s
            report(f"trtexec: {elapsed_s:.0f} s")

    report(f"running {command_line(trtexec, rows)}")
    try:
        ended = run_child(
            (str(trtexec), *rows), Path.cwd(), environment=os.environ, deadline_s=time.monotonic() + timeout_s, poll=beat, log=log
        )
    except OSError as error:
        raise BackendError(f"trtexec cannot be started ({error.strerror}): {trtexec}") from None
    # A log that was cut at its end still has the start in the file and the end in the tail.
    summary = read_log(log.read_text(encoding="utf-8", errors="replace") + ended.tail)
    if ended.timed_out:
        raise BackendError(f"trtexec did not end within {timeout_s:g} s and was stopped; give more time (--timeout); its log: {log}")
    if ended.status or summary.passed is False:
        cause = "ran out of memory" if out_of_memory(ended.tail) else f"failed ({ended.signal_name or f'status {ended.status}'})"
        raise BackendError(f"trtexec {cause}: {_last_error(ended.tail)}; its log: {log}")
    return summary


def version_of_trtexec(trtexec: Path) -> str:
    """The version of TensorRT that a trtexec is of; empty where it does not say."""
    try:
        ended = run_child((str(trtexec), "--help"), Path("/"), environment=os.environ, deadline_s=time.monotonic() + 30)
    except OSError:
        return ""
    return read_log(ended.tail).version


def read_log(text: str) -> Summary:
    """What the log of any trtexec from 8.0 on says; lines that are not known are passed over."""
    times: dict[str, dict[str, float]] = {}
    single: dict[str, float] = {}
    version, device, passed = "", "", None
    for line in text[-_LARGEST_LOG:].splitlines():
        said = re.sub(r"^\[[^\]]*\] \[\w\] ", "", line)
        found = _VERSION.search(said)
        if found:
            version = _dotted(found[1])
        if said.startswith("Selected Device: "):
            device = said.removeprefix("Selected Device: ").strip()
        if said.startswith("&&&& "):
            passed = {"PASSED": True, "FAILED": False}.get(said[5:11], passed)
        name = _TIMES.get(said.partition(":")[0])
        if name:
            times[name] = {f"p{row[1]}" if row[1] else row[0]: float(row[2]) for row in _STATISTIC.findall(said)}
        for key, pattern in _SINGLE.items():
            if found := pattern.match(said):
                single[key] = float(found[1])
    return Summary(version=version, device=device, passed=passed, **single, **times)  # type: ignore[arg-type]


def _dotted(text: str) -> str:
    """8001 and 8412 are 8.0.1 and 8.4.12, and 100300 is 10.3.0."""
    text = text.rstrip(".")
    if "." in text:
        return text
    number = int(text)
    major, rest = divmod(number, 10000) if number >= 10000 else divmod(number, 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _shapes(inputs: Sequence[TensorSpec], batch: tuple[int, int, int]) -> list[str]:
    free = [row for row in inputs if row.shape and isinstance(row.shape[0], str)]
    if not free:
        return []
    names = ("--minShapes", "--optShapes", "--maxShapes")
    return [
        f"{name}={','.join(f'{row.name}:' + 'x'.join(map(str, (size, *row.shape[1:]))) for row in free)}"
        for name, size in zip(names, batch, strict=True)
    ]


def _last_error(tail: str) -> str:
    lines = [" ".join(line.split()) for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return re.sub(r"^\[[^\]]*\] \[E\] ", "", (errors or lines or ["it said nothing"])[-1])[:120]
