"""What several tests of training, and the processes that they start, share."""

import json

import numpy as np
import torch

from jetlens.train import TrainConfig
from jetlens.train.config import complete, preprocess_of
from jetlens.train.samples import LABELS, Split, encode, join

torch.set_num_threads(1)

SIZES = {"classification": (32, 32), "detection": (96, 160), "segmentation": (96, 160)}


def splits_of(pictures):
    found = {}
    for task, size in SIZES.items():
        spec = preprocess_of(complete(TrainConfig(task=task, size_hw=size)))
        samples = join([encode(task, image, truth, spec, np.random.default_rng(0)) for image, truth in pictures])
        found[task] = Split(samples, samples, LABELS[task], "a test")
    return found


def history_of(path):
    return json.loads(path.with_name(f"{path.stem}.history.json").read_text())


CLOCK = ("elapsed_s", "images_per_s")


def rows_of(path):
    """The rows of a run's history without what its clock says."""
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in history_of(path)]
