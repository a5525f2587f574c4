"""A training engine for small pictures that stay on the GPU: the whole step (crop, forward, backward, SGD, average) is one CUDA graph."""

from __future__ import annotations

import copy
import math
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PAD = 4
SIDE = 32
# Of the 50,000 training pictures of CIFAR-10, in grey levels.
MEAN = (125.307, 122.950, 113.865)
STD = (62.993, 62.089, 66.705)
LADDER = ("compile+graph", "graph", "compile", "eager")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum, a triangle of learning rates, crops, flips and squares cut out.

    Attributes:
        lr: the peak, for a batch of ``batch_size``.
        cutout: side of the square that is blanked, in pixels; 0 for none.
        average: the weights are averaged over about this share of the run; 0 for no average.
        distil: weight of the teacher's answers in the loss, 0 to 1.
    """

    epochs: int
    lr: float = 0.4
    batch_size: int = 512
    weight_decay: float = 5e-4
    momentum: float = 0.9
    smoothing: float = 0.1
    warm_up: float = 0.2
    cutout: int = 8
    average: float = 0.02
    distil: float = 0.0
    temperature: float = 4.0


@dataclass
class Outcome:
    """What one run gave; seconds are of training alone, without the evaluations between the epochs."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    images: int = 0
    loss: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def images_per_s(self) -> float:
        return self.images / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Pictures:
    """Pictures and their labels on the device: uint8 [N, 32, 32, 3], and padded by reflection to [N, 40, 40, 3]; int64 [N]."""

    images: Tensor
    padded: Tensor
    labels: Tensor

    @classmethod
    def put(cls, images: Tensor, labels: Tensor, device: torch.device) -> Pictures:
        images = images.to(device)
        moved = F.pad(images.permute(0, 3, 1, 2).to(torch.float16 if device.type == "cuda" else torch.float32), (PAD,) * 4, mode="reflect")
        padded = moved.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return cls(images, padded, labels.to(device, torch.int64))


class Normalise(nn.Module):
    """uint8 pictures [N, 32, 32, 3] -> float [N, 3, 32, 32] in channels_last memory."""

    mean: Tensor
    std: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN, device=device), persistent=False)
        self.register_buffer("std", torch.tensor(STD, device=device), persistent=False)

    def forward(self, images: Tensor, blank: Tensor | None = None) -> Tensor:
        """``blank`` marks pixels [N, 32, 32] that become zero, the mean."""
        x = (images.float() - self.mean) / self.std
        if blank is not None:
            x = torch.where(blank[..., None], 0.0, x)
        return x.permute(0, 3, 1, 2)


def augmented(pictures: Pictures, row: Tensor, cutout: Tensor, normalise: Normalise) -> Tensor:
    """One batch, cropped, mirrored and cut out with a single gather.

    Args:
        row: int64 [N, 6]: picture, top, left, mirrored, centre of the square (y, x).
        cutout: side of the square, a number on the device.
    """
    picture, top, left, mirrored, cut_y, cut_x = row.unbind(dim=1)
    line = torch.arange(SIDE, device=row.device)
    rows = top[:, None] + line
    columns = left[:, None] + torch.where(mirrored[:, None] > 0, SIDE - 1 - line, line)
    pixels = pictures.padded[picture[:, None, None], rows[:, :, None], columns[:, None, :]]
    near_y = (2 * (line - cut_y[:, None])).abs() < cutout
    near_x = (2 * (line - cut_x[:, None])).abs() < cutout
    blank = near_y[:, :, None] & near_x[:, None, :]
    return normalise(pixels, blank)


def learning_rates(steps: int, recipe: Recipe) -> Tensor:
    """A straight line up to the peak and a straight line down to zero; float [steps]."""
    done = torch.arange(steps, dtype=torch.float64) / max(1, steps - 1)
    rising = 0.1 + 0.9 * done / recipe.warm_up
    falling = (1 - done) / (1 - recipe.warm_up)
    return recipe.lr * torch.minimum(rising, falling).clamp(min=1e-4)


class FastTrainer:
    """Trains one network again and again, compiled and captured once."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        train: Pictures,
        recipe: Recipe,
        *,
        teacher: nn.Module | None = None,
        ladder: tuple[str, ...] = LADDER,
        mode: str = "default",
        log: Callable[[str], None] = print,
    ) -> None:
        """``recipe`` fixes batch size, momentum, decay, smoothing and whether an average is kept; the rest may change from run to run.

        Args:
            ladder: engines to try, the fastest first.
            mode: of torch.compile; the graphs are captured here, so a mode without them.
        """
        self.make, self.train, self.recipe, self.teacher, self.mode, self.log = make, train, recipe, teacher, mode, log
        torch._dynamo.config.recompile_limit = 64  # one code object serves all networks
        self.device = train.images.device
        self.cuda = self.device.type == "cuda"
        self.network = make().to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.probe = copy.deepcopy(self.average)
        self.normalise = Normalise(self.device)
        self.parameters = list(self.network.parameters())
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        self.decayed = [i for i, p in enumerate(self.parameters) if p.ndim > 1]
        state, mean = self.network.state_dict(), self.average.state_dict()
        self.state = [value for value in state.values() if value.is_floating_point()]
        self.mean = [mean[key] for key, value in state.items() if value.is_floating_point()]
        most = len(train.images) // recipe.batch_size
        self.plan = torch.zeros(most, recipe.batch_size, 6, dtype=torch.int64, device=self.device)
        self.rates = torch.zeros(most, 2, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.cutout = torch.zeros((), dtype=torch.int64, device=self.device)
        self.distil = torch.zeros((), device=self.device)
        self.total = torch.zeros((), device=self.device)
        self.prepare_seconds = 0.0
        self.engine, self.step = self._choose(ladder)

    # One step

    def _objective(self, row: Tensor) -> Tensor:
        x = augmented(self.train, row, self.cutout, self.normalise)
        labels = self.train.labels[row[:, 0]]
        with torch.autocast("cuda" if self.cuda else "cpu", torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            logits = self.network(x).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.smoothing)
            if self.teacher is None:
                return loss
            with torch.no_grad():
                wanted = F.softmax(self.teacher(x).float() / self.recipe.temperature, dim=1)
        said = F.log_softmax(logits / self.recipe.temperature, dim=1)
        copied = -(wanted * said).sum(dim=1).mean() * self.recipe.temperature**2
        return torch.lerp(loss, copied, self.distil)

    def _make_step(self, compiled: bool) -> Callable[[], None]:
        objective = torch.compile(self._objective, dynamic=False, mode=self.mode) if compiled else self._objective

        def step() -> None:
            row = self.plan.index_select(0, self.cursor)[0]
            lr, share = self.rates.index_select(0, self.cursor)[0].unbind()
            loss = objective(row)
            found = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                # Of one memory layout with the weights: else each tensor has kernels of its own in what follows.
                pairs = zip(self.parameters, found, strict=True)
                gradients = [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g) for p, g in pairs]
                self._update(gradients, lr, share)
                self.total += loss.detach()
                self.cursor += 1

        return step

    def _update(self, gradients: list[Tensor], lr: Tensor, share: Tensor) -> None:
        """SGD with Nesterov momentum as torch.optim.SGD does it, and the moving average of all floats of the network."""
        recipe = self.recipe
        torch._foreach_add_([gradients[i] for i in self.decayed], [self.parameters[i] for i in self.decayed], alpha=recipe.weight_decay)
        torch._foreach_mul_(self.velocity, recipe.momentum)
        torch._foreach_add_(self.velocity, gradients)
        torch._foreach_add_(gradients, self.velocity, alpha=recipe.momentum)
        torch._foreach_mul_(gradients, lr)
        torch._foreach_sub_(self.parameters, gradients)
        if recipe.average > 0:
            way = torch._foreach_sub(self.state, self.mean)
            torch._foreach_mul_(way, share)
            torch._foreach_add_(self.mean, way)

    def _choose(self, ladder: tuple[str, ...]) -> tuple[str, Callable[[], None]]:
        """The first engine of the ladder that works here; the time that this takes is no training time."""
        for engine in ladder if self.cuda else ("eager",):
            started = time.monotonic()
            try:
                self.reset(0)
                everything = torch.arange(len(self.train.images), device=self.device)
                self._fill(0, self._table(len(self.plan), self.recipe), everything, torch.zeros_like(everything))
                step = self._eager = self._make_step("compile" in engine)
                if "graph" in engine:
                    step = self._capture(step)
                for _ in range(2):
                    self.cursor.zero_()
                    step()
                if not math.isfinite(float(self.total)):
                    raise RuntimeError(f"the loss is {float(self.total)}")
            except Exception:
                if engine == ladder[-1]:
                    raise
                self.log(f"engine {engine} does not work here:\n{traceback.format_exc(limit=-4)}")
                continue
            self.prepare_seconds = time.monotonic() - started
            return engine, step
        raise RuntimeError(f"no engine of {ladder} works here")

    def _capture(self, step: Callable[[], None]) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.cursor.zero_()
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.cursor.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    # Runs

    def reset(self, seed: int) -> None:
        """Fresh weights of this seed, in place: compiled and captured code points to the tensors."""
        torch.manual_seed(seed)
        fresh = self.make().state_dict()
        self.network.load_state_dict(fresh)
        self.average.load_state_dict(fresh)
        for velocity in self.velocity:
            velocity.zero_()
        self.total.zero_()

    def _table(self, steps: int, recipe: Recipe) -> Tensor:
        """Learning rate and share of the average for every step of a run; float [steps, 2] on the device."""
        # Young averages forget faster.
        share = torch.maximum(torch.tensor(1 / max(1.0, recipe.average * steps)), 1 / (1 + torch.arange(steps) / 10)).clamp(max=1)
        return torch.stack([learning_rates(steps, recipe).float(), share], dim=1).to(self.device)

    def _fill(self, epoch: int, table: Tensor, chosen: Tensor, base: Tensor) -> int:
        """Draws one epoch on the device: order, crops, mirrors and squares; returns the number of steps."""
        size, device = self.recipe.batch_size, self.device
        steps = len(chosen) // size
        count = steps * size
        picture = chosen[torch.randperm(len(chosen), device=device)[:count]]
        # Each picture is seen mirrored every other epoch, not by chance (Jordan 2024, airbench).
        mirrored = (base[picture] + epoch) % 2
        shift = torch.randint(2 * PAD + 1, (count, 2), device=device)
        centre = torch.randint(SIDE, (count, 2), device=device)
        self.plan[:steps] = torch.cat([picture[:, None], shift, mirrored[:, None], centre], dim=1).reshape(steps, size, 6)
        self.rates[:steps] = table[epoch * steps : (epoch + 1) * steps]
        self.cursor.zero_()
        return steps

    def run(
        self,
        recipe: Recipe,
        seed: int,
        *,
        chosen: Tensor | None = None,
        every: int = 0,
        score: Callable[[nn.Module], float] | None = None,
        deadline: float = math.inf,
    ) -> Outcome:
        """One training run from fresh weights; ``every`` so many epochs the weights so far are scored, outside the time that is reported.

        Args:
            chosen: indices of the training pictures to use, all by default.
            deadline: of time.monotonic(); a run that reaches it raises TimeoutError.
        """
        chosen = torch.arange(len(self.train.images), device=self.device) if chosen is None else chosen
        self.reset(seed)
        base = torch.randint(2, (len(self.train.images),), device=self.device)
        self.cutout.fill_(recipe.cutout)
        self.distil.fill_(recipe.distil)
        outcome, clock = Outcome(), Clock(self.device)
        table = self._table(len(chosen) // self.recipe.batch_size * recipe.epochs, recipe)
        clock.start()
        for epoch in range(recipe.epochs):
            steps = self._fill(epoch, table, chosen, base)
            for _ in range(steps):
                self.step()
            outcome.images += steps * self.recipe.batch_size
            if every and score and ((epoch + 1) % every == 0 or epoch + 1 == recipe.epochs):
                clock.stop()
                row = {"epoch": epoch + 1, "seconds": round(clock.seconds, 3), "accuracy": score(self.scored(False))}
                if recipe.average > 0:
                    row["accuracy_average"] = score(self.scored(True))
                outcome.curve.append(row)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no time left after epoch {epoch + 1}")
                clock.start()
        clock.stop()
        outcome.seconds, outcome.gpu_seconds = clock.seconds, clock.gpu_seconds
        outcome.loss = float(self.total) * self.recipe.batch_size / max(1, outcome.images)
        return outcome

    def scored(self, average: bool) -> nn.Module:
        """A copy of the weights in a network of its own, in evaluation mode."""
        self.probe.load_state_dict((self.average if average and self.recipe.average > 0 else self.network).state_dict())
        return self.probe.eval()


class Clock:
    """Adds up the wall-clock time and the GPU's own time of several stretches."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds = self.gpu_seconds = 0.0

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.first, self.last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.first.record()
        self.began = time.monotonic()

    def stop(self) -> None:
        if self.cuda:
            self.last.record()
            torch.cuda.synchronize()
            self.gpu_seconds += self.first.elapsed_time(self.last) / 1000
        self.seconds += time.monotonic() - self.began


@contextmanager
def exact() -> Any:
    """fp32 without TF32, as a deployed network computes."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@torch.no_grad()
def accuracy(network: nn.Module, pictures: Pictures, *, chosen: Tensor | None = None, views: int = 1, fp32: bool = False) -> float:
    """The share of right answers; 2 views add the mirrored picture, 6 also shifts by a pixel along both diagonals."""
    normalise, right = Normalise(pictures.images.device), 0
    chosen = torch.arange(len(pictures.images), device=pictures.images.device) if chosen is None else chosen
    cuda = pictures.images.device.type == "cuda"
    arithmetic = torch.autocast("cuda", torch.bfloat16) if cuda and not fp32 else nullcontext()
    with exact() if fp32 else nullcontext(), arithmetic:
        for index in chosen.split(2000):
            total = torch.zeros((), device=index.device)
            for shift in (0,) if views < 6 else (0, -1, 1):
                start = PAD + shift
                x = normalise(pictures.padded[index, start : start + SIDE, start : start + SIDE])
                weight = 1.0 if shift == 0 else 0.5
                for view in (x,) if views == 1 else (x, x.flip(3)):
                    total = total + weight * F.softmax(network(view.contiguous(memory_format=torch.channels_last)).float(), dim=1)
            right += int((total.argmax(dim=1) == pictures.labels[index]).sum())
    return right / len(chosen)
