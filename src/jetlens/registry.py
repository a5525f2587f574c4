"""Tables of names that are imported on use, and optional packages that are asked for by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from jetlens.errors import MissingDependencyError, UnknownNameError

__all__ = ["Table", "installed", "require", "resolve"]

EXTRAS = {
    "av": "video",
    "cv2": "cpu",
    "faster_coco_eval": "map",
    "jinja2": "report",
    "matplotlib": "report",
    "onnx": "export",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "pynvml": "gpu",
    "safetensors": "train",
    "tensorboard": "tensorboard",
    "torch": "train",
    "torchvision": "train",
}
"""Which extra brings an optional package."""
_IN_JETPACK = frozenset({"cv2", "onnxruntime", "torch", "torchvision"})
"""Packages of which a Jetson needs NVIDIA's own build."""


def resolve(target: str) -> Any:
    """Imports and returns the object that ``package.module:attribute`` names.

    Raises:
        MissingDependencyError: the module stands on an optional package that is not installed.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingDependencyError(_missing(package, EXTRAS[package], attribute)) from None


class Table(Mapping[str, str]):
    """An immutable table from a name to ``module:attribute``; an unknown name lists the known ones."""

    def __init__(self, kind: str, rows: Mapping[str, str]) -> None:
        self._kind = kind
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> str:
        try:
            return self._rows[name]
        except KeyError:
            raise UnknownNameError(self._kind, name, self._rows) from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, name: str) -> Any:
        """Imports and returns what the name stands for."""
        return resolve(self[name])


def installed(package: str) -> bool:
    """Whether a package can be imported, found out without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package.partition(".")[0]) is not None


def require(package: str, *, extra: str, why: str = "this") -> Any:
    """Imports an optional package or says which extra brings it.

    Raises:
        MissingDependencyError: it is not installed, or is and cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if installed(package):
            raise MissingDependencyError(f"{why} needs {package}, which is installed but does not import ({error}); reinstall it") from None
        raise MissingDependencyError(_missing(package, extra, why)) from None


def _missing(package: str, extra: str, why: str) -> str:
    own = " (on a Jetson use JetPack's own package)" if package in _IN_JETPACK else ""
    return f"{why} needs {package}, which is not installed: pip install 'jetlens[{extra}]'{own}"
