"""Trains the networks of the orange line on one GPU machine: draws the data with all cores, then trains all jobs at once.

PYTHONPATH=src python3 benchmarks/train_orange_line.py --output OUT --minutes 9     a GPU, 16 cores; ends before the time given
PYTHONPATH=src python3 benchmarks/train_orange_line.py --output OUT --quick         16 pictures on the CPU: does it run?
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

from jetlens.spec import PreprocessSpec  # noqa: E402
from jetlens.train.config import TrainConfig, complete, preprocess_of  # noqa: E402
from jetlens.train.samples import LABELS, MAX_BOXES, TEST_SEED, VALIDATION_SEED, Samples, Shot, Split, encode, render, shots  # noqa: E402

FORK = multiprocessing.get_context("fork")
FRUIT = 32
"""At most so many crops of one picture."""


@dataclass(frozen=True)
class Job:
    """One network to train; shares its samples with the jobs of the same task and size."""

    config: TrainConfig

    @property
    def key(self) -> tuple[str, tuple[int, int]]:
        assert self.config.size_hw is not None
        return self.config.task, self.config.size_hw


def jobs(quick: bool, output: Path, command: str) -> list[Job]:
    """Three networks, and two variants to choose from."""
    base = {"epochs": 1 if quick else 1000, "device": "cpu" if quick else "cuda", "output": output, "command": command, "workers": 0}
    size = 8 if quick else None
    rows: list[dict[str, Any]] = [
        {
            "name": "orange-grade",
            "task": "classification",
            "size_hw": (64, 64),
            "batch_size": size or 512,
            "lr": 2e-3,
            "weight_decay": 0.05,
        },
        {
            "name": "orange-grade-96",
            "task": "classification",
            "size_hw": (96, 96),
            "batch_size": size or 512,
            "lr": 2e-3,
            "weight_decay": 0.05,
        },
        {"name": "orange-detect", "task": "detection", "batch_size": size or 64, "lr": 3e-3, "weight_decay": 0.05, "validate_every": 5},
        {"name": "orange-segment", "task": "segmentation", "batch_size": size or 16, "lr": 4e-3, "validate_every": 2},
    ]
    if not quick:
        wide = {"channels": [16, 48, 64], "join": 48}
        rows.append({**rows[3], "name": "orange-segment-wide", "model_arguments": wide})
    return [Job(complete(TrainConfig(**{**base, **row}))) for row in rows]


def shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that forked processes write and read in place; pages come into being when they are touched."""
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize)), dtype=dtype, count=count).reshape(shape)


class Store:
    """The samples of one task and size for all shots, filled in by forked workers."""

    def __init__(self, task: str, spec: PreprocessSpec, count: int) -> None:
        self.task, self.spec = task, spec
        slots = (count, FRUIT) if task == "classification" else (count,)
        self.images = shared((*slots, *spec.size_hw, 3), np.uint8)
        if task == "classification":
            self.truth = {"class_id": shared(slots, np.int64)}
        elif task == "detection":
            self.truth = {"xyxy": shared((count, MAX_BOXES, 4), np.float32), "class_id": shared((count, MAX_BOXES), np.int64)}
        else:
            self.truth = {"mask": shared((count, *spec.size_hw), np.uint8)}
        self.filled = shared((count,), np.int64)

    def put(self, index: int, image: np.ndarray, truth: Any, seed: int) -> None:
        samples = encode(self.task, image, truth, self.spec, np.random.default_rng((seed, index)))
        if self.task == "classification":
            count = min(FRUIT, len(samples))
            self.images[index, :count] = samples.images[:count]
            self.truth["class_id"][index, :count] = samples.truth["class_id"][:count]
        else:
            count = 1
            self.images[index] = samples.images[0]
            for key, array in self.truth.items():
                array[index] = samples.truth[key][0]
        self.filled[index] = count

    def take(self, start: int, stop: int) -> Samples:
        """The samples of a range of shots that were drawn in time."""
        if self.task == "classification":
            mask = np.arange(FRUIT) < self.filled[start:stop, None]
        else:
            mask = self.filled[start:stop] > 0
        return Samples(self.images[start:stop][mask], {key: array[start:stop][mask] for key, array in self.truth.items()})


_STORES: list[Store] = []
_SHOTS: list[Shot] = []


def _draw(index: int) -> int:
    image, truth = render(_SHOTS[index])
    for store in _STORES:
        store.put(index, image, truth, _SHOTS[index].seed)
    return index


def draw_all(cores: int, budget_s: float) -> int:
    """Draws the shots in order until all are done or the time is over; returns how many were drawn."""
    end, drawn = time.monotonic() + budget_s, 0
    pool = FORK.Pool(cores)
    try:
        results = pool.imap_unordered(_draw, range(len(_SHOTS)))
        for _ in range(len(_SHOTS)):
            results.next(timeout=max(0.1, end - time.monotonic()))
            drawn += 1
    except multiprocessing.TimeoutError:
        print(f"time to draw is over: {drawn} of {len(_SHOTS)} shots", flush=True)
    finally:
        pool.terminate()
        pool.join()
    return drawn


def run_job(job: Job, store: Store, counts: tuple[int, int], end: float, queue: Any) -> None:
    """In a forked process: trains one network, then measures its checkpoint on the test shots."""
    import torch

    from jetlens.checkpoint import load_checkpoint, load_into
    from jetlens.models import build
    from jetlens.train import train
    from jetlens.train.loop import evaluate_samples

    torch.set_num_threads(1 if job.config.device == "cpu" else 2)
    torch.backends.cudnn.benchmark = True
    try:
        held, name = counts[0], job.config.name
        validation, test, training = store.take(0, held), store.take(held, 2 * held), store.take(2 * held, 2 * held + counts[1])
        labels = LABELS[job.config.task]
        origin = f"orange-line, {counts[1]} shots from seed 0; validation {held} shots from {VALIDATION_SEED}; test {held} from {TEST_SEED}"
        minutes = None if job.config.device == "cpu" else max(0.2, (end - time.monotonic() - 15) / 60)

        def say(event: Any) -> None:
            if event.metrics is not None:
                figures = " ".join(f"{key} {value:.4f}" for key, value in event.metrics.items())
                print(f"{name}: {event.elapsed_s:5.0f} s epoch {event.epoch} step {event.step} loss {event.loss:.4f} {figures}", flush=True)

        config = replace(job.config, minutes=minutes)
        path = train(config, say, Split(training, validation, labels, origin))
        tensors, meta = load_checkpoint(path)
        network = build(meta["model"], **meta["arguments"])
        load_into(network, tensors, str(path))
        figures = evaluate_samples(network, config, test, labels)
        history = json.loads(path.with_name(f"{name}.history.json").read_text())
        row = {"name": name, "model": meta["model"], "best": meta["accuracy"], "test": figures, "training": meta["training"]}
        queue.put({**row, "history": history})
    except Exception:
        queue.put({"name": job.config.name, "error": traceback.format_exc()})


def rescue(work: Path, output: Path) -> None:
    """Copies the checkpoints so far: only the files that count, since few may come back, and early, since the machine may go."""
    for source in work.glob("*.safetensors"):
        target = output / source.name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            shutil.copy2(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole run ends within this time")
    parser.add_argument("--shots", type=int, default=8000)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--draw-minutes", type=float, default=2.6)
    parser.add_argument("--only", nargs="*", help="names of the jobs to run")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    started = time.monotonic()
    if given.quick:
        given.shots, given.held_out = 16, 4
    given.output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="train-orange-line-"))
    command = "python3 " + shlex.join(sys.argv)
    todo = [job for job in jobs(given.quick, work, command) if not given.only or job.config.name in given.only]
    _SHOTS.extend(shots(VALIDATION_SEED, given.held_out) + shots(TEST_SEED, given.held_out) + shots(0, given.shots))
    stores: dict[tuple[str, tuple[int, int]], Store] = {}
    for job in todo:
        stores.setdefault(job.key, Store(job.config.task, preprocess_of(job.config), len(_SHOTS)))
    _STORES.extend(stores.values())
    cores = len(os.sched_getaffinity(0))
    drawn = draw_all(cores, 60 * given.draw_minutes)
    print(f"drew {drawn} shots with {cores} processes in {time.monotonic() - started:.0f} s", flush=True)
    queue = FORK.Queue()
    end = started + 60 * given.minutes
    running = [
        FORK.Process(target=run_job, args=(job, stores[job.key], (given.held_out, given.shots), end, queue), daemon=True) for job in todo
    ]
    for process in running:
        process.start()
    results: list[dict[str, Any]] = []
    patience = end + (600 if given.quick else 20)
    while len(results) < len(running) and time.monotonic() < patience:  # a job that died or hangs must not cost the others their table
        with suppress(Empty):
            results.append(queue.get(timeout=3))
        rescue(work, given.output)
    (given.output / "results.json").write_text(json.dumps({"command": command, "drawn": drawn, "jobs": results}, indent=1))
    for row in sorted(results, key=lambda row: row["name"]):
        if "error" in row:
            print(f"{row['name']}: FAILED\n{row['error']}")
        else:
            figures = "  ".join(f"{key} {value:.4f}" for key, value in row["test"].items())
            print(f"{row['name']:<20} {row['model']:<10} test: {figures}  ({row['training']['step']} steps)")
    print(f"{len(results)} of {len(running)} jobs in {time.monotonic() - started:.0f} s")
    for process in running:
        process.terminate()


if __name__ == "__main__":
    main()
