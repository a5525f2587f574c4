"""Run as a program: trains, is killed for good at random moments, resumes, and says how the end differs from a run that was left alone.

python kill_case.py TASK KILLS SEED MODE...      MODE: real, or a naive implementation: no-rng, in-place; one line of JSON for each
Processes are forked from one that has imported everything, so that a kill costs milliseconds and not an import of torch.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)

import jetlens.atomic  # noqa: E402
import jetlens.checkpoint  # noqa: E402
import jetlens.train.trainer  # noqa: E402
from jetlens.checkpoint import load_checkpoint  # noqa: E402
from jetlens.train import TrainConfig  # noqa: E402
from jetlens.train.loop import run  # noqa: E402
from jetlens.train.samples import Samples, Split  # noqa: E402

SIDE, COUNT = 64, 22
MODELS = {
    "classification": {"model": "basic_cnn"},
    "detection": {"model": "small_det", "model_arguments": {"channels": [4, 4, 8, 8, 8], "neck": 8}},
    "segmentation": {"model": "small_seg", "model_arguments": {"channels": [4, 4, 8], "dilations": [1, 2], "join": 8}},
}
WRITES = ("fsync", "replace")


def split_of(task):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    corner = rng.uniform(0, 30, (COUNT, 2, 2)).astype(np.float32)
    truth = {
        "classification": {"class_id": rng.integers(0, 3, COUNT)},
        "detection": {"xyxy": np.concatenate([corner, corner + 30], 2), "class_id": rng.integers(0, 2, (COUNT, 2))},
        "segmentation": {"mask": rng.integers(0, 3, (COUNT, SIDE, SIDE), np.uint8)},
    }[task]
    samples = Samples(images, truth)
    return Split(samples, samples, ("a", "b", "c")[: 2 if task == "detection" else 3], "noise")


def config_of(task, folder):
    more = MODELS[task]
    return TrainConfig(
        task, size_hw=(SIDE, SIDE), batch_size=6, epochs=3, device="cpu", pictures=False, output=folder, name="net", resume=True,
        save_steps=2, schedule="plateau", plateau=1, step_factor=0.5, log_steps=2, seed=3, mixup=task == "classification", **more,
    )  # fmt: skip


def naive(mode):
    if mode == "no-rng":
        jetlens.train.trainer.restore_rng = lambda tensors, world: None
    if mode == "in-place":

        def write(path, content):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                os.fsync(file.fileno())
                file.write(content[len(content) // 2 :])

        jetlens.checkpoint.write_atomic = write


def train_forked(task, folder, die_at_write=None):
    """A child that trains; with a number it kills itself at that fsync or rename."""
    child = os.fork()
    if child:
        return child
    try:
        left = [die_at_write or -1]
        for name in WRITES:
            plain = getattr(os, name)

            def deadly(*args, plain=plain):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(*args)

            setattr(os, name, deadly)
        run(config_of(task, folder), None, split_of(task))
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(3)


def waited(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def differences(a, b):
    """What is not equal, bit for bit, between two finished runs."""
    found = []
    for file in ("net.safetensors", "net/last.safetensors"):
        (ours, about), (theirs, other) = (load_checkpoint(folder / file) for folder in (a, b))
        found += [
            f"{file}:{key}"
            for key in sorted(set(ours) | set(theirs))
            if key not in ours or key not in theirs or not torch.equal(ours[key], theirs[key])
        ]
        for meta in (about, other):
            meta.get("resume", {}).get("loop", {}).pop("elapsed_s", None)
            meta.get("resume", {}).pop("history", None)
        found += [] if about == other else [f"{file}: description"]
    rows = [json.loads((folder / "net.history.json").read_text()) for folder in (a, b)]
    for row in (*rows[0], *rows[1]):
        del row["elapsed_s"], row["images_per_s"]
    found += [] if rows[0] == rows[1] else ["history"]
    return found


def end_of(task, kills, rng, alone, killed, took):
    """The differences after some kills, and how many of them fell inside a write."""
    at_write = 0
    for number in range(kills):
        # Every second kill falls inside a write: 2 of 3, and 10 of 20.
        if number % 2 == 0:
            child = train_forked(task, killed, die_at_write=rng.randint(8, 24))
            at_write += 1
        else:
            child = train_forked(task, killed)
            time.sleep(rng.uniform(0.1, 0.8) * took)
            os.kill(child, signal.SIGKILL)
        if waited(child) > 0:
            return {"differences": ["could not resume"], "at_write": at_write}
    code = waited(train_forked(task, killed))
    return {"differences": differences(alone, killed) if code == 0 else ["could not resume"], "at_write": at_write}


def main(task, kills, seed, modes):
    with tempfile.TemporaryDirectory() as work:
        alone = Path(work) / "alone"
        begun = time.monotonic()
        assert waited(train_forked(task, alone)) == 0
        took = time.monotonic() - begun
        for mode in modes:
            plain = jetlens.train.trainer.restore_rng, jetlens.checkpoint.write_atomic
            naive(mode)
            print(json.dumps(end_of(task, kills, random.Random(seed), alone, Path(work) / mode, took)), flush=True)
            jetlens.train.trainer.restore_rng, jetlens.checkpoint.write_atomic = plain


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
