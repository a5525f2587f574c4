"""Trainer: everything that one run consists of, its epochs, and what it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jetlens.checkpoint import load_checkpoint, load_into, save_checkpoint
from jetlens.errors import TrainingError, UsageError
from jetlens.models import build, pretrained
from jetlens.train.average import Average
from jetlens.train.classification import matrix_of
from jetlens.train.config import Progress, TrainConfig, preprocess_of
from jetlens.train.feed import Batch, Feed, build_feed, normaliser
from jetlens.train.optimizers import build_optimizer
from jetlens.train.parallel import World
from jetlens.train.pictures import NO_PICTURES, can_draw, draw_curves, draw_end, write_tables
from jetlens.train.recipe import RECIPES, Recipe
from jetlens.train.record import Board, Pace, write_history
from jetlens.train.samples import Split
from jetlens.train.schedules import build_schedule
from jetlens.train.score import Score, final_score
from jetlens.train.state import fingerprint, flatten_optimizer, read_state, restore_optimizer, restore_rng, rng_state, seed_all, settings_of
from jetlens.train.step import Stepper, arithmetic, spare_activations

__all__ = ["Trainer"]

SAVING_SHARE = 0.05
DRAWING_SHARE = 0.05
"""Saving the state and drawing curves cost at most this share of the time."""
LARGEST_SEED = 1 << 31


class Trainer:
    """One training run: everything that it consists of, and how far it is."""

    def __init__(self, config: TrainConfig, split: Split, world: World, progress: Callable[[Progress], None]) -> None:
        assert config.size_hw is not None
        assert config.batch_size is not None
        assert config.lr is not None
        self.config, self.split, self.world, self.progress = config, split, world, progress
        self.batch_size, self.peak, self.device = config.batch_size, config.lr, world.device
        # Data: pictures on the device or streamed, in an order that follows from seed and epoch.
        self.spec = preprocess_of(config, split.mean, split.std)
        self.normalise = normaliser(self.spec, self.device, config.channels_last)
        self.training: Feed = build_feed(split.training, self.spec, config, self.device, self.say)
        self.validation: Feed = build_feed(split.validation, self.spec, config, self.device, self.say)
        # Network, its average, loss, optimizer, schedule.
        seed_all(config.seed)
        self.recipe: Recipe = RECIPES.load(config.task)(len(split.labels), config)
        self.arguments = {**self.recipe.model_arguments(), **config.model_arguments}
        self.network = self._placed(_network(config, self.arguments))
        self.average = Average(self.network, self._placed(build(str(config.model), own_code=True, **self.arguments)), config.ema_decay)
        if config.activation_checkpointing:
            spare_activations(self.network)
        self.optimizer = build_optimizer(self.network, config)
        self.schedule = build_schedule(config)
        self.stepper = Stepper(config, self.network, self.recipe, self.optimizer, world, self.say)
        self.arithmetic, _ = arithmetic(config, self.device)
        if world.size > 1:
            seed_all((config.seed * 1009 + world.rank + 1) % LARGEST_SEED)
        # How far it is.
        self.steps = min(config.steps or 1 << 62, len(self.order(0)) * config.epochs)
        self.step = self.epoch = self.position = self.stale = self.skipped = 0
        self.total = torch.zeros((), device=self.device)
        self.counted = 0
        self.best = -math.inf
        self.history: list[dict[str, Any]] = []
        self.command = config.command
        self._started, self._before_s = time.monotonic(), 0.0
        self._paced = (time.monotonic(), 0)
        # Where it is written.
        self.folder = config.output / config.run_name
        self.checkpoint = config.output / f"{config.run_name}.safetensors"
        self.history_file = config.output / f"{config.run_name}.history.json"
        self.state_file = self.folder / "last.safetensors"
        self.data = fingerprint(split)
        self._saving, self._drawing = Pace(SAVING_SHARE), Pace(DRAWING_SHARE)
        self.board: Board | None = None

    def _placed(self, network: nn.Module) -> nn.Module:
        if self.config.sync_bn and self.world.size > 1:
            if self.device.type != "cuda":
                raise UsageError("sync_bn needs GPUs; leave --sync-bn away on the CPU")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        placed: nn.Module = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return placed

    # How far it is

    def elapsed_s(self) -> float:
        return self._before_s + time.monotonic() - self._started

    def done(self) -> float:
        """Share of the run, by steps or by the clock, whichever is further."""
        clock = 0.0 if self.config.minutes is None else self.elapsed_s() / (60 * self.config.minutes)
        return min(1.0, max(self.step / self.steps, clock))

    def over(self) -> bool:
        """Whether the run ends here: its steps or its time are used up, or nothing got better for long; the first process decides."""
        stop = self.config.early_stop
        ends = self.done() >= 1 or self.epoch >= self.config.epochs or (stop is not None and self.stale >= stop)
        return self.world.agree(ends)

    def say(self, note: str) -> None:
        """Tells the user something."""
        if self.world.first:
            lr = float(self.optimizer.param_groups[0]["lr"]) if hasattr(self, "optimizer") else 0.0
            step, epoch = getattr(self, "step", 0), getattr(self, "epoch", 0)
            self.progress(Progress(0.0, epoch, step, 0.0, lr, 0.0, note=note))

    def report(self, metrics: dict[str, float] | None) -> Progress:
        """Tells how far the run is."""
        now, (then, pictures) = time.monotonic(), self._paced
        speed = pictures / (now - then) if pictures else 0.0
        self._paced = (now, 0)
        loss = float(self.world.mean(self.total.clone())) / max(1, self.counted)
        lr = float(self.optimizer.param_groups[0]["lr"])
        event = Progress(self.done(), self.epoch, self.step, loss, lr, self.elapsed_s(), metrics, round(speed, 1))
        if self.world.first:
            self.progress(event)
            if self.board is not None:
                self.board.add(event)
        return event

    # Data

    def order(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch as indices; a last batch of one a process is left out, batch norm cannot use it."""
        generator = torch.Generator().manual_seed((self.config.seed * 100_003 + epoch) % LARGEST_SEED)
        batches = torch.split(torch.randperm(len(self.training), generator=generator), self.batch_size)
        kept = [batch for batch in batches if len(batch) >= 2 * self.world.size]
        if not kept:
            raise TrainingError(
                f"{len(self.training)} training pictures are too few for batches of {self.world.size * 2} or more; give more"
            )
        return kept

    def ready(self, batch: Batch) -> Batch:
        """A batch augmented and normalised."""
        augment = self.recipe.finish if self.training.augments else self.recipe.augment
        images, truth = augment(*batch)
        return self.normalise(images), truth

    def in_order(self) -> Iterator[Batch]:
        """The validation pictures of this process once, as a deployed network sees them."""
        indices = self.world.share(torch.split(torch.arange(len(self.validation)), self.batch_size))
        for batch in self.validation.batches([index for index in indices if len(index)], None):
            if batch is not None:
                yield self.normalise(batch[0]), batch[1]

    # Epochs

    def fit(self) -> None:
        """Trains until the run is over."""
        # A state saved at the last step of an epoch still lacks the validation; and however short the time is, a run leaves a checkpoint.
        while self.position or not self.history or not self.over():
            self.train_epoch()
            self.epoch, self.position = self.epoch + 1, 0
            if self.epoch % self.config.validate_every == 0 or self.done() >= 1 or self.epoch >= self.config.epochs:
                self.validate()
            self.total.zero_()
            self.counted = 0
            # The first process decides: each of them takes part in saving.
            if self.world.agree(self.config.save_steps is not None or self._saving.due() or self.epoch >= self.config.epochs):
                self._saving.run(self.save)

    def train_epoch(self) -> None:
        """The rest of an epoch: from where the state stands to its end, or to that of the run."""
        self.network.train()
        whole = self.order(self.epoch)[self.position :]
        begun = self.step
        images = torch.empty(0)
        truth: dict[str, Tensor] = {}
        for size, batch in zip(map(len, whole), self.training.batches(self.world.share(whole), self.epoch), strict=True):
            done = self.done()
            if self.config.minutes is not None and self.step > begun and self.world.agree(done >= 1):
                break
            self.position += 1
            if batch is None or len(batch[0]) < 2:
                self.step += 1
                continue
            for group in self.optimizer.param_groups:
                group["lr"] = self.peak * self.schedule.factor(done)
            images, truth = self.ready(batch)
            self.total += self.stepper.take(images, truth, done, len(images) * self.world.size / size if self.world.size > 1 else 1.0)
            if self.config.ema:
                self.average.update()
            self.step, self.counted = self.step + 1, self.counted + 1
            self._paced = (self._paced[0], self._paced[1] + size)
            if self.step % self.config.log_steps == 0:
                self.report(None)
            if self.config.save_steps is not None and self.step % self.config.save_steps == 0:
                self.save()
            if self.step >= self.steps:
                break
        if self.step == begun and whole:
            raise TrainingError("an epoch went by without a step: no picture could be used; jetlens data check names what is wrong")
        if len(images):
            self.stepper.settle(images, truth, self.done())

    def validate(self) -> None:
        """Measures the averaged weights on all processes, keeps them if they are the best, and writes the history."""
        if not self.config.ema:
            self.average.copy()
        self.world.same(list(self.average.twin.state_dict().values()))
        with torch.inference_mode(), self.arithmetic():
            counts = self.recipe.count(self.average.twin, self.in_order())
        metrics = self.recipe.figures(self.world.sum(counts))
        score = metrics[self.recipe.metric]
        self.schedule.measured(score)
        self.stale = 0 if score > self.best else self.stale + 1
        event = self.report(metrics)
        self.history.append({key: value for key, value in asdict(event).items() if key != "note"})
        if self.world.first:
            if score > self.best:
                self.keep(metrics, self.average.twin.state_dict(), f"{len(self.validation)} held-out samples")
            self.write_rows()
        self.best = max(self.best, score)

    # What is written

    def keep(self, accuracy: dict[str, float], weights: dict[str, Tensor], measured_on: str, note: dict[str, Any] | None = None) -> None:
        """Writes the checkpoint to deploy."""
        config = self.config
        training = {
            "epoch": self.epoch,
            "step": self.step,
            "samples": len(self.split.training),
            "batch_size": self.batch_size,
            "lr": self.peak,
            "optimizer": config.optimizer,
            "schedule": config.schedule,
        }
        meta = {
            "model": config.model,
            "arguments": self.arguments,
            "task": config.task,
            "labels": list(self.split.labels),
            "preprocess": asdict(self.spec),
            "training": {"command": self.command, "data": self.split.origin, "seed": config.seed, **training, **(note or {})},
            "accuracy": {**{key: round(value, 6) for key, value in accuracy.items()}, "data": measured_on},
        }
        save_checkpoint(self.checkpoint, weights, meta)

    def write_rows(self) -> None:
        """The history as files, and now and then as curves."""
        write_history(self.history, self.history_file, self.folder / "history.csv")
        if self.config.pictures and can_draw() and self._drawing.due():
            self._drawing.run(lambda: draw_curves(self.history, self.folder))

    def save(self) -> None:
        """Writes the state of the run, from which it can go on bit for bit."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.config.ema:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.twin.state_dict().items()}
        moments, groups = flatten_optimizer(self.optimizer)
        tensors |= moments | rng_state(self.world) | {"loop.total": self.total}
        if not self.world.first:
            return
        loop = {key: getattr(self, key) for key in ("step", "epoch", "position", "counted", "stale", "command")}
        resume = {
            "settings": settings_of(self.config),
            "data": self.data,
            "loop": {**loop, "best": None if math.isinf(self.best) else self.best, "elapsed_s": self.elapsed_s()},
            "groups": groups,
            "updates": self.average.updates,
            "parts": self.stepper.parts,
            "schedule": self.schedule.state(),
            "scaler": self.stepper.scaler.state_dict(),
            "history": self.history,
        }
        save_checkpoint(self.state_file, tensors, {"resume": resume})

    def resume(self) -> None:
        """Goes on from the saved state, if there is one.

        Raises:
            TrainingError: it is of other settings or other data, or the best weights are gone.
        """
        if not self.state_file.is_file():
            self.say(f"{self.state_file}: no state yet, the run begins anew")
            return
        tensors, saved = read_state(self.state_file, self.config, self.data)
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "rng": {}, "loop": {}}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            parts[head][rest] = tensor
        load_into(self.network, parts["network"], str(self.state_file))
        if self.config.ema:
            load_into(self.average.twin, parts["average"], str(self.state_file))
        restore_optimizer(self.optimizer, {f"optimizer.{key}": value for key, value in parts["optimizer"].items()}, saved["groups"])
        restore_rng({f"rng.{key}": value for key, value in parts["rng"].items()}, self.world)
        self.total.copy_(parts["loop"]["total"])
        loop = saved["loop"]
        self.step, self.epoch, self.position = loop["step"], loop["epoch"], loop["position"]
        self.counted, self.stale, self.command = loop["counted"], loop["stale"], loop["command"]
        self.best = -math.inf if loop["best"] is None else loop["best"]
        self._before_s, self._started = loop["elapsed_s"], time.monotonic()
        self.average.updates, self.stepper.parts = saved["updates"], max(saved["parts"], self.config.accumulate)
        self.schedule.restore(saved["schedule"])
        self.stepper.scaler.load_state_dict(saved["scaler"])
        self.history = saved["history"]
        if self.history and not self.checkpoint.is_file():
            raise TrainingError(f"{self.checkpoint}: the best weights so far are gone; put the file back, or leave --resume away")
        if self.world.first and self.history:
            self.write_rows()
        self.say(f"resumed at epoch {self.epoch + 1}, step {self.step}")

    def finish(self) -> Path:
        """Puts the best weights back, scores them as `jetlens evaluate` does, and draws what there is to see."""
        self.world.wait()
        if not self.world.first:
            return self.checkpoint
        tensors, meta = load_checkpoint(self.checkpoint)
        load_into(self.average.twin, tensors, str(self.checkpoint))
        score = self._score(meta)
        if score.matrix is None and self.config.task != "detection":
            with torch.inference_mode():
                score.matrix = matrix_of(self.recipe.count(self.average.twin, self.in_order()))
        write_tables(score, self.split.labels, self.average.twin, self.spec.size_hw, self.folder)
        if self.config.pictures and can_draw():
            first = next(self.in_order())[0][:1].to(self.device)
            draw_curves(self.history, self.folder)
            draw_end(score, self.split.labels, self.average.twin, first, self.spec.size_hw, self.folder)
        elif self.config.pictures:
            self.say(NO_PICTURES)
        return self.checkpoint

    def _score(self, meta: dict[str, Any]) -> Score:
        """The last figures, which go into the checkpoint beside those that chose it."""
        if self.split.held_out is None:
            return Score()
        score = final_score(self.average.twin, self.config.task, self.split.labels, self.spec, self.split.held_out(), self.device)
        if not score.figures:
            self.say("no mAP: faster-coco-eval is not installed (pip install 'jetlens[map]')")
            return score
        chosen = {key: value for key, value in meta["accuracy"].items() if key != "data"}
        figures = {key: round(value, 6) for key, value in score.figures.items()}
        measured = f"{score.count} samples: {self.split.held_out_name}"
        meta["accuracy"] = {**figures, "data": measured}
        meta["training"] = {**meta["training"], "chosen_by": meta["training"].get("chosen_by", chosen)}
        tensors = self.average.twin.state_dict()
        save_checkpoint(self.checkpoint, tensors, meta)
        return score


def _network(config: TrainConfig, arguments: dict[str, Any]) -> nn.Module:
    """The network to train, new or with trained weights and a new head."""
    if config.pretrained or config.weights is not None:
        return pretrained(str(config.model), int(arguments["num_classes"]), config.weights)
    return build(str(config.model), own_code=True, **arguments)
