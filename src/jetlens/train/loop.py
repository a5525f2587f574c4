"""The training loop, in reading order: data, network, optimizer, epochs, validation, checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jetlens.atomic import write_atomic
from jetlens.checkpoint import save_checkpoint
from jetlens.errors import TrainingError
from jetlens.models import build
from jetlens.registry import Table
from jetlens.train.config import DATA, Progress, TrainConfig, complete, preprocess_of
from jetlens.train.samples import Samples, Split

__all__ = ["RECIPES", "Recipe", "choose_device", "evaluate_samples", "run"]

RECIPES = Table(
    "task",
    {
        "classification": "jetlens.train.classification:ClassificationRecipe",
        "detection": "jetlens.train.detection:DetectionRecipe",
        "segmentation": "jetlens.train.segmentation:SegmentationRecipe",
    },
)
WARM_UP = 0.05
LAST_LR = 0.01
EMA_DECAY = 0.998
CLIP_NORM = 10.0
REPORT_STEPS = 10


class Recipe(Protocol):
    """What a task adds to the loop; built as ``SomeRecipe(num_classes, size_hw)``."""

    metric: str

    def model_arguments(self) -> dict[str, object]:
        """Arguments of the model's factory that follow from the task."""
        ...

    def augment(self, images: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Changes float images [N, 3, H, W] in grey levels, and their truth with them."""
        ...

    def loss(self, network: nn.Module, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        """One number to minimise; images are normalised, ``done`` is the share of the run that is over."""
        ...

    def measure(self, network: nn.Module, batches: Iterator[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
        """The validation figures, ``metric`` among them."""
        ...


def choose_device(asked: str) -> torch.device:
    """The device to train on.

    Raises:
        TrainingError: ``cuda`` was asked for and there is no usable GPU.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        built = "this torch has no CUDA" if torch.version.cuda is None else f"torch for CUDA {torch.version.cuda} sees no GPU"
        raise TrainingError(f"device cuda: {built}; give --device cpu, or install a driver and a torch that match")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


class Resident:
    """Samples as tensors, on the device where they fit there, and batches of them as normalised float [N, 3, H, W]."""

    def __init__(self, samples: Samples, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.device = device
        size = samples.images.nbytes + sum(array.nbytes for array in samples.truth.values())
        fits = device.type == "cuda" and size < 0.5 * torch.cuda.mem_get_info(device)[0]
        home = device if fits else torch.device("cpu")
        self.images = torch.from_numpy(samples.images).to(home)
        self.truth = {key: torch.from_numpy(array).to(home) for key, array in samples.truth.items()}
        self.mean = torch.tensor(mean, device=device).reshape(1, 3, 1, 1)
        self.std = torch.tensor(std, device=device).reshape(1, 3, 1, 1)

    def pick(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Float images in grey levels and their truth, on the device."""
        index = index.to(self.images.device)
        images = self.images[index].to(self.device).permute(0, 3, 1, 2).float()
        return images, {key: tensor[index].to(self.device) for key, tensor in self.truth.items()}

    def normalised(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """All samples once, as a deployed network sees them."""
        for index in torch.split(torch.arange(len(self.images)), batch_size):
            images, truth = self.pick(index)
            yield self.normalised(images), truth

    def shuffled(self, batch_size: int, recipe: Recipe) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """All samples once in random order, augmented; a last batch of one is left out, batch norm cannot use it."""
        for index in torch.split(torch.randperm(len(self.images)), batch_size):
            if len(index) > 1:
                images, truth = recipe.augment(*self.pick(index))
                yield self.normalised(images), truth


class Average:
    """The exponential moving average of a network's weights and statistics; young averages forget faster."""

    def __init__(self, network: nn.Module, twin: nn.Module) -> None:
        self.twin = twin.requires_grad_(False).eval()
        self.twin.load_state_dict(network.state_dict())
        self.updates = 0
        pairs = list(zip(self.twin.state_dict().values(), network.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(EMA_DECAY, self.updates / (self.updates + 10))
        for mean, value in self._floats:
            mean.lerp_(value, 1 - decay)
        for mean, value in self._counters:
            mean.copy_(value)


def learning_rate(done: float, peak: float) -> float:
    """Linear warm-up, then a half cosine down to a hundredth of the peak."""
    if done < WARM_UP:
        return peak * max(done, 1e-3) / WARM_UP
    return peak * (LAST_LR + (1 - LAST_LR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP)))))


def _optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr or 1e-3, fused=next(network.parameters()).is_cuda)


class _Run:
    """The state of one training run."""

    def __init__(self, config: TrainConfig, split: Split, progress: Callable[[Progress], None]) -> None:
        assert config.size_hw is not None
        assert config.batch_size is not None
        assert config.model is not None
        assert config.lr is not None
        self.config, self.split, self.progress = config, split, progress
        self.batch_size, self.peak = config.batch_size, config.lr
        self.device = choose_device(config.device)
        torch.manual_seed(config.seed)
        self.recipe: Recipe = RECIPES.load(config.task)(len(split.labels), config.size_hw)
        self.arguments = {**self.recipe.model_arguments(), **config.model_arguments}
        network = build(config.model, **self.arguments)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.network, build(config.model, **self.arguments).to(self.device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.network, config)
        self.spec = preprocess_of(config)
        self.training = Resident(split.training, self.device, self.spec.mean, self.spec.std)
        self.validation = Resident(split.validation, self.device, self.spec.mean, self.spec.std)
        epoch_steps = math.ceil(len(split.training) / self.batch_size)
        self.steps = min(config.steps or 1 << 62, epoch_steps * config.epochs)
        self.step, self.epoch, self.started = 0, 0, time.monotonic()
        self.best = -1.0
        self.history: list[dict[str, Any]] = []
        name = config.name or config.model
        self.checkpoint = config.output / f"{name}.safetensors"
        self.history_file = config.output / f"{name}.history.json"

    def done(self) -> float:
        """Share of the run, by steps or by the clock, whichever is further."""
        clock = 0.0 if self.config.minutes is None else (time.monotonic() - self.started) / (60 * self.config.minutes)
        return min(1.0, max(self.step / self.steps, clock))

    def arithmetic(self) -> AbstractContextManager[Any]:
        if self.device.type == "cuda" and self.config.amp:
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def train_epoch(self) -> float:
        """One pass over the data; returns the mean loss."""
        self.network.train()
        total, steps, lr = torch.zeros((), device=self.device), 0, 0.0
        for images, truth in self.training.shuffled(self.batch_size, self.recipe):
            done = self.done()
            if done >= 1:
                break
            lr = learning_rate(done, self.peak)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.arithmetic():
                loss = self.recipe.loss(self.network, images, truth, done)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.average.update()
            total += loss.detach()
            self.step, steps = self.step + 1, steps + 1
            if steps % REPORT_STEPS == 0:
                self.report(float(total) / steps, None)
        mean = float(total) / max(1, steps)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss became {mean} in epoch {self.epoch + 1}; give a smaller --lr (it was {self.peak:g})")
        return mean

    def validate(self) -> dict[str, float]:
        with torch.inference_mode(), self.arithmetic():
            return self.recipe.measure(self.average.twin, self.validation.in_order(self.batch_size))

    def report(self, loss: float, metrics: dict[str, float] | None) -> Progress:
        lr = float(self.optimizer.param_groups[0]["lr"])
        event = Progress(self.done(), self.epoch, self.step, loss, lr, time.monotonic() - self.started, metrics)
        self.progress(event)
        return event

    def keep(self, metrics: dict[str, float]) -> None:
        """Writes the averaged weights as the checkpoint when they are the best so far."""
        if metrics[self.recipe.metric] <= self.best:
            return
        self.best = metrics[self.recipe.metric]
        config = self.config
        training = {
            "epoch": self.epoch,
            "step": self.step,
            "samples": len(self.split.training),
            "batch_size": self.batch_size,
            "lr": self.peak,
        }
        meta = {
            "model": config.model,
            "arguments": self.arguments,
            "task": config.task,
            "labels": list(self.split.labels),
            "preprocess": asdict(self.spec),
            "training": {"command": config.command, "data": self.split.origin, "seed": config.seed, **training},
            "accuracy": {
                **{key: round(value, 5) for key, value in metrics.items()},
                "data": f"{len(self.split.validation)} held-out samples",
            },
        }
        save_checkpoint(self.checkpoint, self.average.twin.state_dict(), meta)


def run(config: TrainConfig, progress: Callable[[Progress], None] | None = None, split: Split | None = None) -> Path:
    """Trains and returns the checkpoint with the best validation figure; a JSON list of the epochs stands beside it.

    Args:
        progress: called every few steps and after each validation.
        split: samples that are already drawn; None draws those of ``config.data``.

    Raises:
        TrainingError: no GPU where one is asked for, or the loss is no number any more.
        UsageError: a setting is out of its range.
    """
    config = complete(config)
    choose_device(config.device)
    _rehearse(config)
    state = _Run(config, split or DATA.load(config.data)(config), progress or (lambda event: None))
    while state.done() < 1:
        loss = state.train_epoch()
        state.epoch += 1
        if state.epoch % config.validate_every == 0 or state.done() >= 1:
            metrics = state.validate()
            state.keep(metrics)
            event = state.report(loss, metrics)
            state.history.append(asdict(event))
            write_atomic(state.history_file, json.dumps(state.history, indent=1).encode())
    return state.checkpoint


def _rehearse(config: TrainConfig) -> None:
    """Sends an empty picture through the network, so that a size it does not take shows before minutes of drawing."""
    assert config.size_hw is not None
    assert config.model is not None
    recipe: Recipe = RECIPES.load(config.task)(2, config.size_hw)
    with torch.device("meta"), torch.no_grad():
        build(config.model, **{**recipe.model_arguments(), **config.model_arguments})(torch.empty(2, 3, *config.size_hw))


def evaluate_samples(network: nn.Module, config: TrainConfig, samples: Samples, labels: tuple[str, ...]) -> dict[str, float]:
    """The validation figures of a trained network on other samples, in fp32."""
    config = complete(config)
    assert config.size_hw is not None
    device, spec = choose_device(config.device), preprocess_of(config)
    recipe: Recipe = RECIPES.load(config.task)(len(labels), config.size_hw)
    with torch.inference_mode():
        resident = Resident(samples, device, spec.mean, spec.std)
        return recipe.measure(network.to(device).eval(), resident.in_order(config.batch_size or 16))
