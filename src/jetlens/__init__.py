"""Train convolutional vision networks, export them, run them in real time, and prove that what runs is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetlens.registry import resolve

if TYPE_CHECKING:
    from jetlens.errors import JetlensError
    from jetlens.frame import Frame, Image
    from jetlens.imagefile import load_image
    from jetlens.predictor import Predictor, load
    from jetlens.results import Classification, Detections, Segmentation
    from jetlens.spec import ModelSpec, PreprocessSpec

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "Detections",
    "Frame",
    "Image",
    "JetlensError",
    "ModelSpec",
    "Predictor",
    "PreprocessSpec",
    "Segmentation",
    "load",
    "load_image",
]

_HOMES = {
    "Classification": "results",
    "Detections": "results",
    "Frame": "frame",
    "Image": "frame",
    "JetlensError": "errors",
    "ModelSpec": "spec",
    "Predictor": "predictor",
    "PreprocessSpec": "spec",
    "Segmentation": "results",
    "load": "predictor",
    "load_image": "imagefile",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use, so that ``import jetlens`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jetlens' has no attribute {name!r}")
    value = resolve(f"jetlens.{_HOMES[name]}:{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
