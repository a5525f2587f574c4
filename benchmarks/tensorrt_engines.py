"""TensorRT engines beside their bounds on one GPU: builds, latency, images/s, memory and deviation, interleaved with PyTorch and Polygraphy.

python benchmarks/tensorrt_engines.py --network resnet50 --batches 1,8,32 --precisions fp32,fp16,int8 --output resnet50.json
python benchmarks/tensorrt_engines.py --merge *.json --output benchmarks/results/tensorrt_h200.json

One command a network: PyTorch exports it and answers in fp32; engines are built through jetlens' own cache; then every case runs in short
blocks by turns, so that drift hits all alike. ``--engine-python`` and ``--torch-python`` name the two Pythons where TensorRT and PyTorch live in
different ones. ``--steps`` does a part of it, on what earlier steps left in ``--work``: builds may then run on several GPUs at once.
``--runtime onnxruntime`` tries the script without a GPU. What fails is recorded under its name and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine_runs.table import merge
from engine_runs.turns import Worker, WorkerError

SWEEP = (1, 2, 4, 8, 16, 32, 64)
TAPS = ([8, 8, 8], 1)
"""Profile and optimization level of the verification twin's engines: nothing is timed on them."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", help="of the zoo, or a model that ships with jetlens")
    parser.add_argument("--steps", default="prepare,graphs,build,measure", help="of prepare, graphs, twins, build, taps, measure")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--precisions", default="fp32,fp16,int8")
    parser.add_argument("--profiles", default="1:1:1,1:32:64", help="each is an engine a precision; a batch takes the one made for it")
    parser.add_argument("--level", type=int, default=3, help="TensorRT's optimization level")
    parser.add_argument("--baselines", default="torch-eager-fp32,torch-eager-fp16,torch-compile-fp16,torch-graph-fp32,torch-graph-fp16")
    parser.add_argument("--compile-batches", default="1", help="compiling takes half a minute a shape")
    parser.add_argument("--weights", help="a state_dict for a network of the zoo; random weights otherwise")
    parser.add_argument("--checkpoint", help="of jetlens train, for a model that ships")
    parser.add_argument("--ready", help="a folder that may hold NAME.fp16.onnx and NAME.int8.onnx with their sidecars")
    parser.add_argument("--photos", default="../shared/data/images", help="a folder of pictures to feed and to calibrate with")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.12, help="of one block")
    parser.add_argument("--gpu", default="0", help="CUDA_VISIBLE_DEVICES of all processes")
    parser.add_argument("--cores", default="", help="processor cores for all processes, as for taskset")
    parser.add_argument("--engine-python", default=sys.executable)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--runtime", default="tensorrt", help="another backend's name, such as onnxruntime, tries the script without a GPU")
    parser.add_argument("--work", type=Path, help="folder for graphs, engines and logs; a temporary one if not given")
    parser.add_argument("--output", type=Path, help="the record; not needed for the steps before measure")
    parser.add_argument("--merge", type=Path, nargs="+", help="records of this script: prints tables and writes one file")
    parser.add_argument("--note", action="append", default=[], help="with --merge: what a reader must know; may be repeated")
    return parser.parse_args()


class Run:
    """The steps of one network; each leaves files in the work folder for the next."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.began = time.monotonic()
        self.kinds = options.precisions.split(",")
        self.batches = [int(batch) for batch in options.batches.split(",")]
        self.profiles = [[int(part) for part in text.split(":")] for text in options.profiles.split(",")]
        self.record: dict[str, Any] = {"complete": False, "network": options.network, "command": shlex.join(["python", *sys.argv])}
        self._workers: dict[str, Worker] = {}

    @property
    def torch(self) -> Worker:
        return self._worker("torch", self.options.torch_python)

    @property
    def engine(self) -> Worker:
        return self._worker("engine", self.options.engine_python)

    def _worker(self, name: str, python: str) -> Worker:
        if name not in self._workers:
            log = self.work / f"{name}-{os.getpid()}.log"
            self._workers[name] = Worker(shlex.split(python), f"{name}_worker.py", log, self.options.cores)
        return self._workers[name]

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def say(self, text: str) -> None:
        print(f"[{self.options.network} {time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def keep(self, name: str, content: Any) -> None:
        path = self.work / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
        self.say(f"{name}: {json.dumps(content)[:900]}")

    def kept(self, name: str) -> Any:
        path = self.work / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def save(self) -> None:
        path: Path = self.options.output
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(self.record) + "\n")
        os.replace(temporary, path)

    # Steps

    def prepare(self) -> None:
        given = self.options
        row = self.torch.do(
            "prepare",
            network=given.network,
            folder=str(self.work),
            photos=given.photos,
            count=given.pictures,
            weights=given.weights,
            checkpoint=given.checkpoint,
        )
        self.keep("prepared", row)
        self.keep("graphs/fp32", {"path": row["model"]})
        self.keep("graphs/taps-fp32", {"path": row["taps"]})

    def graphs(self) -> None:
        """The fp16 and int8 files."""
        for kind in self.kinds:
            if kind != "fp32":
                self.keep(f"graphs/{kind}", self._graph(self.kept("prepared")["model"], kind, ready=True))

    def twins(self) -> None:
        """Those of the verification twin, where the task has one."""
        prepared = self.kept("prepared")
        for kind in self.kinds:
            if kind != "fp32" and prepared["task"] != "classification":
                self.keep(f"graphs/taps-{kind}", self._graph(prepared["taps"], kind, ready=False))

    def _graph(self, model: str, kind: str, *, ready: bool) -> dict[str, Any]:
        given = self.options
        carried = Path(given.ready or "") / f"{given.network}.{kind}.onnx"
        try:
            row: dict[str, Any] = self.torch.do(
                "precision",
                model=model,
                kind=kind,
                ready=str(carried) if ready and given.ready and carried.is_file() else None,
                calibration="orange-line" if given.network.startswith("orange") else given.photos,
            )
        except WorkerError as error:
            return {"failed": str(error)}
        return row

    def build(self) -> None:
        for kind in self.kinds:
            for profile in self.profiles:
                self._build(kind, profile, self.options.level)

    def taps(self) -> None:
        """Raw numbers before decoding, from the twin in each precision."""
        for kind in self.kinds:
            if self.kept("prepared")["task"] != "classification":
                self._build(f"taps-{kind}", *TAPS)

    def _build(self, kind: str, profile: list[int], level: int) -> None:
        graph, prepared = self.kept(f"graphs/{kind}"), self.kept("prepared")
        row: dict[str, Any] = {"precision": kind, "profile": profile, "level": level}
        if "path" not in graph:
            row["failed"] = graph.get("failed", "its graph was not made")
        else:
            engine = {"model": graph["path"], "profile": profile, "level": level}
            try:
                row |= self.engine.do("build", **engine, name=f"{self.options.network}-{kind}")
                self.engine.do("load_pictures", path=str(self.work / "pictures.npy"))
                reference = str(self.work / "reference.npz")
                row["deviation"] = self.engine.do("answers", task=prepared["task"], **engine, batch=profile[1], reference=reference)
            except WorkerError as error:
                row["failed"] = str(error)
        self.keep(f"engines/{kind}-{'-'.join(map(str, profile))}", row)

    def measure(self) -> None:
        given = self.options
        prepared = self.kept("prepared")
        rows = [json.loads(path.read_text()) for path in sorted((self.work / "engines").glob("*.json"))]
        self.record |= {
            "machine": machine(),
            "prepared": prepared,
            "graphs": {kind: self.kept(f"graphs/{kind}") for kind in self.kinds},
            "engines": [row for row in rows if not row["precision"].startswith("taps-")],
            "taps": [row for row in rows if row["precision"].startswith("taps-")],
            "engine_side": self.engine.do("facts"),
            "torch_side": self.torch.do("facts"),
            "timings": [],
            "sweep": [],
            "raw": {},
        }
        self.torch.do("load", network=given.network, folder=str(self.work), weights=given.weights, checkpoint=given.checkpoint)
        self.engine.do("load_pictures", path=str(self.work / "pictures.npy"))
        for batch in self.batches:
            self.record["timings"].append(self.time_batch(batch))
            self.save()
        self.sweep()
        self.record.update(complete=True, measured_s=round(time.monotonic() - self.began, 1), machine_after=machine())
        self.save()

    # Measuring

    def usable(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.record["engines"] if row["precision"] == kind and "failed" not in row]

    def engine_for(self, kind: str, batch: int) -> dict[str, Any] | None:
        """The engine whose usual batch is nearest, of those that take the batch."""
        fitting = [row for row in self.usable(kind) if row["profile"][0] <= batch <= row["profile"][2]]
        return min(fitting, key=lambda row: (abs(row["profile"][1] - batch), row["profile"][2] - row["profile"][0]), default=None)

    def open(self, kind: str, row: Mapping[str, Any], batch: int, **extra: Any) -> dict[str, Any]:
        engine = {"model": self.kept(f"graphs/{kind}")["path"], "profile": row["profile"], "level": row["level"]}
        try:
            opened: dict[str, Any] = self.engine.do("open_engine", label=kind, **engine, batch=batch, **extra)
        except WorkerError as error:
            opened = {"failed": str(error)}
        return {**opened, "profile": row["profile"]}

    def time_batch(self, batch: int) -> dict[str, Any]:
        opened: dict[str, Any] = {}
        for kind in self.kinds:
            row = self.engine_for(kind, batch)
            if row is not None:
                opened[kind] = self.open(kind, row, batch, polygraphy=True, raw_lanes=4 if batch == 1 else 1)
        compiled = [int(text) for text in self.options.compile_batches.split(",") if text]
        names = [name for name in self.options.baselines.split(",") if name and ("compile" not in name or batch in compiled)]
        opened |= self.torch.do("open_baselines", names=names, batch=batch)
        self.say(f"batch {batch} open: {json.dumps(opened)[:900]}")
        blocks: list[tuple[str, Callable[[], dict[str, Any]]]] = []
        seconds = self.options.seconds
        for case in self.engine.do("cases"):
            blocks.append((case, lambda case=case: self.engine.do("block", case=case, seconds=seconds)))  # type: ignore[misc]
        for name in names:
            if "failed" not in opened[name]:
                blocks.append((name, lambda name=name: self.torch.do("block", name=name, batch=batch, seconds=seconds)))  # type: ignore[misc]
        raw: dict[str, list[Any]] = {}
        for _ in range(self.options.rounds):
            for case, block in blocks:
                for key, values in block().items():
                    raw.setdefault(f"{case}:{key}", []).append(values)
        row = {"batch": batch, "opened": opened, "figures": figures(raw)}
        row["gpu_memory_after_close_mib"] = self.engine.do("close_engines")
        self.torch.do("close_baselines")
        self.record["raw"][str(batch)] = {key: rounded(values) for key, values in raw.items()}
        for case, figure in sorted(row["figures"].items()):
            self.say(f"batch {batch} {case}: {json.dumps(figure)}")
        return row

    def sweep(self) -> None:
        """Images/s over batch sizes on the engine with the widest profile: one call at a time, and one and three lanes."""
        for kind in self.kinds:
            widest = max(self.usable(kind), key=lambda row: row["profile"][2] - row["profile"][0], default=None)
            for batch in SWEEP:
                if widest is None or not widest["profile"][0] <= batch <= widest["profile"][2] > 1:
                    continue
                row = self.open(kind, widest, batch, polygraphy=False, raw_lanes=0)
                if "failed" not in row:
                    raw = {
                        f"{case}:{key}": [values]
                        for case in ("run", "lanes-1", "lanes-3")
                        for key, values in self.engine.do("block", case=f"{kind}/{case}", seconds=0.25).items()
                    }
                    row = {"profile": widest["profile"], **figures(raw)}
                    self.engine.do("close_engines")
                self.record["sweep"].append({"precision": kind, "batch": batch, **row})
                self.save()


def figures(raw: dict[str, list[Any]]) -> dict[str, Any]:
    """Percentiles over all calls and the median of each round; images/s over all rounds and of each."""
    rows: dict[str, Any] = {}
    for key, blocks in raw.items():
        case, _, kind = key.rpartition(":")
        if kind.endswith("ms"):
            every = np.concatenate([np.asarray(block) for block in blocks])
            rows[case if kind == "ms" else f"{case}/{kind[:-3]}"] = {
                "p50_ms": round(float(np.percentile(every, 50)), 4),
                "p99_ms": round(float(np.percentile(every, 99)), 4),
                "rounds_p50_ms": [round(float(np.median(block)), 4) for block in blocks],
                "calls": len(every),
            }
        elif kind == "images":
            seconds = raw[f"{case}:seconds"]
            rows[case] = {
                "images_per_s": round(sum(blocks) / sum(seconds), 1),
                "rounds_images_per_s": [round(count / took, 1) for count, took in zip(blocks, seconds, strict=True)],
            }
    return rows


def rounded(values: list[Any]) -> list[Any]:
    return [[round(value, 4) for value in block] if isinstance(block, list) else round(block, 6) for block in values]


def machine() -> dict[str, Any]:
    from jetlens.device.machine import machine as read

    state = ""
    try:
        query = "--query-gpu=index,name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu"
        state = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        pass
    row = {"machine": str(read()), "gpu_state": state.strip().splitlines(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    return {**row, "cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)}


def main() -> None:
    options = arguments()
    if options.merge:
        merge(options.merge, options.output, options.note)
        return
    steps = options.steps.split(",")
    if "measure" in steps and options.output is None:
        sys.exit("give --output for the record")
    os.environ.update(CUDA_VISIBLE_DEVICES=options.gpu, ENGINE_RUNS_RUNTIME=options.runtime)
    work = options.work or Path(tempfile.mkdtemp(prefix="engines-"))
    work.mkdir(parents=True, exist_ok=True)
    run = Run(options, work)
    try:
        for step in steps:
            getattr(run, step)()
    except WorkerError as error:
        run.record["failed"] = str(error)
        run.say(f"FAILED: {error}; logs in {work}")
        if options.output is not None:
            run.save()
        sys.exit(1)
    finally:
        run.close()


if __name__ == "__main__":
    main()
