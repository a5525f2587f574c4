"""Several processes as one trainer: what torchrun started, and exact sums over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from jetlens.errors import TrainingError
from jetlens.train.config import TrainConfig

__all__ = ["World", "choose_device", "open_world"]


def choose_device(asked: str) -> torch.device:
    """The device to train on; under torchrun each process takes the GPU of its local rank.

    Raises:
        TrainingError: ``cuda`` was asked for and there is no usable GPU.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        built = "this torch has no CUDA" if torch.version.cuda is None else f"torch for CUDA {torch.version.cuda} sees no GPU"
        raise TrainingError(f"device cuda: {built}; give --device cpu, or install a driver and a torch that match")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if asked == "cpu" or "LOCAL_RANK" not in os.environ:
        return torch.device(asked)
    if local >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local} has no GPU: there are {torch.cuda.device_count()}; start as many processes with --nproc-per-node"
        )
    return torch.device("cuda", local)


class World:
    """The processes that train together; one alone without torchrun.

    Attributes:
        rank: of this process; the first, 0, writes and speaks.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """This process's part of every batch."""
        return list(batches) if self.size == 1 else [batch[self.rank :: self.size] for batch in batches]

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The module that averages its gradients over the processes."""
        if self.size == 1:
            return objective
        own = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, device_ids=own)

    def quiet(self, objective: nn.Module, last: bool) -> Any:
        """No exchange of gradients before the last part of a batch."""
        if last or not isinstance(objective, DistributedDataParallel):
            return nullcontext()
        return objective.no_sync()

    def sum(self, counts: Any) -> Any:
        """The sum of a NumPy array over all processes, exact for whole numbers."""
        if self.size == 1:
            return counts
        tensor = torch.from_numpy(counts).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Gives every process the first one's tensors."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gather(self, thing: Tensor) -> list[Tensor]:
        """A CPU tensor of each process, by rank; the same shape everywhere."""
        if self.size == 1:
            return [thing]
        parts = [torch.empty_like(thing, device=self.device) for _ in range(self.size)]
        dist.all_gather(parts, thing.to(self.device))
        return [part.cpu() for part in parts]

    def agree(self, flag: bool) -> bool:
        """What the first process says."""
        if self.size == 1:
            return flag
        told = torch.tensor([int(flag)], device=self.device)
        dist.broadcast(told, 0)
        return bool(told.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def open_world(config: TrainConfig) -> Iterator[World]:
    """The processes that torchrun started (gloo on CPUs, NCCL on GPUs), or this one alone."""
    device, size = choose_device(config.device), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        if mine:
            dist.destroy_process_group()
