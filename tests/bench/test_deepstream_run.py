"""DeepStream as a mode: the configuration is run, its frames and wall time are read; absent or failing it says why. No DeepStream ran here."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from jetlens.bench.deepstream import DeepStream, why_no_deepstream
from jetlens.bench.modes import orange_video
from jetlens.bench.process import WorkerProcess
from jetlens.errors import BackendError
from jetlens.predictor import model_path

pytest.importorskip("onnx")

# Stands for gst-launch-1.0: leaves the video that it was given as what it encoded, and says what GStreamer says.
LAUNCH = """#!/bin/sh
for word in "$@"; do case $word in uri=file://*) from=${{word#uri=file://}} ;; location=*) to=${{word#location=}} ;; esac; done
echo "Setting pipeline to PAUSED ..."
echo "Setting pipeline to PLAYING ..."
{work}
echo "Execution ended after 0:00:{seconds}"
"""
GOOD = 'cp "$from" "$to"'


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, work: str = GOOD, seconds: str = "01.500000000") -> None:
    for name, text in (
        ("gst-launch-1.0", LAUNCH.format(work=work, seconds=seconds)),
        ("deepstream-app", "#!/bin/sh\necho 'deepstream-app version 6.0.1'\n"),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_absent_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no deepstream-app and no gst-launch-1.0 on the PATH" in why_no_deepstream()
    with pytest.raises(BackendError, match="DeepStream is not installed"):
        DeepStream(model_path("orange-segment"), "video.mp4", tmp_path)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_frames_and_wall_time_are_the_pipelines_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    with orange_video(tmp_path, frames=12, size_hw=(64, 96)) as video:
        ran = DeepStream(model_path("orange-segment"), str(video), tmp_path / "work")
        assert ran.run(None) == (12, 1.5)
    assert (ran.facts.backend, ran.facts.version, ran.facts.precision) == ("deepstream", "6.0.1", "fp32")
    assert (tmp_path / "work/deepstream/nvinfer.txt").is_file()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ("echo 'ERROR: from element nvinfer: no engine'; exit 1", "exit code 1: ERROR: from element nvinfer: no engine"),
        ("true", "exit code 0"),
        ('cp "$from" "$to"; exit 0', "exit code 0"),
        ('cp "$from" "$to"; kill -9 $$', "exit code -9"),
    ],
)
def test_a_failure_is_a_reason_and_no_rate(work: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, work)
    with orange_video(tmp_path, frames=3, size_hw=(64, 96)) as video, pytest.raises(BackendError, match=message):
        DeepStream(model_path("orange-segment"), str(video), tmp_path / "work")


def test_a_source_that_it_cannot_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(BackendError, match="takes files, rtsp:// and http:// addresses"):
        DeepStream(model_path("orange-segment"), "test://orange-line?live=1", tmp_path)


def test_the_pipeline_ends_with_its_worker(tmp_path: Path) -> None:
    """A worker that is ended in the middle of a run leaves no GStreamer behind; the negative control ends the worker alone."""
    script = tmp_path / "sitecustomize.py"
    note = tmp_path / "child"
    script.write_text(
        "import subprocess, sys\n"
        "if sys.argv[0] == '-m':\n"
        f"    child = subprocess.Popen(['sleep', '60']); open({str(note)!r}, 'w').write(str(child.pid))\n"
    )
    for alone in (False, True):
        note.unlink(missing_ok=True)
        worker = WorkerProcess(environment={"PYTHONPATH": str(tmp_path)})
        limit = time.monotonic() + 20
        while not (note.exists() and note.read_text()) and time.monotonic() < limit:
            time.sleep(0.02)
        child = int(note.read_text())
        if alone:
            os.kill(worker.pid, signal.SIGKILL)
            worker.close()
        else:
            worker.kill()
        time.sleep(0.1)
        assert _runs(child) == alone
        if alone:
            os.kill(child, signal.SIGKILL)


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
