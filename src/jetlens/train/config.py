"""TrainConfig and what a training run reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from jetlens.backends.base import Device
from jetlens.data.opening import ORANGE_LINE
from jetlens.errors import UsageError
from jetlens.models.options import IMAGENET_MEAN, IMAGENET_STD
from jetlens.registry import Table
from jetlens.spec import PreprocessSpec, ResizeRule, TaskName

__all__ = ["MEAN", "STD", "Progress", "TrainConfig", "complete", "preprocess_of"]

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD

Amp = Literal["auto", "off", "bf16", "fp16"]

LOSSES = Table(
    "loss",
    {
        "cross-entropy": "jetlens.train.losses:cross_entropy",
        "focal": "jetlens.train.losses:focal",
        "dice": "jetlens.train.losses:dice",
    },
)
OPTIMIZERS = Table(
    "optimizer",
    {
        "adamw": "jetlens.train.optimizers:adamw",
        "adam": "jetlens.train.optimizers:adam",
        "sgd": "jetlens.train.optimizers:sgd",
    },
)
SCHEDULES = Table(
    "schedule",
    {
        "constant": "jetlens.train.schedules:Constant",
        "cosine": "jetlens.train.schedules:Cosine",
        "one-cycle": "jetlens.train.schedules:OneCycle",
        "plateau": "jetlens.train.schedules:Plateau",
        "step": "jetlens.train.schedules:Step",
    },
)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run; None takes the task's or the data's own default.

    Attributes:
        model: a name of MODELS, or ``module:factory``.
        model_arguments: more arguments of the model's factory.
        pretrained: begin with the torchvision weights of this network and a new head; ``weights`` names a file of them.
        data: ``orange-line``, a folder or another source of ``jetlens.data.open_dataset``; ``layout`` names its layout.
        val_fraction: the share held out where the data has no validation part of its own.
        resident_mib: training data up to this size stays in memory; larger data is read again each epoch.
        samples: how many pictures of the orange line are drawn for training, and a tenth of that to validate; 200 train in a minute without a GPU.
        steps: stop after so many optimizer steps, whatever ``epochs`` says.
        minutes: stop after so much time; the learning rate then follows the clock too.
        batch_size: pictures of one optimizer step, on all devices together.
        accumulate: sends a batch through the network in so many parts, to save memory.
        loss: a name of LOSSES or ``module:function`` that takes logits and targets; None is the task's own.
        class_weights: one weight a class in the loss.
        warm_up: share of the run in which the learning rate rises (cosine, one-cycle).
        step_epochs, step_factor: the schedule ``step`` multiplies by the factor after each so many epochs; ``plateau`` uses the factor too.
        plateau: validations without a better figure after which the schedule ``plateau`` drops.
        early_stop: validations without a better figure after which training ends.
        amp: ``auto`` is bf16, or fp16 on GPUs without it, and off on the CPU.
        ema: keep an average of the weights; it is what is validated and saved.
        flip, crop, rotation, jitter, mixup, cutout: augmentation on or off.
        transforms: ``batch`` augments on the device, ``sample`` with torchvision's transforms in the data workers.
        workers: processes that draw or read the pictures; 0 uses this one.
        size_hw: height and width of the network's input.
        validate_every: epochs between two validations.
        resume: go on from the run's last state.
        save_steps: also save the state after each so many steps.
        log_steps: steps between two reports.
        pictures: draw curves and other pictures into the run's folder, where matplotlib is installed.
        name: of the checkpoint file in ``output``, the model's by default.
        command: what the user typed, kept in the checkpoint.
    """

    task: TaskName
    model: str | None = None
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: Path | None = None
    data: str = ORANGE_LINE
    layout: str | None = None
    val_fraction: float = 0.1
    resident_mib: int = 2048
    samples: int = 200
    size_hw: tuple[int, int] | None = None
    resize: ResizeRule | None = None
    epochs: int = 20
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    activation_checkpointing: bool = False
    loss: str | None = None
    label_smoothing: float | None = None
    class_weights: Sequence[float] | None = None
    focal_gamma: float = 2.0
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "cosine"
    warm_up: float | None = None
    step_epochs: int | None = None
    step_factor: float = 0.1
    plateau: int = 3
    clip_norm: float = 10.0
    ema: bool = True
    ema_decay: float = 0.998
    early_stop: int | None = None
    flip: bool | None = None
    crop: bool | None = None
    rotation: bool | None = None
    jitter: bool | None = None
    mixup: bool = False
    cutout: bool = False
    transforms: Literal["batch", "sample"] = "batch"
    seed: int = 0
    device: Device = "auto"
    amp: Amp = "auto"
    channels_last: bool = True
    compile: bool = False
    sync_bn: bool = False
    workers: int = 2
    validate_every: int = 1
    resume: bool = False
    save_steps: int | None = None
    log_steps: int = 10
    tensorboard: bool = False
    pictures: bool = True
    output: Path = Path("runs")
    name: str | None = None
    command: str = ""

    @property
    def run_name(self) -> str:
        """The name of the checkpoint file and of the run's folder."""
        return self.name or (self.model or "model").replace(":", "-").replace("/", "-")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        done: share of the run, 0 to 1.
        loss: mean of the epoch so far.
        elapsed_s: of the run, with what it took before it was resumed.
        images_per_s: of the training since the last report, 0 where nothing was trained.
        metrics: of the last validation if this report follows one, else None.
        note: something that the user should know; the report then carries nothing else that is new.
    """

    done: float
    epoch: int
    step: int
    loss: float
    lr: float
    elapsed_s: float
    metrics: Mapping[str, float] | None = None
    images_per_s: float = 0.0
    note: str = ""

    @property
    def left_s(self) -> float:
        """Time left at the pace so far."""
        return self.elapsed_s * (1 - self.done) / self.done if self.done > 0 else 0.0


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
_CHOICES: dict[str, tuple[str, ...]] = {
    "device": get_args(Device),
    "amp": get_args(Amp),
    "transforms": ("batch", "sample"),
    "resize": get_args(ResizeRule),
}
_LEAST: dict[str, int] = {
    "epochs": 1,
    "batch_size": 2,
    "samples": 2,
    "workers": 0,
    "validate_every": 1,
    "seed": 0,
    "accumulate": 1,
    "log_steps": 1,
    "plateau": 1,
    "early_stop": 1,
    "save_steps": 1,
    "step_epochs": 1,
    "resident_mib": 0,
    "weight_decay": 0,
    "momentum": 0,
    "clip_norm": 0,
    "focal_gamma": 0,
}
_SHARES = ("val_fraction", "label_smoothing", "warm_up", "ema_decay")


def complete(config: TrainConfig) -> TrainConfig:
    """The config with the task's defaults in place of None, checked; the size stays None where only the data knows it.

    Raises:
        UsageError: an unknown task, loss, optimizer or schedule, or a number out of its range.
    """
    _check_kinds(config)
    if config.task not in _DEFAULTS:
        raise UsageError(f"task is {config.task!r}; allowed: {', '.join(_DEFAULTS)}")
    for key, allowed in _CHOICES.items():
        if getattr(config, key) is not None and getattr(config, key) not in allowed:
            raise UsageError(f"{key} is {getattr(config, key)!r}; allowed: {', '.join(allowed)}")
    _check_names(config)
    default = _DEFAULTS[config.task]
    own_size = default.size_hw if config.data == ORANGE_LINE else None
    whole = replace(
        config,
        model=config.model or default.model,
        size_hw=(int(config.size_hw[0]), int(config.size_hw[1])) if config.size_hw else own_size,
        batch_size=default.batch_size if config.batch_size is None else config.batch_size,
        lr=default.lr if config.lr is None else config.lr,
        output=Path(config.output),
    )
    _check_numbers(whole)
    return whole


def _check_names(config: TrainConfig) -> None:
    OPTIMIZERS[config.optimizer]  # an unknown name lists the known ones
    SCHEDULES[config.schedule]
    if config.loss is not None and ":" not in config.loss:
        LOSSES[config.loss]
    if config.loss is not None and config.task == "detection":
        raise UsageError("--loss: detection has its own loss (BCE and GIoU over assigned anchors); leave it out")
    if config.mixup and config.task != "classification":
        raise UsageError(f"mixup is for classification, not for {config.task}; leave it out")
    if config.transforms == "sample" and config.data == ORANGE_LINE:
        raise UsageError(f"transforms sample goes with a folder of pictures; {ORANGE_LINE} is augmented in batches, leave it out")
    if config.nesterov and (config.optimizer != "sgd" or not config.momentum):
        raise UsageError("nesterov goes with --optimizer sgd and a momentum above 0")


def _check_numbers(config: TrainConfig) -> None:
    for key, least in _LEAST.items():
        value = getattr(config, key)
        if value is not None and not value >= least:
            raise UsageError(f"{key} is {value}; give {least} or more")
    for key in ("lr", "steps", "minutes", "step_factor"):
        value = getattr(config, key)
        if value is not None and not value > 0:
            raise UsageError(f"{key} is {value}; give a number above 0")
    for key in _SHARES:
        value = getattr(config, key)
        if value is not None and not 0 <= value < 1:
            raise UsageError(f"{key} is {value}; give a number from 0 to below 1")


def _check_kinds(config: TrainConfig) -> None:
    """A configuration file may hold a text where a number belongs."""
    kinds: dict[str, tuple[Any, str]] = {
        "int": (int, "a number"),
        "float": ((int, float), "a number"),
        "str": (str, "a text"),
        "bool": (bool, "true or false"),
    }
    for row in fields(config):
        kind, words = kinds.get(str(row.type).partition(" ")[0], (object, ""))
        value = getattr(config, row.name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and words == "a number")):
            raise UsageError(f"{row.name} is {value!r}; give {words}")
    size = config.size_hw
    if size is not None and (isinstance(size, str) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise UsageError(f"size_hw is {size!r}; give height and width in pixels, such as [64, 64]")


def preprocess_of(config: TrainConfig, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> PreprocessSpec:
    """How pictures reach the network, in training and ever after: pictures of one thing are stretched, scenes letterboxed."""
    assert config.size_hw is not None
    resize: ResizeRule = config.resize or ("stretch" if config.task == "classification" else "letterbox")
    return PreprocessSpec(size_hw=config.size_hw, resize=resize, filter="antialias", mean=mean, std=std)
