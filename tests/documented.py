"""Commands as the documentation shows them: found in its pages, and run with the smallest counts that they take."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jetlens.cli import main
from jetlens.data.orange_line import still
from jetlens.media import open_sink, open_source
from jetlens.media.images import write_image

__all__ = ["FOUND", "REAL_FILES", "ROOT", "Block", "blocks", "make_inputs", "run"]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"<!-- not run by the tests(?: \(`([^`]+)`\))?: (\S.*?) -->")
NEVER = {"pip install": "it changes the environment"}
"""What is run nowhere, marked or not."""
SHORTER = (
    (r"jetlens bench .*--scenario (video|live)", "--backends onnxruntime --blocks 1 --block-seconds 0.5"),
    (r"jetlens bench .*--scenario video", "--count 8"),
    (
        r"jetlens bench (?!.*--scenario (video|live))",
        "--backends onnxruntime --precisions fp32 --blocks 3 --block-seconds 0.05 --count 2 --pictures 2",
    ),
    (r"jetlens report .*\.onnx.* --lab|jetlens report --lab .*\.onnx", "--blocks 2 --backends onnxruntime,tensorrt"),
    (r"jetlens evaluate", "--count 4"),
    (r"jetlens train", "--epochs 1 --steps 2 --workers 0 --device cpu --batch-size 4 --no-pictures"),
    (r"jetlens train .*orange-line", "--samples 8"),
    (r"jetlens-cnn|python jetson_cnn_toolkit.py", "--epochs 1 --workers 0 --device cpu --batch-size 4"),
    (r"python jetson_cnn_toolkit.py", "--output runs-of-the-script"),
    (r"jetlens monitor", "--count 1"),
    (r"jetlens compare", "--force"),
    (r"jetlens run .*--duration", "--duration 6"),
    (r"jetlens run .*--view", "--view 0"),
    (r"jetlens streams", "--limit 1 --seconds 1"),
    (r"jetlens demo", "--frames 3 --pictures 1"),
)
"""What is added to a command so that it takes seconds: the last of two equal flags counts."""


def _cnn_toolkit(words: Sequence[str]) -> None:
    """Imports torch, which reading the pages does not need."""
    from jetlens.cli.toolkit import main as command

    command(words)


OURS = {"jetlens ": main, "jetlens-cnn ": _cnn_toolkit, "python jetson_cnn_toolkit.py ": _cnn_toolkit}
"""Commands that run in this process, which saves them from importing torch anew."""
APART = ("jetlens run ", "jetlens streams ")
"""Those of them that take signals, and end their process where a source does not answer."""
REAL_FILES = {"yolox_nano.onnx": "models/yolox_nano/yolox_nano_bigisland.onnx"}
"""Files that nobody can make here; where the real data is not there, what names them is left out."""


@dataclass(frozen=True)
class Block:
    """The commands of one block, each with the reason why it is not run, or none."""

    page: str
    line: int
    commands: tuple[tuple[str, str], ...]
    stale: tuple[str, ...]


def blocks(text: str, page: str) -> Iterator[Block]:
    """The console blocks of a page."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if line.strip() != "```console":
            continue
        end = next(index for index in range(start + 1, len(lines)) if lines[index].strip() == "```")
        marks, above = [], start - 1
        while above >= 0 and (not lines[above].strip() or MARK.fullmatch(lines[above].strip())):
            if found := MARK.fullmatch(lines[above].strip()):
                marks.append((found[1] or "", found[2]))
            above -= 1
        typed = re.sub(r"\\\n(?:> )?", " ", "\n".join(lines[start + 1 : end]))
        commands = [row[2:].strip() for row in typed.splitlines() if row.startswith(("$ ", "# "))]
        reasons = [next((reason for part, reason in [*marks, *NEVER.items()] if part in command), "") for command in commands]
        stale = tuple(part for part, _ in marks if not any(part in command for command in commands))
        yield Block(page, start + 1, tuple(zip(commands, reasons, strict=True)), stale)


FOUND = [block for page in PAGES for block in blocks(page.read_text("utf-8"), str(page.relative_to(ROOT)))]


def make_inputs(folder: Path) -> None:
    """The files that the pages speak of, small ones of the same names."""
    import torch
    import torchvision

    for seed, name in enumerate(("cat", "dog", "photo")):
        Image.fromarray(still(seed=seed)[0][:240, :320]).save(folder / f"{name}.jpg")
    generator = np.random.default_rng(0)  # no two pictures are equal: one of each pair would be left out
    for split in ("photos", "val", "data/imagenet/train", "data/imagenet/val"):
        for label, level in (("n01440764", 60), ("n01443537", 190)):
            (folder / split / label).mkdir(parents=True)
            for number in range(6):
                noise = generator.integers(0, 60, (40, 48, 3))
                write_image(folder / split / label / f"{number}.png", (level + noise).astype(np.uint8))
    with open_source("test://orange-line?frames=6&size=180x320") as source, open_sink(folder / "street.mp4", source.info) as sink:
        for frame in source:
            sink.write(frame)
    shutil.copy(folder / "street.mp4", folder / "belt.mp4")
    torch.manual_seed(0)
    for name, file in (("resnet18", "r18.pth"), ("mobilenet_v2", "mobilenet_v2.pth")):
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), folder / file)
    for name, real in REAL_FILES.items():
        if (SHARED / real).is_file():
            shutil.copy(SHARED / real, folder / name)
    binary_cifar10(folder / "data" / "cifar-10-batches-bin")
    words = ["bench", "cifar10-basic", "--images", str(folder / "cat.jpg"), "--backends", "onnxruntime", "--blocks", "3"]
    with suppress(SystemExit):
        main([*words, "--block-seconds", "0.1", "--output", str(folder / "before.json")])
    shutil.copy(folder / "before.json", folder / "after.json")


def binary_cifar10(folder: Path) -> None:
    """The official binary layout with a few pictures."""
    folder.mkdir(parents=True)
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        rows = np.random.default_rng(0).integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / name)


def run(command: str, folder: Path) -> int:
    """The exit code of a command, made small."""
    ours = next((name for name in OURS if command.startswith(name)), "")
    if ours and not re.search(r"[|>&;]", re.sub(r"'[^']*'", "", command)):
        # A tenth of the frames: they are rendered before the first is shown.
        words = shlex.split(re.sub(r"\b(loop|frames)=(\d+)0\b", r"\1=\2", command.removeprefix(ours)), comments=True)
        added = [word for pattern, flags in SHORTER if re.match(pattern, command) for word in shlex.split(flags)]
        if command.startswith(APART):
            return subprocess.run([sys.executable, "-m", "jetlens", *words, *added], cwd=folder, timeout=120, check=False).returncode
        try:
            OURS[ours]([*words, *added])
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, timeout=120, check=False).returncode
