"""The accuracy guard's proof: what fp16 and int8 cost real networks, by paired scores, and what had to stay fp32.

    python benchmarks/precision_guard.py [--only NAME ...] [--output FILE]
    python benchmarks/precision_guard.py --model FILE.onnx|CHECKPOINT --data FOLDER [--calibration FOLDER] [--count N] [--backend B] [--output FILE]

The first form measures what ships with jetlens on pictures that no training saw, and torchvision's MobileNetV2 on 500 photos of ImageNet's training
part (calibrated on COCO's validation photos); about ten minutes on one core. The second takes any model; its figures join those in FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jetlens.export.onnx import export_model
from jetlens.export.trained import network_to_export
from jetlens.export.zoo import ensure
from jetlens.precision.guard import Budget
from jetlens.precision.making import Asked, attempt, chosen_pictures
from jetlens.predictor import model_path
from jetlens.spec import read_model

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
METHODS = ("percentile", "minmax")


@dataclass(frozen=True)
class Case:
    """A model and the pictures that judge it."""

    name: str
    model: Path
    data: str | Path
    calibration: str | Path
    count: int
    backend: str = "onnxruntime"


def unpacked(archive: str, folder: Path) -> Path:
    """The only folder in an archive of the shared datasets."""
    with tarfile.open(DATA / "datasets" / archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def cases(scratch: Path, only: list[str]) -> Iterator[Case]:
    """What is measured without a model of the user's."""
    stills = {"orange-grade": 400, "orange-detect": 1000, "orange-segment": 1000}
    for name, count in stills.items():
        if not only or name in only:
            yield Case(name, model_path(name), "orange-line", "orange-line", count)
    if not only or "cifar10-basic" in only:
        yield Case("cifar10-basic", model_path("cifar10-basic"), DATA / "datasets/cifar10", DATA / "datasets/cifar10", 10_000)
    if not only or "mobilenet_v2" in only:
        weights = DATA / "models/mobilenetv2_torchvision/mobilenet_v2_imagenet_tvnorm_fp16.pth"
        photos = unpacked("imagenet_sample_500_even.tar", scratch / "imagenet")
        calibration = unpacked("coco_val2017_64.tar", scratch / "coco")
        yield Case("mobilenet_v2", ensure("mobilenet_v2", weights), photos, calibration, 500)


def measured(case: Case) -> Iterator[dict[str, Any]]:
    """A row for fp16 and one for int8 with each calibration until one passes."""
    asked = Asked("int8", case.data, calibration=case.calibration, count=case.count, backend=case.backend)
    pictures = chosen_pictures(read_model(case.model)[1], asked)
    for precision, method in (("fp16", "percentile"), *(("int8", method) for method in METHODS)):
        start = time.perf_counter()
        used = pictures if precision == "int8" else (None, *pictures[1:])
        result, content = attempt(case.model, replace(asked, precision=precision, method=method), Budget(), print, used)
        row = result.to_dict()
        row.pop("path")
        size = None if content is None else len(content)
        yield {
            "model": case.name,
            **row,
            "bytes": size,
            "fp32_bytes": case.model.stat().st_size,
            "seconds": round(time.perf_counter() - start, 1),
        }
        if precision == "int8" and content is not None:
            return


def exported(model: str, scratch: Path) -> Path:
    """An ONNX file as it is; a checkpoint exported."""
    if model.endswith(".onnx"):
        return Path(model)
    network, spec = network_to_export(model)
    target = scratch / f"{spec.name}.onnx"
    export_model(network, spec, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--calibration")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/precision_guard.json")
    args = parser.parse_args()
    os.nice(10)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        chosen: list[Case] | Iterator[Case] = cases(scratch, args.only)
        if args.model:
            path = exported(args.model, scratch)
            chosen = [Case(path.stem, path, args.data, args.calibration or args.data, args.count, args.backend)]
        for case in chosen:
            print(case.name, flush=True)
            record(args.output, case.name, list(measured(case)))


def record(output: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Puts a model's rows in the place of its older ones."""
    before = json.loads(output.read_text())["rows"] if output.is_file() else []
    kept = [row for row in before if row["model"] != name]
    content = {"machine": platform.processor() or platform.machine(), "rows": [*kept, *rows]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
