"""Probes: what an optional package can really do, asked in a process of its own: one that crashes or hangs takes nothing with it.

``python -m jetlens.doctor.probes NAME [MODEL BACKEND]`` prints one marked line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from jetlens.backends.checks import reason
from jetlens.doctor.onnx_bytes import doubling_model
from jetlens.errors import JetlensError
from jetlens.frame import Frame
from jetlens.media.base import StreamInfo
from jetlens.media.hardware import HARDWARE
from jetlens.media.live.gstreamer import load_gstreamer
from jetlens.media.sinks import open_video_sink
from jetlens.media.sources import open_video
from jetlens.registry import installed, require

__all__ = ["PROBES", "ProbeError", "probe"]

_MARK = "jetlens-probe "
_TIMEOUT_S = 120.0
_FATAL_ONLY = 4
_VIDEO_HW, _VIDEO_FRAMES = (256, 256), 10
_NUMPY_2 = "compiled using NumPy 1.x cannot be run"
# Providers that are no processor of this machine.
_NOT_HERE = ("AzureExecutionProvider",)


class ProbeError(Exception):
    """A package broke, crashed or hung; the message says how."""


def probe(name: str, model: str = "", backend: str = "", *, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """The answer of one of PROBES, asked in a child process, which then runs a model on a backend if one is given.

    Raises:
        ProbeError: it crashed, hung or failed.
    """
    command = [sys.executable, "-m", "jetlens.doctor.probes", name, model, backend]
    folders = os.pathsep.join(dict.fromkeys(str(path) for path in (Path(__file__).parents[2], *filter(None, sys.path))))
    environment = {**os.environ, "PYTHONPATH": folders, "PYTHONWARNINGS": "ignore"}
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"did not answer within {timeout_s:g} s") from None
    marked = [line.removeprefix(_MARK) for line in answer.stdout.splitlines() if line.startswith(_MARK)]
    if _NUMPY_2 in answer.stderr:
        raise ProbeError("was built for NumPy 1 and this is NumPy 2: pip install 'numpy<2'")
    if answer.returncode < 0:
        raise ProbeError(f"crashed with {signal.Signals(-answer.returncode).name} at its import or first use")
    if not marked:
        raise ProbeError(f"ended without an answer: {_last(answer.stderr)}")
    result: dict[str, Any] = json.loads(marked[-1])
    if "error" in result:
        raise ProbeError(str(result["error"]))
    return result


def _onnxruntime() -> dict[str, Any]:
    ort = require("onnxruntime", extra="cpu", why="doctor")
    providers = [name for name in ort.get_available_providers() if name not in _NOT_HERE]
    return {"version": ort.__version__, "providers": {name.removesuffix("ExecutionProvider"): _runs(ort, name) for name in providers}}


def _runs(ort: Any, provider: str) -> str:
    """Why a provider does not run a node, or an empty text where it does."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    if provider != "CPUExecutionProvider":
        # Without this the processor silently takes the nodes that the provider cannot run.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    once = np.arange(4, dtype=np.float32)[np.newaxis]
    try:
        session = ort.InferenceSession(doubling_model(), settings, providers=[provider], enable_fallback=0)
        if session.get_providers()[0] != provider:
            return "it did not start, and the processor took its place: its CUDA, cuDNN or TensorRT libraries are missing or of another version"
        (twice,) = session.run(None, {"once": once})
    except Exception as error:  # the runtime's own classes share no base but this
        return reason(error)[:200]
    return "" if np.array_equal(twice, 2 * once) else f"it computes wrongly: 2 x {once.tolist()} = {twice.tolist()}"


def _openvino() -> dict[str, Any]:
    from jetlens.backends.openvino import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    able = [name for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") if name in ("FP32", "FP16", "BF16", "INT8")]
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    return {"version": str(openvino.__version__).partition("-")[0], "able": able, "default": default}


def _pytorch() -> dict[str, Any]:
    torch = require("torch", extra="train", why="doctor")
    facts: dict[str, Any] = {"version": str(torch.__version__), "cuda": "", "built_for": torch.version.cuda or "", "nms": {}}
    torch.from_numpy(np.zeros(1, np.float32))
    devices = ["cpu"]
    if torch.cuda.is_available():
        facts["cuda"] = torch.cuda.get_device_name(0)
        devices.append("cuda")
        if not bool((torch.ones(4, device="cuda") * 2 == 2).all()):
            raise RuntimeError("torch computes wrongly on the GPU")
    if installed("torchvision"):
        for device in devices:
            facts["nms"][device] = _nms(torch, device)
    return facts


def _nms(torch: Any, device: str) -> str:
    """Why torchvision's compiled operators do not run on a device, or an empty text where they do."""
    try:
        _load_torchvision(torch)
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 10], [20, 20, 30, 30]], device=device)
        kept = torch.ops.torchvision.nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5).tolist()
    except Exception as error:  # a torchvision that does not fit its torch raises many kinds
        return reason(error)[:200]
    return "" if kept == [0, 2] else f"it keeps {kept} of three boxes in place of [0, 2]"


def _load_torchvision(torch: Any) -> None:
    """Its compiled operators alone: to import all of torchvision takes as long as to import torch."""
    spec = find_spec("torchvision")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    libraries = [path for folder in folders for path in sorted(Path(folder).glob("_C*.so"))]
    if not libraries:
        require("torchvision.ops", extra="train", why="doctor")
    for path in libraries:
        torch.ops.load_library(str(path))
    # torchvision's own rule: -1 where it was built without CUDA, else 1000 times the major version and more.
    built, wanted = int(torch.ops.torchvision._cuda_version()), torch.version.cuda
    if built >= 0 and wanted and built // 1000 != int(wanted.partition(".")[0]):
        raise RuntimeError(f"torchvision was built for CUDA {built // 1000} and torch for CUDA {wanted}")


def _tensorrt() -> dict[str, Any]:
    from jetlens.engines.api import load_tensorrt

    tensorrt = load_tensorrt()
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    return {"version": str(tensorrt.__version__), "builder": tensorrt.Builder(logger) is not None}


def _cv2() -> dict[str, Any]:
    cv2 = require("cv2", extra="cpu", why="doctor")
    cv2.getBuildInformation()  # what calls itself cv2 and is not fails here
    return {"version": str(cv2.__version__)}


def _av() -> dict[str, Any]:
    av = require("av", extra="video", why="doctor")
    return {"version": str(av.__version__), "h264": "libx264" in av.codecs_available, "nvenc": "h264_nvenc" in av.codecs_available}


def _decoders() -> dict[str, Any]:
    """Why each hardware decoder does not decode a small video, or an empty text where it does."""
    with TemporaryDirectory() as folder:
        video = Path(folder) / "probe.mp4"
        with open_video_sink(video, StreamInfo(_VIDEO_HW, 30.0, None, "", ""), "av") as sink:
            for index in range(_VIDEO_FRAMES):
                picture = np.full((*_VIDEO_HW, 3), 20 * index, np.uint8)
                sink.write(Frame(picture, index, index / 30, 0.0, "probe"))
        return {name: _decodes(video, name) for name in HARDWARE}


def _decodes(video: Path, name: str) -> str:
    try:
        with open_video(video, "the trial", name) as source:
            count = sum(1 for _ in source)
    except JetlensError as error:
        return str(error).partition("cannot be used: ")[2] or str(error)
    return "" if count == _VIDEO_FRAMES else f"{count} of {_VIDEO_FRAMES} frames came out"


def _gi() -> dict[str, Any]:
    return {"version": str(load_gstreamer("appsink", "reading CSI cameras").version_string())}


def _run(model: str, backend: str) -> dict[str, Any]:
    """What really runs a model on a backend."""
    from jetlens.predictor import load

    with load(model, backend, threads=1) as predictor:
        predictor(np.zeros((*predictor.spec.preprocess.size_hw, 3), np.uint8))
        return {"provider": predictor.facts.provider, "precision": predictor.facts.precision}


PROBES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "pytorch": _pytorch,
    "tensorrt": _tensorrt,
    "cv2": _cv2,
    "av": _av,
    "decoders": _decoders,
    "gi": _gi,
}


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def _main(name: str, model: str = "", backend: str = "") -> None:
    try:
        answer = PROBES[name]()
        if model:
            answer["ran"] = _run(model, backend)
    except Exception as error:  # a broken package may raise anything at its import
        answer = {"error": reason(error)}
    print(f"\n{_MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
