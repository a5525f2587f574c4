"""What the commands of jetlens say on a machine with TensorRT: captures.py MODELS OUTPUT.txt, with orange-detect.onnx and its fp16 file in MODELS."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from jetlens.data.orange_line import still

LIMIT_S = 120.0
QUICK = ["--optimization-level", "1"]


def commands(model: str, half: str) -> list[list[str]]:
    """In an order in which each finds what it needs."""
    return [
        ["doctor"],
        ["build", half, *QUICK],
        ["build", half, *QUICK],
        ["cache", "ls"],
        ["cache", "why", half, "--batch", "1:8:8", *QUICK],
        ["build", half, *QUICK, "--output", "mine.plan"],
        ["inspect", "mine.plan"],
        ["predict", "line.png", "--model", "mine.plan"],
        ["adopt", "mine.plan", "--trust", "--task", "detection", "--labels", "labels.txt", "--force"],
        ["predict", "line.png", "--model", "mine.plan"],
        ["build", model, "--batch", "1:4:8", *QUICK],
        ["inspect", model],
        ["predict", "line.png", "--model", model, "--precision", "fp16", "--backend", "tensorrt", "--json"],
        ["build", model, "--optimization-level", "0", "--version-compatible", "--no-save"],
        ["cache", "ls"],
        ["monitor", "--count", "3", "--interval", "0.5"],
    ]


def main() -> None:
    models, output = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as folder, output.open("w", buffering=1) as log:
        for file in models.glob("orange-detect*"):
            shutil.copyfile(file, Path(folder) / file.name)
        Image.fromarray(still(7, (720, 1280))[0]).save(Path(folder) / "line.png")
        (Path(folder) / "labels.txt").write_text("orange\n")
        for words in commands("orange-detect.onnx", "orange-detect.fp16.onnx"):
            log.write(f"$ jetlens {' '.join(words)}\n")
            began = time.monotonic()
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "jetlens", *words], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
                )
                log.write(f"{done.stdout}{done.stderr}[exit {done.returncode}, {time.monotonic() - began:.1f} s]\n\n")
            except subprocess.TimeoutExpired:
                log.write(f"[ended after {LIMIT_S:.0f} s]\n\n")


if __name__ == "__main__":
    main()
