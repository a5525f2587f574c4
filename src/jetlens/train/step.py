"""One optimizer step: forward and backward in parts, clipping, the step; less memory where it does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jetlens.errors import TrainingError, UsageError
from jetlens.train.config import TrainConfig
from jetlens.train.finite import Watch, first_bad
from jetlens.train.parallel import World
from jetlens.train.recipe import Recipe

__all__ = ["Objective", "Stepper", "arithmetic", "spare_activations"]

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


class Objective(nn.Module):
    """Network and loss as one module, so that wrappers see one forward pass."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self._recipe = recipe

    def forward(self, images: Tensor, truth: dict[str, Tensor], done: float) -> Tensor:
        return self._recipe.loss(self.network, images, truth, done)


def arithmetic(config: TrainConfig, device: torch.device) -> tuple[Callable[[], AbstractContextManager[Any]], bool]:
    """The context of mixed precision, and whether gradients must be scaled (fp16).

    Raises:
        UsageError: fp16 is asked for on a CPU.
    """
    kind = config.amp
    if device.type == "cpu":
        if kind == "fp16":
            raise UsageError("amp fp16 needs a GPU; on the CPU give --amp off or bf16")
        return (lambda: torch.autocast("cpu", torch.bfloat16)) if kind == "bf16" else nullcontext, False
    if kind == "off":
        return nullcontext, False
    if kind == "auto":
        kind = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16
    return lambda: torch.autocast("cuda", dtype), kind == "fp16"


def spare_activations(network: nn.Module) -> int:
    """Makes the larger blocks forget their activations and compute them again in the backward pass; returns how many do.

    Blocks with batch norm see each batch twice, so their running statistics follow it a little faster.
    """
    blocks = [m for m in network.modules() if isinstance(m, nn.Sequential) and any(isinstance(c, nn.Conv2d) for c in m.modules())]
    inner = {id(child) for block in blocks for child in block.modules() if child is not block}
    outer = [block for block in blocks if id(block) not in inner]
    for block in outer:
        plain = block.forward

        def again(x: Tensor, plain: Callable[[Tensor], Tensor] = plain, block: nn.Module = block) -> Tensor:
            if not block.training or not torch.is_grad_enabled():
                return plain(x)
            answer: Tensor = checkpoint(plain, x, use_reentrant=False)
            return answer

        block.forward = again  # type: ignore[method-assign]
    return len(outer)


class Stepper:
    """Takes steps; keeps how many parts a batch goes in.

    Attributes:
        parts: a batch goes through the network in so many parts; doubled when memory does not suffice.
    """

    def __init__(
        self,
        config: TrainConfig,
        network: nn.Module,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        world: World,
        say: Callable[[str], None],
    ) -> None:
        self.parts = config.accumulate
        self._config, self._network, self._optimizer, self._world, self._say = config, network, optimizer, world, say
        self._arithmetic, scaled = arithmetic(config, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=scaled)
        objective: nn.Module = world.wrap(Objective(network, recipe))
        self._objective: Any = torch.compile(objective) if config.compile else objective
        self._watch = Watch(world.device)
        self._skips = world.device.type == "cuda" and not scaled
        self._trained = [p for p in network.parameters() if p.requires_grad]

    def take(self, images: Tensor, truth: dict[str, Tensor], done: float, share: float) -> Tensor:
        """One step on normalised images; returns the loss of the batch, still on the device.

        Args:
            share: of this process's gradient in the mean of all.

        Raises:
            TrainingError: the loss or the gradient is no number; the weights are as before the step.
        """
        while True:
            try:
                loss = self._backward(images, truth, done, share)
                break
            except RuntimeError as error:
                self._retreat(error, len(images))
        self.scaler.unscale_(self._optimizer)
        watched = loss
        if self._config.clip_norm:
            norm = nn.utils.clip_grad_norm_(self._trained, self._config.clip_norm)
            # A scaled gradient may overflow, which the scaler mends.
            watched = loss if self.scaler.is_enabled() else loss + 0 * norm
        good = self._watch.good(watched)
        if not good:
            self._fail(float(loss), images, truth, done)
        if self._skips:
            # On a GPU the answer comes a step late: until then the optimizer skips by itself.
            self._optimizer.found_inf = (~torch.isfinite(watched)).float()  # type: ignore[attr-defined]
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss

    def settle(self, images: Tensor, truth: dict[str, Tensor], done: float) -> None:
        """Makes sure that the last step was good too.

        Raises:
            TrainingError: it was not.
        """
        if not self._watch.settled():
            self._fail(float("nan"), images, truth, done)

    def _backward(self, images: Tensor, truth: dict[str, Tensor], done: float, share: float) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        count = len(images)
        size = -(-count // min(self.parts, max(1, count // 2)))
        total: Tensor | None = None
        for start in range(0, count, size):
            stop = min(start + size, count)
            whole = stop - start == count
            part = images if whole else images[start:stop]
            part_truth = truth if whole else {key: tensor[start:stop] for key, tensor in truth.items()}
            with self._world.quiet(self._objective, stop == count):
                with self._arithmetic():
                    loss: Tensor = self._objective(part, part_truth, done)
                if not whole:
                    loss = loss * ((stop - start) / count)
                self.scaler.scale(loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _retreat(self, error: RuntimeError, count: int) -> None:
        """Twice as many parts after an out-of-memory, or the error itself."""
        text = str(error).lower()
        if not (isinstance(error, torch.cuda.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY)):
            raise error
        if self._world.size > 1:
            raise TrainingError(f"out of memory with batches of {count} a process; give a larger --accumulate or a smaller --batch-size")
        if count // self.parts < 4:
            raise TrainingError(
                f"out of memory even with {count // self.parts} pictures at a time; give a smaller --size or --model"
            ) from None
        self.parts *= 2
        self._optimizer.zero_grad(set_to_none=True)
        if self._world.device.type == "cuda":
            torch.cuda.empty_cache()
        self._say(f"out of memory: batches of {count} now go through in {self.parts} parts (the same as --accumulate {self.parts})")

    def _fail(self, loss: float, images: Tensor, truth: dict[str, Tensor], done: float) -> None:
        def loss_of() -> Tensor:
            with self._arithmetic():
                answer: Tensor = Objective(self._network, self._objective_recipe())(images, truth, done)
            return answer

        where = first_bad(self._network, loss_of, images)
        raise TrainingError(
            f"the loss became {loss:g}, first in {where}; kept checkpoints are untouched; give a smaller --lr (it was {self._config.lr:g})"
        )

    def _objective_recipe(self) -> Recipe:
        inner: Any = getattr(self._objective, "_orig_mod", self._objective)
        recipe: Recipe = getattr(inner, "module", inner)._recipe
        return recipe
