"""Python packages: NumPy and who disagrees with it, the optional ones, the models that ship."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np

from jetlens.doctor.check import Check, Host, version
from jetlens.predictor import model_path, shipped_names
from jetlens.registry import installed
from jetlens.spec import read_model

__all__ = ["OPTIONAL", "models", "numpy", "package"]

_USERS = (
    "torch",
    "torchvision",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python",
    "opencv-python-headless",
    "openvino",
    "onnx",
    "matplotlib",
)

OPTIONAL = {
    "onnx": ("onnx", "export", "export, adopt and bake"),
    "torchvision": ("torchvision", "export", "models by torchvision's names"),
    "faster_coco_eval": ("faster-coco-eval", "map", "mAP of detectors"),
    "matplotlib": ("matplotlib", "report", "pictures of training and of networks"),
    "jinja2": ("Jinja2", "report", "the HTML page of report"),
    "paho": ("paho-mqtt", "mqtt", "run --mqtt"),
}
"""Package: its distribution, the extra that brings it, what it is for."""


def numpy(host: Host) -> Check:
    """NumPy, and packages that ask for another major version: those of JetPack 6 ask for NumPy 1."""
    major = int(np.__version__.partition(".")[0])
    unhappy = [f"{name} {version(name)}" for name in _USERS if major >= 2 and _wants_numpy_1(name)]
    if unhappy:
        found = f"{np.__version__}, but {', '.join(unhappy)} need NumPy 1"
        return Check("NumPy", False, found, "they fail at their import or hand over no arrays", "pip install 'numpy<2'")
    return Check("NumPy", True, np.__version__, "no package here disagrees with it")


def package(name: str) -> Callable[[Host], Check]:
    """The check of one row of OPTIONAL."""
    distribution, extra, use = OPTIONAL[name]

    def check(host: Host) -> Check:
        if installed(name):
            return Check(name, True, version(distribution) or "installed", f"for {use}")
        return Check(name, False, "not installed", f"needed for {use}", f"pip install 'jetlens[{extra}]'")

    return check


def models(host: Host) -> Iterator[Check]:
    """The models that ship, each with its hash."""
    name = "shipped models"
    names = shipped_names()
    if not names:
        yield Check(name, False, "none", "demo and the names of the orange line do not work", "install jetlens again")
        return
    for model in names:
        read_model(model_path(model))
    yield Check(name, True, f"{', '.join(names)}: every hash matches", "jetlens predict IMAGE --model NAME")


def _wants_numpy_1(distribution: str) -> bool:
    """Whether a distribution says that it needs NumPy below 2, without a condition that does not hold here."""
    try:
        rows = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return False
    rules = [row.partition(";") for row in rows if re.match(r"numpy\b(?![-_])", row, re.IGNORECASE)]
    return any(re.search(r"<\s*=?\s*(1\.[0-9]+|2(\.0)*)(?![.0-9])", rule) and not condition for rule, _, condition in rules)
