"""A run from its config to its checkpoint: processes, data, trainer, epochs, the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jetlens.errors import UsageError
from jetlens.models import build
from jetlens.spec import PreprocessSpec
from jetlens.train.config import Progress, TrainConfig, complete, preprocess_of
from jetlens.train.datasets import fit_size, open_data
from jetlens.train.feed import Resident, normaliser
from jetlens.train.parallel import World, choose_device, open_world
from jetlens.train.recipe import RECIPES, Recipe
from jetlens.train.record import Board
from jetlens.train.samples import Samples, Split
from jetlens.train.step import arithmetic
from jetlens.train.trainer import Trainer

__all__ = ["choose_device", "evaluate_samples", "open_trainer", "run"]


def open_trainer(config: TrainConfig, split: Split | None, world: World, progress: Callable[[Progress], None]) -> Trainer:
    """A trainer for a config, after what cannot work was refused; the data is opened, sized and read.

    Raises:
        UsageError: a setting is out of its range.
        DataError: the data cannot be opened or read.
        ModelError: the network does not take the size.
    """

    def say(note: str) -> None:
        if world.first:
            progress(Progress(0.0, 0, 0, 0.0, 0.0, 0.0, note=note))

    if split is None:
        opened = open_data(config)
        fitted = fit_size(config, opened)
        if fitted is not config and fitted.size_hw is not None:
            say("pictures become {}x{} (height x width); --size chooses another".format(*fitted.size_hw))
        config = fitted
        _rehearse(config)
        return Trainer(config, opened.split(config, say), world, progress)
    if config.size_hw is None and isinstance(split.training, Samples):
        height, width = split.training.images.shape[1:3]
        config = replace(config, size_hw=(int(height), int(width)))
    _rehearse(config)
    return Trainer(config, split, world, progress)


def run(config: TrainConfig, progress: Callable[[Progress], None] | None = None, split: Split | None = None) -> Path:
    """Trains and returns the checkpoint with the best validation figure; history and pictures stand beside it.

    Args:
        progress: called every few steps and after each validation.
        split: samples that are already drawn; None opens ``config.data``.

    Raises:
        TrainingError: no GPU where one is asked for, the loss is no number any more, or a state of another run.
        UsageError: a setting is out of its range.
    """
    config = complete(config)
    with ExitStack() as stack:
        world = stack.enter_context(open_world(config))
        arithmetic(config, world.device)  # refuses what the device cannot do
        trainer = open_trainer(config, split, world, progress or (lambda event: None))
        if config.resume:
            trainer.resume()
        trainer.board = stack.enter_context(Board(trainer.folder, config.tensorboard and world.first, trainer.step))
        trainer.save()
        trainer.fit()
        return trainer.finish()


def _rehearse(config: TrainConfig) -> None:
    """Sends an empty picture through the network, so that a size it does not take shows before minutes of reading."""
    assert config.size_hw is not None
    if ":" in str(config.model):
        return  # a user's own code may not know the meta device
    recipe: Recipe = RECIPES.load(config.task)(len(config.class_weights or (0, 0)), config)
    with torch.device("meta"), torch.no_grad():
        network = build(str(config.model), **{**recipe.model_arguments(), **config.model_arguments})
        answer = network(torch.empty(2, 3, *config.size_hw))
    _check_answer(config, answer)


def _check_answer(config: TrainConfig, answer: Any) -> None:
    """Refuses a network of another task before anything is read.

    Raises:
        UsageError: what it answers to two pictures does not fit the task.
    """
    wanted = {"classification": 2, "segmentation": 4}.get(config.task)
    found = answer.ndim if isinstance(answer, torch.Tensor) else None
    if found != wanted:
        shape = {"classification": "one score a class", "segmentation": "one score a class and pixel"}.get(config.task, "scores and boxes")
        raise UsageError(
            f"--model {str(config.model)[:60]} is no network for {config.task}, which wants {shape}; give another --model or --task"
        )


def evaluate_samples(
    network: nn.Module, config: TrainConfig, samples: Samples, labels: tuple[str, ...], spec: PreprocessSpec | None = None
) -> dict[str, float]:
    """The validation figures of a trained network on other samples, in fp32; ``spec`` holds the mean and std that it was trained with."""
    config = complete(config)
    device = choose_device(config.device)
    recipe: Recipe = RECIPES.load(config.task)(len(labels), config)
    feed, normalise = Resident(samples, device), normaliser(spec or preprocess_of(config), device, config.channels_last)
    indices = torch.split(torch.arange(len(samples)), config.batch_size or 16)
    with torch.inference_mode():
        batches = ((normalise(batch[0]), batch[1]) for batch in feed.batches(indices, None) if batch is not None)
        return recipe.figures(recipe.count(network.to(device).eval(), batches))
