"""What each command can do on this machine, out of what the checks found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from jetlens.doctor.check import Check

__all__ = ["Ability", "abilities"]

Status = Literal["ready", "limited", "not"]


@dataclass(frozen=True, slots=True)
class Ability:
    """What one command can do here.

    Attributes:
        status: ready; limited, and ``why`` says what is missing; not, and it fails.
        remedy: the next step towards ready.
    """

    command: str
    status: Status
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Needs:
    """Names of checks.

    Attributes:
        all_of: each must be fine.
        a_backend: whether some backend must be.
        better: name to what the command cannot do without it.
    """

    all_of: tuple[str, ...] = ()
    a_backend: bool = False
    better: Mapping[str, str] | None = None


_SPEED = {
    "backend tensorrt": "no TensorRT",
    "ONNX Runtime on the GPU": "ONNX Runtime on the processor only",
    "torch on the GPU": "PyTorch on the processor only",
    "clocks": "speeds are not those of a machine at rest",
}
_TRAINING = {
    "torch on the GPU": "trains on the processor",
    "torchvision": "no networks of torchvision",
    "matplotlib": "no pictures of the training",
}
_NEEDS: dict[str, _Needs] = {
    "demo": _Needs(("shipped models",), a_backend=True, better={"PyAV": "writes its video as mp4v", "OpenCV": "writes no video"}),
    "predict": _Needs(a_backend=True, better={"OpenCV": "no videos, and no models with linear resizing"}),
    "run": _Needs(
        a_backend=True,
        better={"PyAV": "no RTSP, and videos as mp4v", "OpenCV": "no V4L2 cameras and no windows", "GStreamer in Python": "no CSI cameras"},
    ),
    "streams": _Needs(a_backend=True),
    "adopt": _Needs(("onnx",), better={"backend onnxruntime": "cannot try the model"}),
    "train": _Needs(("backend pytorch",), better=_TRAINING),
    "export": _Needs(("backend pytorch", "onnx"), better={"backend onnxruntime": "cannot verify what it wrote"}),
    "evaluate": _Needs(a_backend=True, better={"faster_coco_eval": "no mAP of detectors"}),
    "bench": _Needs(a_backend=True, better=_SPEED),
    "compare": _Needs(),
    "report": _Needs(better={"jinja2": "no HTML page"}),
    "build": _Needs(("TensorRT", "GPU")),
    "cache": _Needs(),
    "inspect": _Needs(),
    "data": _Needs(),
    "learn": _Needs(
        better={"OpenCV": "no edges and no keypoints", "backend pytorch": "looks into no checkpoint", "onnx": "looks into no ONNX model"},
    ),
    "deepstream": _Needs(("onnx",)),
    "monitor": _Needs(),
    "doctor": _Needs(),
}


def abilities(checks: Iterable[Check]) -> list[Ability]:
    """What each command can do, and the first step towards what it cannot."""
    by_name = {check.name: check for check in checks}
    return [_ability(command, needs, by_name) for command, needs in _NEEDS.items()]


def _ability(command: str, needs: _Needs, checks: Mapping[str, Check]) -> Ability:
    for name in needs.all_of:
        check = checks.get(name)
        if check is None or not check.ok:
            return Ability(command, "not", _why(name, check), check.remedy if check else "")
    if needs.a_backend:
        choices = [check for name, check in checks.items() if name.startswith("backend ")]
        if not any(check.ok for check in choices):
            names = ", ".join(check.name for check in choices)
            return Ability(command, "not", f"none of {names} works", next((check.remedy for check in choices if check.applies), ""))
    lacking = [(without, checks[name]) for name, without in (needs.better or {}).items() if name in checks and not checks[name].ok]
    # What this machine cannot have is no lack of the command.
    lacking = [(without, check) for without, check in lacking if check.applies]
    if lacking:
        return Ability(command, "limited", "; ".join(without for without, _ in lacking), lacking[0][1].remedy)
    return Ability(command, "ready", "", "")


def _why(name: str, check: Check | None) -> str:
    return f"{name}: {check.found if check else 'was not looked at'}"
