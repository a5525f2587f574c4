"""Trains basic_cnn and custom_resnet on CIFAR-10 (as lossy JPEG) on one GPU, beside a plain torchvision and DataLoader loop.

PYTHONPATH=src python3 benchmarks/train_cifar10.py --data DIR --output OUT --minutes 9     one GPU; ends before the time given
PYTHONPATH=src python3 benchmarks/train_cifar10.py --data DIR --output OUT --quick         48 pictures on the CPU: does it run?

DIR holds cifar10_train_jpeg.npz and cifar10_test_jpeg.npz. Scores on these pictures do not compare with published ones.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fast_cifar import LADDER, MEAN, STD, Clock, FastTrainer, Outcome, Pictures, Recipe, accuracy
from jetlens.checkpoint import save_checkpoint
from jetlens.errors import UnknownNameError
from jetlens.models import build
from jetlens.spec import PreprocessSpec

DATA = "CIFAR-10 as lossy JPEG (quality 75, 4:2:0); scores do not compare with published ones"
HELD_OUT = 5000
NETWORKS = ("custom_resnet", "basic_cnn")


# Data


def _decode(part: tuple[bytes, bytes, np.ndarray]) -> np.ndarray:
    header, blob, offsets = part
    images = [Image.open(BytesIO(header + blob[a:b])).convert("RGB") for a, b in pairwise(offsets)]
    return np.stack([np.asarray(image) for image in images])


def read(path: Path, cores: int, limit: int | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All pictures of one npz file as uint8 [N, 32, 32, 3], their class ids and the names of the classes."""
    with np.load(path, allow_pickle=False) as file:
        header, blob, offsets = file["header"].tobytes(), file["blob"].tobytes(), file["offsets"].astype(np.int64)
        labels, names = file["labels"].astype(np.int64), tuple(str(name) for name in file["classes"])
    # The files are ordered by class: a part of one is spread over all of it.
    index = np.arange(len(labels)) if limit is None else np.linspace(0, len(labels) - 1, limit).astype(np.int64)
    parts = []
    for chunk in np.array_split(index, max(1, 4 * cores)):
        if not len(chunk):
            continue
        if limit is None:
            first, last = offsets[chunk[0]], offsets[chunk[-1] + 1]
            parts.append((header, blob[first:last], offsets[chunk[0] : chunk[-1] + 2] - first))
        else:
            parts.extend((header, blob[offsets[i] : offsets[i + 1]], np.array([0, offsets[i + 1] - offsets[i]])) for i in chunk)
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        images = np.concatenate(pool.map(_decode, parts))
    return images, labels[index], names


# The plain loop that everyone writes


class PlainSet(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Pictures through torchvision's transforms, one at a time, as torchvision.datasets.CIFAR10 gives them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        mean, std = [value / 255 for value in MEAN], [value / 255 for value in STD]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_loop(
    network: nn.Module, images: np.ndarray, labels: np.ndarray, device: torch.device, workers: int, seconds: float, amp: bool
) -> dict[str, Any]:
    """Images/s of a DataLoader loop after its first epoch's start: eager, fp32 with TF32 convolutions (or bf16 autocast), SGD, loss read each step."""
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = torch.utils.data.DataLoader(
        PlainSet(images, labels),
        batch_size=512 if len(labels) > 2000 else 16,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        drop_last=True,
    )
    rates: list[float] = []
    end = time.monotonic() + seconds
    while len(rates) < 4 and (time.monotonic() < end or len(rates) < 2):
        clock, count, total = Clock(device), 0, 0.0
        clock.start()
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                loss = F.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            count += len(x)
        clock.stop()
        rates.append(count / clock.seconds)
    # The first epoch starts the workers and picks the convolutions.
    return {"images_per_s": float(np.median(rates[1:])), "epochs": rates, "workers": workers, "amp": "bf16" if amp else "off"}


# The experiment


class Experiment:
    """Everything that is measured, in an order that gives the most valuable results first; written out after each part."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.quick = given, given.quick
        self.started = time.monotonic()
        self.end = self.started + 60 * given.minutes
        self.cores = len(os.sched_getaffinity(0))
        self.device = torch.device("cuda" if torch.cuda.is_available() and not self.quick else "cpu")
        if self.device.type == "cpu" and not self.quick:
            sys.exit("no GPU here; --quick runs 48 pictures on the CPU")
        torch.set_num_threads(1 if self.quick else max(1, self.cores // 2))
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        self.command = "python3 " + shlex.join(sys.argv)
        self.results: dict[str, Any] = {"command": self.command, "data": DATA, "machine": self._machine(), "networks": {}, "errors": []}
        limit = 48 if self.quick else None
        self.images, self.labels, self.names = read(given.data / "cifar10_train_jpeg.npz", self.cores, limit)
        test_images, test_labels, _ = read(given.data / "cifar10_test_jpeg.npz", self.cores, limit)
        self.say(f"decoded {len(self.images)} + {len(test_images)} pictures with {self.cores} processes")
        self.train = Pictures.put(torch.from_numpy(self.images), torch.from_numpy(self.labels), self.device)
        self.test = Pictures.put(torch.from_numpy(test_images), torch.from_numpy(test_labels), self.device)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(self.images))).to(self.device)
        held = HELD_OUT * len(order) // 50_000
        self.held, self.kept = order[:held], order[held:]
        self.teacher: nn.Module | None = None

    def _machine(self) -> dict[str, Any]:
        gpu = torch.cuda.get_device_name(0) if self.device.type == "cuda" else None
        shared = os.statvfs("/dev/shm")
        return {
            "gpu": gpu,
            "cores": self.cores,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "shared_memory_gib": round(shared.f_bavail * shared.f_frsize / 2**30, 1),
        }

    def left(self) -> float:
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def save(self) -> None:
        (self.given.output / "train_cifar10.json").write_text(json.dumps(self.results, indent=1))

    def guarded(self, part: Callable[[], None], needs_s: float) -> None:
        """Runs one part; a failure is written down and costs only this part."""
        name = part.__name__
        if self.left() < needs_s and not self.quick:
            self.say(f"{name}: left out, {self.left():.0f} s left, needs {needs_s:.0f}")
            self.results["errors"].append(f"{name}: no time left")
            return
        try:
            part()
        except Exception as error:
            self.say(f"{name}: FAILED\n{traceback.format_exc(limit=-6)}")
            self.results["errors"].append(f"{name}: {error!r}"[:500])
        self.save()

    # Shared pieces

    def trainer(self, make: Callable[[], nn.Module], recipe: Recipe, teacher: nn.Module | None = None) -> FastTrainer:
        small = replace(recipe, batch_size=16) if self.quick else recipe
        ladder = LADDER[LADDER.index(self.given.engine) :]
        made = FastTrainer(make, self.train, small, teacher=teacher, ladder=ladder, mode=self.given.compile_mode, log=self.say)
        self.say(f"engine {made.engine} ready after {made.prepare_seconds:.1f} s")
        return made

    def short(self, recipe: Recipe) -> Recipe:
        return replace(recipe, epochs=1) if self.quick else recipe

    def row(self, recipe: Recipe, seed: int, outcome: Outcome) -> dict[str, Any]:
        return {
            "recipe": asdict(recipe),
            "seed": seed,
            "seconds": outcome.seconds,
            "gpu_seconds": outcome.gpu_seconds,
            "images_per_s": outcome.images_per_s,
            "loss": outcome.loss,
            "curve": outcome.curve,
        }

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Test accuracy in fp32: of one view, with the mirrored one, with six."""
        return {f"test_accuracy_{views}_view": accuracy(network, self.test, views=views, fp32=True) for views in (1, 2, 6)}

    def checkpoint(self, name: str, network: nn.Module, model: str, arguments: dict[str, Any], row: dict[str, Any]) -> None:
        spec = PreprocessSpec(size_hw=(32, 32), resize="stretch", filter="antialias", mean=MEAN, std=STD)
        training = {"command": self.command, "data": DATA, "seed": row["seed"], "samples": len(self.images), **row["recipe"]}
        meta = {
            "model": model,
            "arguments": arguments,
            "task": "classification",
            "labels": list(self.names),
            "preprocess": asdict(spec),
            "training": training,
            "accuracy": {"accuracy": round(row["test_accuracy_1_view"], 5), "data": f"the {len(self.test.images)} test pictures of {DATA}"},
        }
        save_checkpoint(self.given.output / f"{name}.safetensors", network.state_dict(), meta)

    # custom_resnet

    def resnet(self) -> None:
        """The plateau of a long run, then the fewest epochs that end within one point of it, then more seeds of that."""
        arguments: dict[str, Any] = {"num_classes": len(self.names)}
        make = network_factory("custom_resnet", arguments)
        part: dict[str, Any] = {"parameters": count_parameters(make())}
        self.results["networks"]["custom_resnet"] = part
        trainer = self.trainer(make, Recipe(epochs=1))
        part |= {"engine": trainer.engine, "prepare_seconds": trainer.prepare_seconds}
        part["rate"] = self.rate(trainer)
        self.save()
        long = self.short(Recipe(epochs=self.given.plateau_epochs, lr=0.3, cutout=12))

        def score(network: nn.Module) -> float:
            return accuracy(network, self.test)

        outcome = trainer.run(long, 0, every=5, score=score)
        kept, averaged = self.scores(trainer.scored(False)), self.scores(trainer.scored(True))
        part["plateau"] = {**self.row(long, 0, outcome), **kept, **{f"average_{key}": value for key, value in averaged.items()}}
        self.say(f"plateau after {long.epochs} epochs, {outcome.seconds:.1f} s: {kept}; average {averaged}")
        self.teach(trainer)
        self.save()
        plateau = max(kept["test_accuracy_1_view"], averaged["test_accuracy_1_view"])
        part["goal"] = plateau - 0.01
        part["sprints"] = self.sprints(trainer, plateau - 0.01)

    def teach(self, trainer: FastTrainer) -> None:
        self.teacher = trainer.make().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher.load_state_dict(trainer.scored(True).state_dict())
        self.teacher.requires_grad_(False).eval()

    def sprints(self, trainer: FastTrainer, goal: float) -> list[dict[str, Any]]:
        """Short runs without any evaluation on the way, more epochs each time until the goal is met, then two more seeds."""
        rows: list[dict[str, Any]] = []

        def sprint(epochs: int, seed: int) -> float:
            recipe = self.short(Recipe(epochs=epochs, lr=0.4, cutout=0 if epochs < 14 else 6))
            outcome = trainer.run(recipe, seed)
            rows.append({**self.row(recipe, seed, outcome), **self.scores(trainer.scored(False))})
            reached = rows[-1]["test_accuracy_1_view"]
            self.say(f"sprint of {recipe.epochs} epochs, seed {seed}: {outcome.seconds:.2f} s, {reached:.4f} (goal {goal:.4f})")
            return float(reached)

        for epochs in self.given.sprints:
            if sprint(epochs, 1) >= goal and not self.quick:
                for seed in (2, 3):
                    sprint(epochs, seed)
                break
            if self.left() < 60 and not self.quick:
                break
        return rows

    def rate(self, trainer: FastTrainer) -> dict[str, float]:
        """Images/s of three epochs after a first one."""
        recipe = replace(trainer.recipe, epochs=1)
        trainer.run(recipe, 0)
        outcome = trainer.run(replace(recipe, epochs=1 if self.quick else 3), 0)
        self.say(f"{outcome.images_per_s:,.0f} images/s, GPU time {outcome.gpu_seconds:.3f} of {outcome.seconds:.3f} s")
        return {"images_per_s": outcome.images_per_s, "seconds": outcome.seconds, "gpu_seconds": outcome.gpu_seconds}

    # basic_cnn

    def basic(self) -> None:
        """Picks a recipe on 5,000 held-out training pictures, then trains three seeds on all 50,000; the first one is the checkpoint."""
        part: dict[str, Any] = {"candidates": [], "seeds": []}
        self.results["networks"]["basic_cnn"] = part
        plans = [
            (0.3, Recipe(epochs=60, lr=0.1, cutout=0)),
            (0.3, Recipe(epochs=60, lr=0.2, cutout=6)),
            (0.1, Recipe(epochs=60, lr=0.2, cutout=6)),
        ]
        if self.teacher is None and not self.quick:
            teacher = self.trainer(network_factory("custom_resnet", {"num_classes": len(self.names)}), Recipe(epochs=30, lr=0.3))
            teacher.run(teacher.recipe, 0)
            self.teach(teacher)
        if self.teacher is not None:
            plans += [(0.1, replace(recipe, distil=0.8)) for _, recipe in plans[:2]] + [
                (0.3, Recipe(epochs=60, lr=0.2, cutout=0, distil=0.8))
            ]
        best: tuple[float, float, Recipe, FastTrainer, float] | None = None
        trainers: dict[tuple[float, bool], FastTrainer] = {}
        for dropout, plan in plans:
            if best is not None and self.left() < 150 and not self.quick:
                break
            recipe = self.short(plan)
            key = (dropout, recipe.distil > 0)
            if key not in trainers:
                make = network_factory("basic_cnn", {"num_classes": len(self.names), "dropout": dropout})
                trainers[key] = self.trainer(make, recipe, self.teacher if recipe.distil > 0 else None)
                part.setdefault("parameters", count_parameters(make()))
                part.setdefault("engine", trainers[key].engine)
                part.setdefault("prepare_seconds", trainers[key].prepare_seconds)
                if "rate" not in part:
                    part["rate"] = self.rate(trainers[key])
            trainer = trainers[key]
            outcome = trainer.run(recipe, 0, chosen=self.kept)
            reached = accuracy(trainer.scored(True), self.train, chosen=self.held)
            part["candidates"].append({**self.row(recipe, 0, outcome), "dropout": dropout, "held_out_accuracy": reached})
            self.say(f"basic_cnn dropout {dropout} {recipe}: {outcome.seconds:.1f} s, held out {reached:.4f}")
            self.save()
            if best is None or reached > best[0]:
                best = (reached, dropout, recipe, trainer, outcome.seconds / recipe.epochs)
        assert best is not None
        self.basic_seeds(part, best)

    def basic_seeds(self, part: dict[str, Any], best: tuple[float, float, Recipe, FastTrainer, float]) -> None:
        """Longer runs of the chosen recipe on all training pictures: one of at most half the time left, then as many seeds as fit."""
        _, dropout, recipe, trainer, per_epoch = best
        per_epoch *= len(self.images) / len(self.kept)
        wanted = 2 if self.quick else int(min(self.given.basic_epochs, max(30, 0.5 * (self.left() - 50) / max(per_epoch, 1e-3))))
        recipe = replace(recipe, epochs=wanted)
        for seed in (0, 1, 2):
            if seed and (self.quick or self.left() < per_epoch * wanted + 50):
                break
            outcome = trainer.run(recipe, seed, every=max(1, wanted // 20), score=lambda network: accuracy(network, self.test))
            row = {**self.row(recipe, seed, outcome), "dropout": dropout, **self.scores(trainer.scored(True))}
            row |= {f"last_{key}": value for key, value in self.scores(trainer.scored(False)).items()}
            part["seeds"].append(row)
            if seed == 0:
                arguments = {"num_classes": len(self.names), "dropout": dropout}
                self.checkpoint("cifar10-basic", trainer.scored(True), "basic_cnn", arguments, row)
            self.say(f"basic_cnn seed {seed}, {wanted} epochs: {outcome.seconds:.1f} s, test {row['test_accuracy_1_view']:.4f}")
            self.save()

    # Beside it

    def plain(self) -> None:
        """The DataLoader loop of both networks, fp32 and bf16, and the ratio."""
        for name in NETWORKS:
            if name not in self.results["networks"]:
                continue
            part = self.results["networks"][name]
            workers = 2 if self.quick else self.cores
            for amp in (False, True):
                network = network_factory(name, {"num_classes": len(self.names)})()
                found = plain_loop(network, self.images, self.labels, self.device, workers, 15, amp)
                part[f"plain_{'bf16' if amp else 'fp32'}"] = found
                ratio = part["rate"]["images_per_s"] / found["images_per_s"] if "rate" in part else float("nan")
                part[f"ratio_{'bf16' if amp else 'fp32'}"] = ratio
                self.say(f"{name}: plain loop ({found['amp']}) {found['images_per_s']:,.0f} images/s; ours is {ratio:.1f} times that")
                self.save()


def network_factory(name: str, arguments: dict[str, Any]) -> Callable[[], nn.Module]:
    """Builds a fresh network; stands in for custom_resnet with torchvision's as long as that is not there."""

    def make() -> nn.Module:
        try:
            return build(name, **arguments)
        except UnknownNameError:
            if name != "custom_resnet":
                raise
            from torchvision.models import resnet18

            network: nn.Module = resnet18(num_classes=arguments["num_classes"])
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
            return network

    return make


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole run ends about then")
    parser.add_argument("--engine", choices=LADDER, default=LADDER[0], help="the first one to try")
    parser.add_argument("--compile-mode", choices=("default", "max-autotune-no-cudagraphs"), default="default")
    parser.add_argument("--plateau-epochs", type=int, default=60)
    parser.add_argument("--basic-epochs", type=int, default=400)
    parser.add_argument("--sprints", type=int, nargs="+", default=[10, 13, 16, 20, 25, 30])
    parser.add_argument("--only", nargs="*", choices=("resnet", "basic", "plain"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.sprints = given.sprints[:1]
    given.output.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(given)
    for part, needs in ((experiment.resnet, 120.0), (experiment.basic, 120.0), (experiment.plain, 40.0)):
        if not given.only or part.__name__ in given.only:
            experiment.guarded(part, needs)
    experiment.save()
    for name, part in experiment.results["networks"].items():
        print(name, json.dumps({key: value for key, value in part.items() if not isinstance(value, (list, dict))}))
    experiment.say(f"done; errors: {experiment.results['errors']}")


if __name__ == "__main__":
    main()
