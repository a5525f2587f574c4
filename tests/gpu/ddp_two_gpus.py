"""Trains the same things on one GPU and on two through torchrun and NCCL, and compares the figures.

PYTHONPATH=src python3 tests/gpu/ddp_two_gpus.py --data DIR --output OUT          a machine with two GPUs
PYTHONPATH=src python3 tests/gpu/ddp_two_gpus.py --data DIR --output OUT --cpu    a few pictures, two gloo processes: does it run?

DIR holds cifar10_train_jpeg.npz, cifar10_test_jpeg.npz, camvid_train184_val101.tar and pennfudan.tar.
The job ``exact`` has nothing that depends on chance or on the batch (group norm, SGD, fp32, no augmentation): one and two must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jetlens.checkpoint import load_checkpoint, load_into
from jetlens.data import open_dataset
from jetlens.data.layouts.cifar10 import Cifar10
from jetlens.models import build
from jetlens.train import Progress, TrainConfig, train
from jetlens.train.datasets import open_data
from jetlens.train.loop import evaluate_samples
from jetlens.train.samples import Samples, Split

CALM: dict[str, Any] = dict.fromkeys(("flip", "crop", "rotation", "jitter"), False)
JOBS: dict[str, dict[str, Any]] = {
    "exact": {
        "task": "classification", "model": "basic_cnn", "model_arguments": {"dropout": 0.0, "norm": "group"}, "size_hw": (32, 32),
        "batch_size": 256, "epochs": 3, "optimizer": "sgd", "lr": 0.01, "amp": "off", **CALM,
    },
    "cifar10-custom_resnet": {
        "task": "classification", "model": "custom_resnet", "size_hw": (32, 32), "batch_size": 512, "epochs": 6, "lr": 2e-3,
    },
    "camvid-small_seg": {
        "task": "segmentation", "model": "small_seg", "folder": "CamVid", "size_hw": (360, 480), "batch_size": 8, "epochs": 15,
        "lr": 3e-3, "sync_bn": True, "validate_every": 5,
    },
    "pennfudan-small_det": {
        "task": "detection", "model": "small_det", "folder": "PennFudanPed", "size_hw": (384, 448), "batch_size": 16, "epochs": 15,
        "lr": 2e-3, "val_fraction": 0.2, "validate_every": 5,
    },
}  # fmt: skip


def case(name: str, data: Path, output: Path, cpu: bool) -> tuple[TrainConfig, Split]:
    """The config of a job and its data in memory."""
    row = dict(JOBS[name])
    folder = row.pop("folder", None)
    if cpu:
        row |= {"steps": 2, "epochs": 1, "batch_size": 4, "device": "cpu", "sync_bn": False}
        row["size_hw"] = (32, 32) if folder is None else (96, 128)
    else:
        row["device"] = "cuda"
    config = TrainConfig(output=output, name=name, pictures=False, data=str(data / folder) if folder else "orange-line", **row)
    if folder is not None:
        return config, open_data(config).split(config, print)
    files = np.load(data / "cifar10.npz")
    taken = {"exact": (5000, 1001)}.get(name, (50_000, 10_000)) if not cpu else (21, 9)
    # The files are ordered by class.
    parts = []
    for part, count in zip(("train", "test"), taken, strict=True):
        index = np.linspace(0, len(files[f"{part}_y"]) - 1, count).astype(np.int64)
        parts.append(Samples(files[f"{part}_x"][index], {"class_id": files[f"{part}_y"][index]}))
    return config, Split(parts[0], parts[1], tuple(map(str, range(10))), "CIFAR-10 as lossy JPEG")


def job(name: str, data: Path, output: Path, cpu: bool) -> None:
    """In each process: trains; the first one writes what it measured."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "exact"
    config, split = case(name, data, output, cpu)
    events: list[Progress] = []
    checkpoint = train(config, events.append, split)
    if int(os.environ.get("RANK", "0")):
        assert not events, "only the first process speaks"
        return
    rows = [event for event in events if event.metrics is not None]
    for event in events:
        if event.note:
            print(f"{name}: {event.note}", flush=True)
    tensors, meta = load_checkpoint(checkpoint)
    best = max(rows, key=lambda event: event.metrics[{"detection": "f1", "segmentation": "miou"}.get(config.task, "top1")])
    found: dict[str, Any] = {
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "best": best.metrics,
        "curve": [{"epoch": event.epoch, "elapsed_s": round(event.elapsed_s, 3), "loss": event.loss, **event.metrics} for event in rows],
    }
    if len(rows) > 1:
        pictures = len(split.training) * (rows[-1].epoch - rows[0].epoch)
        found["images_per_s"] = round(pictures / (rows[-1].elapsed_s - rows[0].elapsed_s), 1)
    if config.task == "classification":  # the others have a mean and std of their own, which evaluate_samples does not know
        network = build(meta["model"], **meta["arguments"])
        load_into(network, tensors, name)
        os.environ.pop("LOCAL_RANK", None)  # this process alone, on the first GPU
        again = evaluate_samples(network, config, split.validation, split.labels)
        found["one_process_again"] = again
        found["largest_difference_again"] = max(abs(again[key] - best.metrics[key]) for key in best.metrics)
    (output / f"{name}.json").write_text(json.dumps(found))


def prepare(source: Path, folder: Path) -> None:
    """The archives unpacked and the pictures of CIFAR-10 decoded once."""
    for name in ("pennfudan.tar", "camvid_train184_val101.tar"):
        with tarfile.open(source / name) as archive:
            archive.extractall(folder, filter="data")
    cifar = open_dataset(source, "classification", "all", layout="cifar10")
    assert isinstance(cifar, Cifar10)
    arrays = {part: cifar.arrays(part) for part in ("train", "test")}
    np.savez(
        folder / "cifar10.npz", **{f"{part}_{key}": array for part, two in arrays.items() for key, array in zip("xy", two, strict=True)}
    )


def compare(one: dict[str, Any], two: dict[str, Any], folders: tuple[Path, Path], name: str) -> dict[str, Any]:
    """Both results of a job beside each other; ``exact`` also by its weights."""
    row: dict[str, Any] = {"job": JOBS[name], "one": one, "two": two}
    row["difference_of_best"] = {key: round(two["best"][key] - one["best"][key], 6) for key in one["best"]}
    if "images_per_s" in one and "images_per_s" in two:
        row["speedup"] = round(two["images_per_s"] / one["images_per_s"], 3)
    if name == "exact":
        weights = [load_checkpoint(folder / "exact.safetensors")[0] for folder in folders]
        row["largest_weight_difference"] = max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0])
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--job", choices=tuple(JOBS))
    given = parser.parse_args()
    if given.job:
        job(given.job, given.data, given.output, given.cpu)
        return 0
    started = time.monotonic()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    results: dict[str, Any] = {"machine": {"gpus": gpus, "torch": torch.__version__}, "jobs": {}, "errors": []}
    with tempfile.TemporaryDirectory() as scratch:
        data, folders = Path(scratch), (Path(scratch) / "1", Path(scratch) / "2")
        prepare(given.data, data)
        print(f"{time.monotonic() - started:.1f} s: data ready; {gpus}", flush=True)
        for name in JOBS:
            answers = []
            for folder, processes in zip(folders, (1, 2), strict=True):
                folder.mkdir(exist_ok=True)
                start = (
                    [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
                    if processes == 2
                    else [sys.executable]
                )
                own = ["--data", str(data), "--output", str(folder), "--job", name, *(["--cpu"] if given.cpu else [])]
                code = subprocess.run([*start, __file__, *own], check=False).returncode
                answer = folder / f"{name}.json"
                if code or not answer.is_file():
                    results["errors"].append(f"{name}, {processes} processes: exit code {code}")
                    continue
                answers.append(json.loads(answer.read_text()))
                print(
                    f"{time.monotonic() - started:.1f} s: {name}, {processes}: {answers[-1]['best']} {answers[-1].get('images_per_s')}",
                    flush=True,
                )
            if len(answers) == 2:
                results["jobs"][name] = compare(*answers, folders, name)
            (given.output / "train_two_gpus.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{time.monotonic() - started:.1f} s; errors: {results['errors']}", flush=True)
    return len(results["errors"])


if __name__ == "__main__":
    sys.exit(main())
