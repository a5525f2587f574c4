"""TrainConfig and what a training run reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from jetlens.errors import UsageError
from jetlens.registry import Table
from jetlens.spec import PreprocessSpec, TaskName

__all__ = ["DATA", "Progress", "TrainConfig", "complete", "preprocess_of"]

DATA = Table("training data", {"orange-line": "jetlens.train.samples:orange_line_split"})

# Mean and standard deviation of ImageNet in grey levels: the convention of most pretrained networks.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run; None takes the task's own default.

    Attributes:
        model: a name of MODELS.
        model_arguments: more arguments of the model's factory.
        steps: stop after so many optimizer steps, whatever ``epochs`` says.
        minutes: stop after so much time; the learning rate then follows the clock too.
        samples: how many pictures of the orange line are drawn for training, and a tenth of that to validate.
        size_hw: height and width of the network's input.
        workers: processes that draw the pictures; 0 draws in this one.
        amp: bf16 arithmetic where the device has it (CUDA only).
        validate_every: epochs between two validations.
        name: of the checkpoint file in ``output``, the model's by default.
        command: what the user typed, kept in the checkpoint.
    """

    task: TaskName
    model: str | None = None
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    data: str = "orange-line"
    epochs: int = 20
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float = 0.01
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 2
    samples: int = 1000
    size_hw: tuple[int, int] | None = None
    amp: bool = True
    validate_every: int = 1
    output: Path = Path("runs")
    name: str | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        done: share of the run, 0 to 1.
        loss: mean since the last report.
        metrics: of the last validation if this report follows one, else None.
    """

    done: float
    epoch: int
    step: int
    loss: float
    lr: float
    elapsed_s: float
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class _Default:
    model: str
    size_hw: tuple[int, int]
    batch_size: int
    lr: float


_DEFAULTS: dict[str, _Default] = {
    "classification": _Default("basic_cnn", (64, 64), 128, 1e-3),
    "detection": _Default("small_det", (288, 512), 16, 2e-3),
    "segmentation": _Default("small_seg", (360, 640), 8, 3e-3),
}


def complete(config: TrainConfig) -> TrainConfig:
    """The config with the task's defaults in place of None, checked.

    Raises:
        UsageError: an unknown task or data, or a number out of its range.
    """
    _check_kinds(config)
    if config.task not in _DEFAULTS:
        raise UsageError(f"task is {config.task!r}; allowed: {', '.join(_DEFAULTS)}")
    if config.device not in get_args(Literal["auto", "cpu", "cuda"]):
        raise UsageError(f"device is {config.device!r}; allowed: auto, cpu, cuda")
    DATA[config.data]  # an unknown name lists the known ones
    default = _DEFAULTS[config.task]
    whole = replace(
        config,
        model=config.model or default.model,
        size_hw=(int(config.size_hw[0]), int(config.size_hw[1])) if config.size_hw else default.size_hw,
        batch_size=default.batch_size if config.batch_size is None else config.batch_size,
        lr=default.lr if config.lr is None else config.lr,
        output=Path(config.output),
    )
    for key, least in (("epochs", 1), ("batch_size", 2), ("samples", 2), ("workers", 0), ("validate_every", 1), ("seed", 0)):
        if getattr(whole, key) < least:
            raise UsageError(f"{key} is {getattr(whole, key)}; give {least} or more")
    for key in ("lr", "steps", "minutes"):
        value = getattr(whole, key)
        if value is not None and not value > 0:
            raise UsageError(f"{key} is {value}; give a number above 0")
    return whole


def _check_kinds(config: TrainConfig) -> None:
    """A configuration file may hold a text where a number belongs."""
    kinds: dict[str, Any] = dict.fromkeys(("epochs", "steps", "batch_size", "seed", "workers", "samples", "validate_every"), int)
    kinds |= dict.fromkeys(("minutes", "lr", "weight_decay"), (int, float)) | {"model": str, "name": str, "data": str, "amp": bool}
    for key, kind in kinds.items():
        value = getattr(config, key)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise UsageError(f"{key} is {value!r}; give {'a text' if kind is str else 'true or false' if kind is bool else 'a number'}")
    size = config.size_hw
    if size is not None and (isinstance(size, str) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise UsageError(f"size_hw is {size!r}; give height and width in pixels, such as [64, 64]")


def preprocess_of(config: TrainConfig) -> PreprocessSpec:
    """How pictures reach the network, in training and ever after: crops are stretched, frames letterboxed."""
    assert config.size_hw is not None
    resize: Literal["stretch", "letterbox"] = "stretch" if config.task == "classification" else "letterbox"
    return PreprocessSpec(size_hw=config.size_hw, resize=resize, filter="antialias", mean=MEAN, std=STD)
