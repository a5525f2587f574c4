"""Batches for the loop: from memory, or read and decoded by data workers; both give the same pictures for the same indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jetlens.data import Dataset as Pictures
from jetlens.data import LabelError
from jetlens.errors import DataError, ImageError, TrainingError
from jetlens.spec import PreprocessSpec
from jetlens.train.config import TrainConfig
from jetlens.train.datasets import Broken, Encoded, encode_sample, fill_up, stack
from jetlens.train.samples import Samples, join

__all__ = ["Batch", "Feed", "Resident", "Streamed", "build_feed", "normaliser", "read_all"]

ALONE = 256
"""So few pictures are read faster in this process than others start."""

Batch = tuple[Tensor, dict[str, Tensor]]
"""Float images [N, 3, H, W] in grey levels and their truth, both on the device."""


class Feed(Protocol):
    """Where batches come from.

    Attributes:
        augments: the pictures come augmented already.
    """

    augments: bool

    def __len__(self) -> int: ...

    def batches(self, indices: Sequence[Tensor], epoch: int | None) -> Iterator[Batch | None]:
        """A batch for each tensor of indices, None where no picture of it can be used; ``epoch`` is None where nothing augments."""
        ...


class Resident:
    """Samples as tensors, on the device where they fit there."""

    augments = False

    def __init__(self, samples: Samples, device: torch.device) -> None:
        self.device = device
        size = samples.images.nbytes + sum(array.nbytes for array in samples.truth.values())
        fits = device.type == "cuda" and size < 0.5 * torch.cuda.mem_get_info(device)[0]
        home = device if fits else torch.device("cpu")
        self.images = torch.from_numpy(samples.images).to(home)
        self.truth = {key: torch.from_numpy(array).to(home) for key, array in samples.truth.items()}

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, indices: Sequence[Tensor], epoch: int | None) -> Iterator[Batch | None]:
        for chosen in indices:
            index = chosen.to(self.images.device)
            images = self.images[index].to(self.device).permute(0, 3, 1, 2).float()
            yield images, {key: tensor[index].to(self.device) for key, tensor in self.truth.items()}


class Decoded(Dataset[Any]):
    """Asked for (epoch, index), decodes that picture, augmented if there is something to do that; a picture that is broken is named."""

    def __init__(self, pictures: Pictures, spec: PreprocessSpec, config: TrainConfig) -> None:
        self.pictures, self.spec, self.config = pictures, spec, config

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int | None, int]) -> Encoded | Broken:
        epoch, index = key
        try:
            encoded = encode_sample(self.config.task, self.pictures[index], self.spec)
        except (ImageError, LabelError) as error:
            return Broken(str(error))
        if epoch is None or self.config.transforms != "sample":
            return encoded
        from jetlens.train.transforms import transform

        return transform(encoded, self.config, (self.config.seed, epoch, index))


def _collate(parts: list[Encoded | Broken]) -> tuple[Tensor | None, dict[str, Tensor], list[str]]:
    """The good pictures as tensors, and what is wrong with the others."""
    good = [part for part in parts if isinstance(part, Encoded)]
    wrong = [part.why for part in parts if isinstance(part, Broken)]
    if not good:
        return None, {}, wrong
    samples = stack(good)
    return torch.from_numpy(samples.images), {key: torch.from_numpy(array) for key, array in samples.truth.items()}, wrong


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


class Plan:
    """The batches of the epoch to come, as keys of ``Decoded``; changed in place, so that the workers live on."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int | None, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int | None, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _loader(data: Decoded, plan: Plan, config: TrainConfig, pin: bool = False) -> DataLoader[Any]:
    # A generator of its own: the loader would draw from the global one, and a resumed run opens one loader more.
    return DataLoader(
        data,
        batch_sampler=plan,
        num_workers=config.workers,
        collate_fn=_collate,
        generator=torch.Generator(),
        worker_init_fn=_one_thread,
        persistent_workers=config.workers > 0,
        pin_memory=pin,
    )


def read_all(pictures: Pictures, spec: PreprocessSpec, config: TrainConfig, say: Callable[[str], None]) -> Samples:
    """Every picture that can be used, in order, in memory.

    Raises:
        DataError: none can.
    """
    data, plan = Decoded(pictures, spec, config), Plan()
    plan.keys = [[(None, int(index)) for index in part] for part in torch.split(torch.arange(len(pictures)), 64)]
    batches = (
        _loader(data, plan, config) if config.workers and len(pictures) > ALONE else (_collate([data[k] for k in p]) for p in plan.keys)
    )
    parts = []
    for images, truth, wrong in batches:
        for why in wrong:
            say(f"left out: {why}")
        if images is not None:
            rows = {key: tensor.numpy() for key, tensor in truth.items()}
            parts.append(Samples(images.numpy(), rows))
    if not parts:
        raise DataError(f"{pictures.origin}: no picture can be used; jetlens data check names what is wrong")
    return join(fill_up(parts))


class Streamed:
    """A dataset whose pictures are decoded each epoch, by worker processes where the config asks for them."""

    def __init__(
        self, pictures: Pictures, spec: PreprocessSpec, config: TrainConfig, device: torch.device, say: Callable[[str], None]
    ) -> None:
        self.augments = config.transforms == "sample"
        self.device = device
        self._data, self._plan = Decoded(pictures, spec, config), Plan()
        self._loader = _loader(self._data, self._plan, config, pin=device.type == "cuda")
        self._say = say
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self._data)

    def batches(self, indices: Sequence[Tensor], epoch: int | None) -> Iterator[Batch | None]:
        if not indices:
            return
        self._plan.keys = [[(epoch, index) for index in chosen.tolist()] for chosen in indices]
        for images, truth, wrong in self._loader:
            for why in wrong:
                self._name(why)
            if images is None:
                yield None
            else:
                on_device = {key: tensor.to(self.device, non_blocking=True) for key, tensor in truth.items()}
                yield images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float(), on_device

    def _name(self, why: str) -> None:
        """Says once of each picture that it is left out; a dataset that is broken throughout ends the run."""
        if why in self._named:
            return
        self._named.add(why)
        self._say(f"left out: {why}")
        if len(self._named) > max(8, len(self._data) // 10):
            raise TrainingError(
                f"{len(self._named)} of {len(self._data)} pictures cannot be used, the last: {why[:150]}; jetlens data check"
            )


def build_feed(
    source: Samples | Pictures, spec: PreprocessSpec, config: TrainConfig, device: torch.device, say: Callable[[str], None]
) -> Feed:
    """From memory for samples, by workers for a dataset."""
    if isinstance(source, Samples):
        return Resident(source, device)
    return Streamed(source, spec, config, device, say)


def normaliser(spec: PreprocessSpec, device: torch.device, channels_last: bool) -> Callable[[Tensor], Tensor]:
    """``(x - mean) / std`` of float images in grey levels."""
    mean = torch.tensor(spec.mean, device=device).reshape(1, -1, 1, 1)
    std = torch.tensor(spec.std, device=device).reshape(1, -1, 1, 1)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normalise(images: Tensor) -> Tensor:
        return ((images - mean) / std).contiguous(memory_format=layout)

    return normalise
