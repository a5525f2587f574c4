"""Trains the small detector on Penn-Fudan and the small segmenter on CamVid from scratch, and scores the exported graphs.

PYTHONPATH=src python3 benchmarks/train_real_sets.py --data DIR --output OUT --minutes 4     trains on one GPU, all jobs at once
PYTHONPATH=src python3 benchmarks/train_real_sets.py --data DIR --output OUT --quick         a few steps on the CPU: does it run?
python benchmarks/train_real_sets.py --data DIR --output OUT --score RESULTS.json            exports what OUT holds and scores it on the CPU

DIR holds pennfudan.tar, camvid_test.tar and camvid_train184_val101.tar. CamVid is CC BY-NC and Penn-Fudan is research data:
what is trained on them is measured and thrown away, never shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HELD_OUT = 0.2
JOBS: dict[str, dict[str, Any]] = {
    "pennfudan-small_det": {
        "task": "detection",
        "model": "small_det",
        "folder": "PennFudanPed",
        "size_hw": (384, 448),
        "batch_size": 16,
        "lr": 2e-3,
        "weight_decay": 0.05,
        "val_fraction": HELD_OUT,
        "split": "val",
        "note": "128 photos to train, 42 held out by hash, no test part; from scratch",
    },
    "camvid-small_seg": {
        "task": "segmentation",
        "model": "small_seg",
        "folder": "CamVid",
        "size_hw": (360, 480),
        "batch_size": 8,
        "lr": 3e-3,
        "split": "test",
        "note": "half of CamVid's training photos (184), its validation part (101) and its test part (233); 11 classes, void ignored; from scratch",
    },
    "camvid-small_seg-wide": {
        "task": "segmentation",
        "model": "small_seg",
        "model_arguments": {"channels": [32, 64, 128], "dilations": [1, 2, 4, 8, 16, 1], "join": 64},
        "folder": "CamVid",
        "size_hw": (360, 480),
        "batch_size": 8,
        "lr": 3e-3,
        "split": "test",
        "note": "as camvid-small_seg, with channels 32, 64, 128",
    },
}


def unpack(data: Path, folder: Path) -> None:
    for name in ("pennfudan.tar", "camvid_test.tar", "camvid_train184_val101.tar"):
        with tarfile.open(data / name) as archive:
            archive.extractall(folder, filter="data")


def machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"gpu": gpu, "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "python": platform.python_version()}


def train_one(name: str, root: Path, output: Path, minutes: float, quick: bool, command: str) -> None:
    """In a process of its own: one job from its folder to its checkpoint."""
    import torch

    from jetlens.train import Progress, TrainConfig, train

    torch.backends.cudnn.benchmark = True
    row = {key: value for key, value in JOBS[name].items() if key not in ("folder", "split", "note")}
    if quick:
        row |= {"steps": 2, "batch_size": 2, "size_hw": (96, 128), "device": "cpu", "workers": 0, "epochs": 1}
    else:
        row |= {"minutes": minutes, "epochs": 100_000, "device": "cuda", "workers": 4, "validate_every": 10}
    config = TrainConfig(data=str(root / JOBS[name]["folder"]), output=output, name=name, pictures=False, command=command, **row)

    def say(event: Progress) -> None:
        if event.note:
            print(f"{name}: {event.note}", flush=True)
        elif event.metrics is not None and (event.epoch % 50 == 0 or event.done >= 1):
            figures = " ".join(f"{key} {value:.4f}" for key, value in event.metrics.items())
            print(f"{name}: {event.elapsed_s:5.0f} s epoch {event.epoch} loss {event.loss:.4f} {figures}", flush=True)

    train(config, say)


def train_all(given: argparse.Namespace, root: Path) -> int:
    """All jobs side by side; each keeps its own checkpoint, so one that fails costs only itself."""
    started = time.monotonic()
    command = "python3 " + shlex.join(sys.argv)
    output = Path(tempfile.mkdtemp(prefix="train-real-sets-"))
    base = [sys.executable, __file__, "--data", str(root), "--output", str(output), "--minutes", str(given.minutes), "--command", command]
    names = [name for name in JOBS if not given.only or name in given.only]
    running = {name: subprocess.Popen([*base, "--job", name, *(["--quick"] if given.quick else [])]) for name in names}
    codes = {name: process.wait() for name, process in running.items()}
    rows = []
    for name, code in codes.items():
        checkpoint, history = output / f"{name}.safetensors", output / f"{name}.history.json"
        row: dict[str, Any] = {"name": name, "note": JOBS[name]["note"], "exit_code": code}
        if checkpoint.is_file():
            (given.output / checkpoint.name).write_bytes(checkpoint.read_bytes())
            row["history"] = json.loads(history.read_text())
        rows.append(row)
    results = {"command": command, "machine": machine(), "seconds": round(time.monotonic() - started, 1), "jobs": rows}
    (given.output / "train_real_sets.json").write_text(json.dumps(results, indent=1))
    print(f"{len(rows)} jobs in {results['seconds']} s; exit codes {codes}", flush=True)
    return max(codes.values())


def score(given: argparse.Namespace, root: Path) -> None:
    """Exports each checkpoint and scores the graph as `jetlens evaluate` does, on pictures that neither trained nor chose it where there are such."""
    from jetlens.checkpoint import load_checkpoint
    from jetlens.data import open_dataset
    from jetlens.evaluate import evaluate
    from jetlens.export.onnx import export_model
    from jetlens.export.trained import network_to_export
    from jetlens.predictor import load
    from jetlens.tasks.base import TaskOptions

    results = json.loads((given.output / "train_real_sets.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        for row in results["jobs"]:
            job, checkpoint = JOBS[row["name"]], given.output / f"{row['name']}.safetensors"
            if not checkpoint.is_file():
                continue
            graph = Path(folder) / f"{row['name']}.onnx"
            network, spec = network_to_export(str(checkpoint))
            export_model(network, spec, graph)
            held_out = open_dataset(root / job["folder"], job["task"], job["split"], val_fraction=job.get("val_fraction", 0.1))
            with load(graph, threads=1, options=TaskOptions(confidence=0.01)) as predictor:
                found = evaluate(predictor, held_out)
            meta = load_checkpoint(checkpoint)[1]
            row |= {
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "training": meta["training"],
                "recorded": meta["accuracy"],
                "scored_on": f"{job['split']}, {found.count} photos, graph on the CPU",
                "score": {found.metric: round(found.score, 4), **{key: round(value, 4) for key, value in found.metrics.items()}},
                "interval": found.interval,
                "classes": [asdict(entry) if hasattr(entry, "__dataclass_fields__") else dict(entry) for entry in found.classes],
            }
            print(f"{row['name']}: {found.metric} {found.score:.4f} on {row['scored_on']} {dict(found.metrics)}", flush=True)
    given.score.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.5, help="training time of each job")
    parser.add_argument("--only", nargs="*", choices=tuple(JOBS))
    parser.add_argument("--score", type=Path, help="write the scores of the checkpoints in OUT to this file")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--command", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.job:
        train_one(given.job, given.data, given.output, given.minutes, given.quick, given.command)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        unpack(given.data, Path(folder))
        if given.score is not None:
            score(given, Path(folder))
            return 0
        return train_all(given, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
