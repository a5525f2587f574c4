"""Checkpoints: tensors in safetensors with one JSON object in its metadata, written so that a crash leaves the old file or the new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens.atomic import write_atomic
from jetlens.errors import WeightsError
from jetlens.models.weights import fill
from jetlens.registry import require

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_checkpoint", "load_into", "save_checkpoint"]

KEY = "jetlens.checkpoint"
DIGEST_KEY = "jetlens.sha256"
FORMAT = 1


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Writes tensors and what is to be known of them, atomically.

    Args:
        tensors: a ``state_dict()``.
        meta: plain values for JSON: model and its arguments, task, labels, preprocess, training, accuracy.

    Raises:
        OutputError: it cannot be written.
    """
    safetensors = require("safetensors.torch", extra="train", why="writing a checkpoint")
    text = json.dumps({"format": FORMAT, **meta}, ensure_ascii=False)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, safetensors.save(plain, metadata={KEY: text, DIGEST_KEY: _digest(text, plain)}))
    return path


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the description and of every tensor's name, type, shape and bytes: the format itself would not notice a flipped bit."""
    torch = require("torch", extra="train", why="a checkpoint")
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the meta of a checkpoint; nothing in the file is ever executed.

    Raises:
        WeightsError: no such file, damaged, or not written by jetlens.
    """
    safetensors = require("safetensors", extra="train", why="reading a checkpoint")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint; train one with `jetlens train` or check the path")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            text = about.get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        meta = None if text is None else json.loads(text)
    except (safetensors.SafetensorError, ValueError, OSError, KeyError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged or no checkpoint ({str(error)[:120]}); copy it again or train anew") from None
    if text is not None and about.get(DIGEST_KEY, "") not in ("", _digest(text, tensors)):
        raise WeightsError(f"{path}: damaged: its content does not have the SHA-256 that it was written with; copy it again or train anew")
    if not isinstance(meta, dict) or meta.pop("format", None) != FORMAT:
        raise WeightsError(f"{path}: safetensors without jetlens' description of format {FORMAT}; train one with `jetlens train`")
    return tensors, meta


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copies the tensors of a checkpoint into a network of the same layout.

    Raises:
        WeightsError: names or shapes differ; the message names the first of each.
    """
    fill(network, tensors, origin)
