"""Run as a program by each of two processes: trains a tiny network without chance, so that two halves can be compared with a whole."""

import sys
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)

from jetlens.train import TrainConfig  # noqa: E402
from jetlens.train.loop import run  # noqa: E402
from jetlens.train.samples import Samples, Split  # noqa: E402


def case(folder):
    rng = np.random.default_rng(1)
    images, class_id = rng.integers(0, 256, (29, 32, 32, 3), np.uint8), rng.integers(0, 3, 29)
    images[..., 0] //= (1 + class_id)[:, None, None].astype(np.uint8)
    samples = Samples(images, {"class_id": class_id})
    off = dict.fromkeys(("flip", "crop", "rotation", "jitter"), False)
    arguments = {"dropout": 0.0, "norm": "group"}
    config = TrainConfig(
        "classification", size_hw=(32, 32), batch_size=8, epochs=2, device="cpu", pictures=False, output=folder, name="two",
        model_arguments=arguments, optimizer="sgd", lr=0.01, **off,
    )  # fmt: skip
    return config, Split(samples, samples, ("a", "b", "c"), "noise")


if __name__ == "__main__":
    config, split = case(Path(sys.argv[1]))
    run(config, lambda event: print(f"epoch {event.epoch}") if event.metrics else None, split)
