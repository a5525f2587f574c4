"""The state of a run in one file, whole at every moment: what it takes to go on as if nothing had happened."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jetlens.checkpoint import load_checkpoint
from jetlens.errors import TrainingError, WeightsError
from jetlens.train.config import TrainConfig
from jetlens.train.parallel import World
from jetlens.train.samples import Pictures, Samples, Split

__all__ = ["fingerprint", "flatten_optimizer", "read_state", "restore_optimizer", "restore_rng", "rng_state", "seed_all", "settings_of"]

FREE = ("resume", "save_steps", "log_steps", "workers", "output", "name", "command", "pictures", "tensorboard", "minutes", "accumulate")
"""Settings that may differ between a run and its continuation: no weight depends on them."""
SAMPLED = 64


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that a continuation must share, as JSON keeps them."""
    values = {key: value for key, value in asdict(config).items() if key not in FREE}
    return {
        key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value for key, value in values.items()
    }


def fingerprint(split: Split) -> str:
    """Tells one data set from another: counts, labels, and of what is in memory every truth and some pictures."""
    digest = hashlib.blake2b(repr((split.labels, split.origin, split.mean, split.std)).encode(), digest_size=16)
    for part in (split.training, split.validation):
        _take_in(digest, part)
    return digest.hexdigest()


def _take_in(digest: Any, part: Pictures) -> None:
    digest.update(str(len(part)).encode())
    if not isinstance(part, Samples):
        return
    step = max(1, len(part) // SAMPLED)
    digest.update(np.ascontiguousarray(part.images[::step]).data)
    for key in sorted(part.truth):
        digest.update(np.ascontiguousarray(part.truth[key][::step]).data)


def seed_all(seed: int) -> None:
    """Seeds every generator that training or a user's own code may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)


def rng_state(world: World) -> dict[str, Tensor]:
    """The generators of every process, as tensors; Python's and NumPy's are the first one's."""
    states = {f"rng.torch.{rank}": state for rank, state in enumerate(world.gather(torch.get_rng_state()))}
    if world.device.type == "cuda":
        states |= {f"rng.cuda.{rank}": state for rank, state in enumerate(world.gather(torch.cuda.get_rng_state(world.device)))}
    numpy_state: Any = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    states["rng.numpy"] = torch.from_numpy(np.concatenate([numpy_state[1].astype(np.int64), [int(numpy_state[2]), int(numpy_state[3])]]))
    states["rng.numpy_gauss"] = torch.tensor([float(numpy_state[4])], dtype=torch.float64)
    states["rng.python"] = torch.tensor([version, *words], dtype=torch.int64)
    states["rng.python_gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    return states


def restore_rng(tensors: Mapping[str, Tensor], world: World) -> None:
    """Puts every generator back to where it was."""
    torch.set_rng_state(tensors[f"rng.torch.{world.rank}"].to(torch.uint8))
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"rng.cuda.{world.rank}"].to(torch.uint8), world.device)
    words = tensors["rng.numpy"].numpy()
    gauss = float(tensors["rng.numpy_gauss"][0])
    np.random.set_state(("MT19937", words[:-2].astype(np.uint32), int(words[-2]), int(words[-1]), gauss))
    version, *rest = tensors["rng.python"].tolist()
    spare = tensors["rng.python_gauss"].tolist()
    random.setstate((version, tuple(rest), spare[0] if spare else None))


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The optimizer's tensors by name, and the settings of its groups for JSON."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{key}": value
        for index, row in state["state"].items()
        for key, value in row.items()
        if isinstance(value, Tensor)
    }
    return tensors, [dict(group) for group in state["param_groups"]]


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Puts an optimizer of the same network back to a saved state."""
    rows: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _, index, key = name.split(".", 2)
        rows.setdefault(int(index), {})[key] = tensor
    kept = [{**group, "betas": tuple(group["betas"])} if "betas" in group else group for group in groups]
    optimizer.load_state_dict({"state": rows, "param_groups": kept})
    # Files know no channels_last, and fused optimizers need one layout.
    for parameter, row in optimizer.state.items():
        for key, value in row.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                row[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def read_state(path: Path, config: TrainConfig, data: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of a saved state, after checking that it is of this run.

    Raises:
        TrainingError: there is none, or it is of other settings or other data.
        WeightsError: the file is damaged.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no state to resume from; leave --resume away to begin")
    tensors, meta = load_checkpoint(path)
    if "resume" not in meta:
        raise WeightsError(f"{path}: a checkpoint without the state of its run; it cannot be resumed")
    was, now = meta["resume"]["settings"], settings_of(config)
    for key in sorted(set(was) | set(now)):
        if was.get(key) != now.get(key):
            raise TrainingError(
                f"{path}: the run to resume has {key} = {str(was.get(key))[:60]}, not {str(now.get(key))[:60]}; "
                "give its own settings, or leave --resume away"
            )
    if meta["resume"]["data"] != data:
        raise TrainingError(f"{path}: the run to resume was trained on other data; bring its data back, or leave --resume away")
    return tensors, meta["resume"]
