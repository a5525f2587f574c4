"""`jetlens run --isolate`: the command outlives its worker, and never leaves one behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = "test://orange-line?live=1&loop=10&size=64x96"


@pytest.fixture(autouse=True)
def _needs() -> None:
    pytest.importorskip("onnxruntime")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jetlens", "run", SOURCE, "--isolate", "--backend", "onnxruntime", "--threads", "1", "--json", *words]
    with open(folder / "out.jsonl", "w") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True)


def worker_of(process: int) -> int | None:
    """The child of a process that holds the model, found by its command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"jetlens.backends.isolated.worker" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    return None


def answering(folder: Path, process: int, least: int, seconds: float = 30.0) -> int:
    """Waits until so many answers stand in the output; the worker then."""
    end_s = time.monotonic() + seconds
    while (worker := worker_of(process)) is None or len((folder / "out.jsonl").read_text().splitlines()) < least:
        assert time.monotonic() < end_s, "no answer came"
        time.sleep(0.02)
    return worker


def gone(process: int) -> bool:
    end_s = time.monotonic() + 5
    while Path(f"/proc/{process}").exists() and ") Z " not in Path(f"/proc/{process}/stat").read_text():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def test_the_run_goes_on_when_its_worker_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, "--output", "a.mp4") as run:
        first = answering(tmp_path, run.pid, 5)
        os.kill(first, signal.SIGKILL)
        count = len((tmp_path / "out.jsonl").read_text().splitlines())
        second = answering(tmp_path, run.pid, count + 10)
        os.kill(second, signal.SIGSTOP)
        began_s = time.monotonic()
        run.terminate()
        _, said = run.communicate(timeout=20)
        assert time.monotonic() - began_s <= 2.5  # two seconds, and the start of the interpreter's end
    assert second != first
    assert "in a process of its own" in said
    assert "worker died" in said
    assert "Traceback" not in said
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    numbers = [row["index"] for row in rows]
    assert numbers == sorted(set(numbers))
    assert gone(first)
    assert gone(second)
    assert (tmp_path / "a.mp4").stat().st_size > 1000


def test_a_killed_command_leaves_no_worker(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        worker = answering(tmp_path, run.pid, 3)
        os.kill(worker, signal.SIGSTOP)
        run.kill()
    assert gone(worker)
