"""Two quick looks before a long run: can the network learn one batch by heart, and which learning rate suits it?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from jetlens.atomic import write_atomic
from jetlens.errors import TrainingError
from jetlens.train.config import Progress, TrainConfig, complete
from jetlens.train.feed import Batch
from jetlens.train.loop import open_trainer
from jetlens.train.parallel import open_world
from jetlens.train.pictures import can_draw, draw_range
from jetlens.train.samples import Split
from jetlens.train.trainer import Trainer

__all__ = ["Overfit", "RangeTest", "overfit_one_batch", "range_test"]

STEPS = 200
LEARNED = 0.1
"""A batch counts as learned by heart when its loss fell below this share of the first one's."""
LOWEST, HIGHEST = 1e-7, 10.0
SMOOTHING = 0.9
EXPLODED = 4.0


@dataclass(frozen=True, slots=True)
class Overfit:
    """The loss at the first and the last step, how many there were, and whether the batch was learned."""

    first: float
    last: float
    steps: int
    learned: bool


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The smoothed loss by learning rate (Smith 2017), and the rate to begin with: a tenth of the one with the lowest loss."""

    rates: list[float]
    losses: list[float]
    suggested: float
    file: str


def _plain(config: TrainConfig) -> TrainConfig:
    """Without chance or schedule: no augmentation, no dropout, no decay."""
    return replace(
        complete(config),
        flip=False,
        crop=False,
        rotation=False,
        jitter=False,
        mixup=False,
        cutout=False,
        schedule="constant",
        weight_decay=0.0,
    )


def _first_batch(trainer: Trainer) -> Batch:
    batch = next(iter(trainer.training.batches(trainer.order(0)[:1], 0)))
    if batch is None:
        raise TrainingError("no picture of the first batch can be used; jetlens data check names what is wrong")
    return batch


def overfit_one_batch(
    config: TrainConfig, progress: Callable[[Progress], None] | None = None, split: Split | None = None, steps: int = STEPS
) -> Overfit:
    """Trains on one batch over and over; a network, a loss and data that fit each other learn it by heart. Writes no checkpoint.

    Raises:
        TrainingError: the loss became no number.
    """
    config = replace(_plain(config), label_smoothing=0.0)
    with open_world(config) as world:
        trainer = open_trainer(config, split, world, progress or (lambda event: None))
        images, truth = trainer.ready(_first_batch(trainer))
        trainer.network.train()
        for module in trainer.network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        first = last = math.inf
        for step in range(1, steps + 1):
            last = float(trainer.stepper.take(images, truth, 1.0, 1.0))
            first = last if step == 1 else first
            trainer.step, trainer.total, trainer.counted = step, trainer.total * 0 + last, 1
            if step % config.log_steps == 0:
                trainer.report(None)
            if last < LEARNED * first:
                break
        return Overfit(first, last, step, last < LEARNED * first)


def range_test(
    config: TrainConfig, progress: Callable[[Progress], None] | None = None, split: Split | None = None, steps: int = 100
) -> RangeTest:
    """Raises the learning rate from 1e-7 to 10 over some steps until the loss explodes; the curve is stored in the run's folder."""
    config = replace(complete(config), schedule="constant")
    rates: list[float] = []
    losses: list[float] = []
    with open_world(config) as world:
        trainer = open_trainer(config, split, world, progress or (lambda event: None))
        trainer.network.train()
        mean, epoch, step = 0.0, 0, 0
        while step < steps:
            for batch in trainer.training.batches(world.share(trainer.order(epoch)), epoch):
                if batch is None or step >= steps:
                    continue
                rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1))
                for group in trainer.optimizer.param_groups:
                    group["lr"] = rate
                try:
                    loss = float(trainer.stepper.take(*trainer.ready(batch), 0.0, 1.0))
                except TrainingError:
                    loss = math.inf  # that is what the test looks for
                step += 1
                mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
                smooth = mean / (1 - SMOOTHING**step)
                if not math.isfinite(smooth) or (losses and smooth > EXPLODED * min(losses)):
                    step = steps
                    break
                rates.append(rate)
                losses.append(smooth)
            epoch += 1
        if not losses:
            raise TrainingError("the loss is no number from the first step on; check the data with jetlens data check")
        suggested = rates[losses.index(min(losses))] / 10
        found = RangeTest(rates, losses, suggested, str(trainer.folder / "lr-range.json"))
        if world.first:
            write_atomic(Path(found.file), json.dumps(asdict(found), indent=1).encode())
            if config.pictures and can_draw():
                draw_range(rates, losses, suggested, trainer.folder)
        return found
