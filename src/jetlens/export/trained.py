"""Networks to export: a checkpoint of jetlens train, a network of its own by name, or one of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jetlens.checkpoint import load_checkpoint, load_into
from jetlens.errors import UnknownNameError, UsageError, WeightsError
from jetlens.export.zoo import ZOO, zoo_network
from jetlens.models import MODELS, build, canonical
from jetlens.spec import ModelSpec, PreprocessSpec, TaskName

if TYPE_CHECKING:
    from torch import nn

__all__ = ["network_to_export"]

# What a network of our own is exported for when it has no training that would say so.
_UNTRAINED: dict[str, tuple[TaskName, tuple[int, int], int]] = {
    "basic_cnn": ("classification", (64, 64), 10),
    "custom_resnet": ("classification", (32, 32), 10),
    "small_det": ("detection", (288, 512), 1),
    "small_seg": ("segmentation", (360, 640), 4),
}

_WEIGHTS_ONLY = "holds weights without their network; name it: jetlens export NAME --weights FILE"
_OTHERS = {".onnx": "is ONNX already; describe it with jetlens adopt", **dict.fromkeys((".pth", ".pt", ".th", ".ckpt"), _WEIGHTS_ONLY)}


def network_to_export(
    model: str,
    weights: Path | None = None,
    *,
    untrained: bool = False,
    own_network: str | None = None,
    size_hw: tuple[int, int] | None = None,
) -> tuple[nn.Module, ModelSpec]:
    """The PyTorch network that a name or a checkpoint stands for, and the spec of its export.

    Args:
        model: a checkpoint's path, a name of ZOO or, with ``untrained``, a name of MODELS.
        weights: a state_dict for a network of the zoo.
        untrained: take random weights.
        own_network: ``module:factory`` of a checkpoint of the user's own network, as the user typed it: a checkpoint alone runs no code.
        size_hw: of the input; None takes what the network was trained with.

    Raises:
        UnknownNameError: it is neither.
        UsageError: weights and something that has its own, or has none.
        WeightsError: the weights cannot be had, are damaged or belong to another network.
    """
    path = Path(model)
    name = canonical(model)
    if untrained and weights is not None:
        raise UsageError("--untrained and --weights contradict each other; give one of them")
    if own_network is not None and path.suffix != ".safetensors":
        raise UsageError(f"--network goes with a checkpoint of `jetlens train`; {model!r} is none")
    if name in ZOO and not path.is_file():
        return zoo_network(name, weights, pretrained=not untrained, size_hw=size_hw)
    if weights is not None:
        raise UsageError(f"--weights goes with the name of a torchvision network ({', '.join(list(ZOO)[:4])} ...); {model!r} is none")
    if model in MODELS and not path.is_file():
        if not untrained:
            raise WeightsError(
                f"{model} has random weights; give a checkpoint of `jetlens train`, or --untrained if random ones are wanted"
            )
        return _untrained(model, size_hw)
    if path.suffix in _OTHERS and not path.is_file():
        raise UsageError(f"{model}: no such file; give a checkpoint of `jetlens train` or a network's name")
    if path.suffix in _OTHERS:
        raise UsageError(f"{model} {_OTHERS[path.suffix]}")
    if path.suffix == ".safetensors" or path.exists():
        return _from_checkpoint(path, own_network, size_hw)
    raise UnknownNameError("network or checkpoint", model, [*MODELS, *ZOO])


def _untrained(name: str, size_hw: tuple[int, int] | None) -> tuple[nn.Module, ModelSpec]:
    task, usual_hw, classes = _UNTRAINED[name]
    size_hw = size_hw or usual_hw
    arguments: dict[str, Any] = {"num_classes": classes} | ({"size_hw": size_hw} if task == "detection" else {})
    names = tuple(f"class {index}" for index in range(classes))
    return build(name, **arguments), ModelSpec(name, task, names, PreprocessSpec(size_hw), "")


def _from_checkpoint(path: Path, own_network: str | None, size_hw: tuple[int, int] | None) -> tuple[nn.Module, ModelSpec]:
    tensors, meta = load_checkpoint(path)
    try:
        name, task, names = str(meta["model"]), meta["task"], tuple(map(str, meta["labels"]))
        arguments, training = dict(meta["arguments"]), dict(meta["training"])
        preprocess = _preprocess(meta["preprocess"])
        resized = size_hw is not None and size_hw != preprocess.size_hw
        if size_hw is not None and resized:
            preprocess = replace(preprocess, size_hw=size_hw, short_side=None)
            arguments |= {"size_hw": size_hw} if "size_hw" in arguments or task == "detection" else {}
        if task not in get_args(TaskName):
            raise ValueError(f"task {task!r}")
        _agreed(path, name, own_network)
        network = build(name, own_code=own_network is not None, **arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the checkpoint's description is incomplete or wrong ({str(error)[:100]}); train anew") from None
    load_into(network, tensors, str(path))
    spec = ModelSpec(
        name=path.stem,
        task=task,
        labels=names,
        preprocess=preprocess,
        decoder="",
        weights={"source": "jetlens train", "model": name, **training},
        # What was measured at one size does not hold at another.
        accuracy={} if resized else dict(meta.get("accuracy") or {}),
    )
    return network, spec


def _agreed(path: Path, name: str, own_network: str | None) -> None:
    """Refuses another network than the checkpoint's, and one of the user's own that the user did not name."""
    if own_network is not None and own_network != name:
        raise UsageError(f"{path} holds {name[:60]!r}, not {own_network[:60]!r}; give --network only with the name of the checkpoint's own")
    if own_network is None and ":" in name:
        raise UsageError(f"{path} holds a network of your own; its code runs only where you name it: --network {name[:60]}")


def _preprocess(raw: Mapping[str, Any]) -> PreprocessSpec:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return PreprocessSpec(**values)
