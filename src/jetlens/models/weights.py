"""Weights of named networks: torchvision's own, hash checked, or a file; nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from jetlens.errors import WeightsError
from jetlens.registry import require

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["download", "fill", "read_weights"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_TIMEOUT_S = 30.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` or ``.safetensors`` file on the CPU, in single precision, without a ``module.`` prefix.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds anything but tensors.
    """
    torch = require("torch", extra="train", why="reading weights")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights; give a .pth or .safetensors file with --weights")
    try:
        if path.suffix == ".safetensors":
            content: Any = require("safetensors.torch", extra="train", why="reading .safetensors").load(path.read_bytes())
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the reader raise anything
        raise WeightsError(
            f"{path}: damaged, or no file of plain tensors ({_reason(path, error)}); save a state_dict() with torch.save"
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(torch.is_tensor(value) for value in content.values()):
        raise WeightsError(
            f"{path}: holds {type(content).__name__} and no state_dict of tensors; save one with torch.save(network.state_dict(), ...)"
        )
    return {str(name).removeprefix("module."): value.float() if value.is_floating_point() else value for name, value in content.items()}


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words: PyTorch's own go on for a paragraph on how to load it all the same."""
    with open(path, "rb") as file:
        head = file.read(2)
    said = " ".join(str(error).split())
    if not head:
        return "it is empty"
    if path.suffix != ".safetensors" and head != b"PK" and head[:1] != b"\x80":  # neither a zip archive nor a pickle
        return "it is no PyTorch file"
    if named := re.search(r"GLOBAL ([\w.]+)", said):
        return f"it holds {named[1]}, pickled code that is not run"
    if "weights only" in said.lower().replace("_", " "):
        return "it holds pickled or scripted code that is not run"
    return said.partition(". ")[0][:120]


def fill(network: nn.Module, tensors: Mapping[str, Tensor], origin: str, *, keep: Collection[str] = ()) -> None:
    """Copies weights into a network; counters that play no part in inference may be absent.

    Args:
        origin: where the weights come from, for messages.
        keep: names that stay as they are in the network, whatever the weights hold under them.

    Raises:
        WeightsError: other names or shapes differ; the message names the first of each.
    """
    own = {name: value for name, value in network.state_dict().items() if name not in keep}
    given = {name: value for name, value in tensors.items() if name not in keep}
    missing = sorted(name for name in own if name not in given and not name.endswith(".num_batches_tracked"))
    unexpected = sorted(set(given) - set(own))
    shapes = sorted(name for name in own if name in given and own[name].shape != given[name].shape)
    found = [f"{len(names)} {kind} ({names[0]} ...)" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names]
    if shapes:
        name = shapes[0]
        found.append(f"{len(shapes)} of another shape ({name}: {tuple(given[name].shape)}, needed {tuple(own[name].shape)})")
    if found:
        raise WeightsError(f"{origin}: weights of another network than {type(network).__name__}: {'; '.join(found)}")
    network.load_state_dict(given, strict=False)


def download(entry: Any) -> dict[str, Tensor]:
    """The weights that a torchvision weights entry stands for, from torch's own cache or its server; the hash in their name is checked.

    Raises:
        WeightsError: they cannot be had, or what came is not what the hash says.
    """
    hub = require("torch.hub", extra="train", why="pretrained weights")
    file = str(entry.url).rsplit("/", 1)[-1]
    path = Path(hub.get_dir()) / "checkpoints" / file
    prefix = path.stem.rpartition("-")[2]
    offline = f"get {file} on a machine that is online and give it: --weights {file}"
    try:
        # Torch checks the hash of what it downloads, not of what lies in its cache.
        if not path.is_file() or not hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _timeout():
                hub.download_url_to_file(entry.url, str(path), prefix, progress=sys.stderr.isatty())
    except RuntimeError as error:
        raise WeightsError(f"{file}: what came is damaged ({' '.join(str(error).split())[:80]}); try again, or {offline}") from None
    except (URLError, OSError) as error:
        raise WeightsError(f"{file} cannot be downloaded ({str(getattr(error, 'reason', error))[:80]}); {offline}") from None
    return read_weights(path)


@contextmanager
def _timeout() -> Iterator[None]:
    """The hub's download has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
