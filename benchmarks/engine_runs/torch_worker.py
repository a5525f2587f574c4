"""The PyTorch side: exports a network, computes its answers in fp32, makes the fp16 and int8 graphs, and times PyTorch's own ways."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from numpy.typing import NDArray
from turns import serve

from jetlens.bench.baselines import BASELINES, Baseline, open_baseline
from jetlens.data.samples import orange_line_samples
from jetlens.export.deployable import OUTPUTS, TAPS, Deployable
from jetlens.export.onnx import export_model, taps_path
from jetlens.export.trained import network_to_export
from jetlens.imagefile import load_image
from jetlens.ops.images import normalize, resize_into
from jetlens.precision import Budget, make
from jetlens.spec import ModelSpec, read_model

SHIPPED = Path(__import__("jetlens").__file__).parent / "assets" / "models"
SEED = 20_000
ANYTHING = Budget(drop=1.0, kept=0.0, agreement=0.0, class_drop=1.0)
"""What is measured here is speed and deviation, with random weights too; the guard has its own proof."""
LABELLED = 32


class State:
    """The network that is at work."""

    network: Deployable
    spec: ModelSpec
    pictures: NDArray[np.uint8]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    baselines: dict[str, Baseline]


state = State()
state.baselines = {}


def _pictures(spec: ModelSpec, count: int, folder: str) -> NDArray[np.uint8]:
    """Pictures uint8 [count, H, W, 3] at the network's size: of the orange line for our own networks, else photos over and over."""
    out = np.empty((count, *spec.preprocess.size_hw, 3), np.uint8)
    if spec.name.startswith("orange"):
        images = [sample.image for sample in orange_line_samples(spec.task, count, (360, 640), SEED)][:count]
    else:
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        images = [load_image(path) for path in files[:count]]
    for i, canvas in enumerate(out):
        resize_into(images[i % len(images)], spec.preprocess, canvas)
    return out


def _settle(network: torch.nn.Module, spec: ModelSpec, pictures: NDArray[np.uint8]) -> None:
    """Batch statistics from pictures, as a trained network has them: random ones leave activations of no likely size."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.to(state.device).train()
    with torch.no_grad():
        network(torch.from_numpy(normalize(pictures[:32], spec.preprocess)).to(state.device))
    network.cpu().eval()


def prepare(network: str, folder: str, photos: str, count: int, weights: str | None, checkpoint: str | None) -> dict[str, Any]:
    """Writes NAME.onnx, NAME.taps.onnx, pictures.npy and reference.npz into the folder."""
    torch.manual_seed(0)
    out = Path(folder)
    model = out / f"{network}.onnx"
    built, spec = network_to_export(checkpoint or network, Path(weights) if weights else None, untrained=not (weights or checkpoint))
    state.pictures = _pictures(spec, count, photos)
    if not (weights or checkpoint):
        _settle(built, spec, state.pictures)
    began = time.perf_counter()
    export_model(built, spec, model, taps=True, allow_random=True)
    export_s = time.perf_counter() - began
    if (SHIPPED / model.name).is_file():  # the file itself, and not what this torch makes of its checkpoint
        for file in (model.name, f"{model.name}.json"):
            shutil.copyfile(SHIPPED / file, out / file)
    content, state.spec = read_model(model)
    state.network = Deployable(built, spec.task).eval()
    np.save(out / "pictures.npy", state.pictures)
    answers = _reference()
    np.savez(out / "reference.npz", **answers)
    torch.save(built.state_dict(), out / "network.pt")
    return {
        "model": str(model),
        "taps": str(taps_path(model)),
        "task": spec.task,
        "input": state.spec.inputs[0].name,
        "input_hw": list(spec.preprocess.size_hw),
        "weights": dict(state.spec.weights),
        "sha256": {"model": hashlib.sha256(content).hexdigest(), "pictures": hashlib.sha256(state.pictures).hexdigest()},
        "export_s": round(export_s, 2),
        "torch": torch.__version__,
        "reference": f"PyTorch fp32 on {state.device}, TF32 off",
    }


def load(network: str, folder: str, weights: str | None, checkpoint: str | None) -> None:
    """The network and the pictures of an earlier ``prepare``."""
    out = Path(folder)
    built, _ = network_to_export(checkpoint or network, Path(weights) if weights else None, untrained=not (weights or checkpoint))
    built.load_state_dict(torch.load(out / "network.pt", weights_only=True))
    state.spec = read_model(out / f"{network}.onnx")[1]
    state.network = Deployable(built, state.spec.task).eval()
    state.pictures = np.load(out / "pictures.npy")


def _reference() -> dict[str, NDArray[Any]]:
    """The outputs and the raw numbers behind them, in fp32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    network = state.network.to(state.device)
    parts: list[tuple[NDArray[Any], ...]] = []
    with torch.no_grad():
        for chunk in np.array_split(state.pictures, max(1, len(state.pictures) // 8)):
            answer = network(torch.from_numpy(normalize(chunk, state.spec.preprocess)).to(state.device))
            parts.append(tuple(value.cpu().numpy() for value in answer))
    state.network.cpu()
    names = (OUTPUTS[state.spec.task], *TAPS[state.spec.task])
    return {name: np.concatenate(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def precision(model: str, kind: str, ready: str | None, calibration: str | None) -> dict[str, Any]:
    """The fp16 or int8 file of a model: one that was carried here, or made now."""
    path = Path(model)
    beside = path.with_name(f"{path.stem}.{kind}.onnx")
    if ready:
        shutil.copyfile(ready, beside)
        shutil.copyfile(f"{ready}.json", f"{beside}.json")
        return {"path": str(beside), "made": "carried"}
    began = time.perf_counter()
    lines: list[str] = []
    report = make(
        path,
        kind,
        output=beside,
        calibration=calibration if kind == "int8" else None,
        count=LABELLED,
        calibration_count=64,
        budget=ANYTHING,
        report=lines.append,
    )
    return {"path": str(report.path), "made": "here", "seconds": round(time.perf_counter() - began, 1), "report": report.to_dict()}


def open_baselines(names: list[str], batch: int) -> dict[str, Any]:
    """Loads baselines for a batch; what cannot run says why."""
    rows: dict[str, Any] = {}
    for name in names:
        before = torch.cuda.memory_reserved() if state.device == "cuda" else 0
        try:
            found = open_baseline(
                name,
                state.network.network if state.spec.task == "classification" else state.network,
                state.spec.preprocess.mean,
                state.spec.preprocess.std,
                state.pictures[:batch],
                state.device,
            )
        except Exception as error:
            rows[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            continue
        state.baselines[name] = found
        memory = (torch.cuda.memory_reserved() - before) / 2**20 if state.device == "cuda" else 0
        rows[name] = {"ready_s": round(found.ready_s, 2), "memory_mib": round(memory, 1)}
    return rows


def block(name: str, batch: int, seconds: float) -> dict[str, list[float]]:
    """Times of one baseline in milliseconds: host to host, and computing alone."""
    baseline = state.baselines[name]
    whole: list[float] = []
    end = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end or len(whole) < 3:
        first = (turn * batch) % (len(state.pictures) - batch + 1)
        pictures = state.pictures[first : first + batch]
        began = time.perf_counter_ns()
        baseline.run(pictures)
        whole.append((time.perf_counter_ns() - began) / 1e6)
        turn += 1
    return {"host_ms": whole, "compute_ms": baseline.compute_ms(max(3, len(whole) // 4))}


def answers(name: str, batch: int, count: int, output: str) -> None:
    """A baseline's first output for the first pictures, saved as .npy."""
    rows = [state.baselines[name].run(state.pictures[i : i + batch]).copy() for i in range(0, count, batch)]
    np.save(output, np.concatenate(rows).astype(np.float32))


def close_baselines() -> None:
    """Frees all of them."""
    for baseline in state.baselines.values():
        baseline.close()
    state.baselines.clear()


def facts() -> dict[str, str]:
    """What runs here."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "baselines": ", ".join(BASELINES),
    }


if __name__ == "__main__":
    serve(
        {
            "answers": answers,
            "block": block,
            "close_baselines": close_baselines,
            "facts": facts,
            "load": load,
            "open_baselines": open_baselines,
            "precision": precision,
            "prepare": prepare,
        }
    )
