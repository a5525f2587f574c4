"""Trains torchvision's resnet50 on CIFAR-10 at 64x64 for the guard of fp16 and int8: a real network with weights of our own; two minutes on one GPU.

PYTHONPATH=src python3 benchmarks/engine_runs/train_resnet50.py --data DIR --output cifar10-resnet50.safetensors [--epochs 40] [--quick]
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fast_cifar import MEAN, STD, FastTrainer, Pictures, Recipe, accuracy
from jetlens.checkpoint import save_checkpoint
from jetlens.models import build
from train_cifar10 import DATA, read

SIDE = 64


class Enlarged(nn.Module):
    """The network behind a bilinear enlargement, which the deployed graph leaves to the host's resize."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build("resnet50", num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        larger = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        answer: Tensor = self.network(larger.contiguous(memory_format=torch.channels_last))
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="48 pictures on the CPU: does it run?")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit = 48 if given.quick else None
    images, labels, names = read(given.data / "cifar10_train_jpeg.npz", 2 if given.quick else 12, limit)
    test_images, test_labels, _ = read(given.data / "cifar10_test_jpeg.npz", 2 if given.quick else 12, limit)
    train = Pictures.put(torch.from_numpy(images), torch.from_numpy(labels), device)
    test = Pictures.put(torch.from_numpy(test_images), torch.from_numpy(test_labels), device)
    recipe = Recipe(epochs=1 if given.quick else given.epochs, lr=0.2, batch_size=16 if given.quick else 512, cutout=10)
    trainer = FastTrainer(Enlarged, train, recipe, ladder=("graph", "eager"))
    print(f"{len(images)} pictures; engine {trainer.engine} ready after {trainer.prepare_seconds:.1f} s", flush=True)
    began = time.monotonic()
    outcome = trainer.run(recipe, 0, every=10, score=lambda network: accuracy(network, test))
    network = trainer.scored(True)
    top1 = accuracy(network, test, fp32=True)
    print(f"{outcome.curve}; averaged weights, fp32: {top1:.4f}; {time.monotonic() - began:.1f} s", flush=True)
    kept = {
        key.removeprefix("network."): value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()
    }
    meta = {
        "model": "resnet50",
        "arguments": {"num_classes": len(names)},
        "task": "classification",
        "labels": list(names),
        "preprocess": {"size_hw": [SIDE, SIDE], "resize": "stretch", "filter": "antialias", "mean": list(MEAN), "std": list(STD)},
        "training": {
            "command": shlex.join(["python3", *sys.argv]),
            "data": DATA,
            "seed": 0,
            "epochs": recipe.epochs,
            "stored": "fp16",
            "machine": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        },
        "accuracy": {"top1": round(top1, 4), "data": f"test part of {DATA}, before the weights were rounded to fp16"},
    }
    save_checkpoint(given.output, kept, meta)


if __name__ == "__main__":
    main()
