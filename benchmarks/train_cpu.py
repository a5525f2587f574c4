"""Images/s of jetlens.train on the CPU beside a minimal PyTorch loop written by hand, step for step in turns, on one thread.

OMP_NUM_THREADS=1 python benchmarks/train_cpu.py --output benchmarks/results/train_cpu.json       about a minute and a half
OMP_NUM_THREADS=1 python benchmarks/train_cpu.py --output /tmp/train_cpu.json --quick             a few steps

Both train basic_cnn on the same 32x32 pictures with AdamW, without augmentation, averaging and clipping. Ours does all else that it
always does: batches drawn by seed, the check for not-a-number after each step, progress, states saved so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from jetlens.models import build
from jetlens.train import Progress, TrainConfig, train
from jetlens.train.config import MEAN, STD
from jetlens.train.samples import Samples, Split

CLASSES = 10
RATE = 1e-3
DECAY = 0.01
AIM = 0.97


def pictures(count: int) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Samples(images, {"class_id": rng.integers(0, CLASSES, count)})


def minimal_loop(samples: Samples, batch_size: int) -> Iterator[None]:
    """The loop by hand; each ``next`` is one step."""
    torch.manual_seed(0)
    network = build("basic_cnn", num_classes=CLASSES).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.truth["class_id"])
    mean, std = torch.tensor(MEAN).reshape(1, 3, 1, 1), torch.tensor(STD).reshape(1, 3, 1, 1)
    while True:
        for index in torch.randperm(len(images)).split(batch_size):
            x = (images[index].permute(0, 3, 1, 2).float() - mean) / std
            loss = F.cross_entropy(network(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def measure(steps_a_round: int, rounds: int, batch_size: int, command: str) -> dict[str, object]:
    """Turns of ``steps_a_round`` steps; the loop by hand runs inside the progress reports of ours."""
    samples = pictures(100 * batch_size)
    by_hand = minimal_loop(samples, batch_size)
    ours_s: list[float] = []
    hand_s: list[float] = []
    since = time.perf_counter()

    def turn(event: Progress) -> None:
        nonlocal since
        if event.note or event.metrics is not None:
            since = time.perf_counter()
            return
        ours_s.append(time.perf_counter() - since)
        start = time.perf_counter()
        for _ in range(steps_a_round):
            next(by_hand)
        hand_s.append(time.perf_counter() - start)
        since = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            task="classification",
            model="basic_cnn",
            steps=steps_a_round * rounds,
            epochs=1_000_000,
            batch_size=batch_size,
            lr=RATE,
            weight_decay=DECAY,
            size_hw=(32, 32),
            label_smoothing=0.0,
            clip_norm=0.0,
            ema=False,
            flip=False,
            crop=False,
            rotation=False,
            jitter=False,
            device="cpu",
            workers=0,
            validate_every=1_000_000,
            log_steps=steps_a_round,
            pictures=False,
            output=Path(folder),
            command=command,
        )
        train(config, turn, Split(samples, pictures(batch_size), tuple(str(k) for k in range(CLASSES)), "random pictures"))
    # The first turns warm up.
    kept = slice(min(3, len(ours_s) - 1), None)
    ours, hand = ours_s[kept], hand_s[kept]
    count = steps_a_round * batch_size
    return {
        "images_per_s": round(count / statistics.median(ours), 1),
        "images_per_s_by_hand": round(count / statistics.median(hand), 1),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, hand, strict=True)), 4),
        "ratio_of_sums": round(sum(hand) / sum(ours), 4),
        "rounds": len(ours),
        "batch_size": batch_size,
        "steps_a_round": steps_a_round,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = "python " + shlex.join(sys.argv)
    found = measure(5, 4 if given.quick else given.rounds, given.batch_size, command)
    machine = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "threads": 1, "torch": torch.__version__}
    record = {"command": command, "machine": machine, "network": "basic_cnn, 32x32, fp32", "aim": AIM, **found}
    given.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
