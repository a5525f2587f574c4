"""DeepStream: NVIDIA's pipeline over a stream, from the configuration that `jetlens deepstream` writes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from jetlens.backends.base import RunFacts
from jetlens.device.machine import gpu_name
from jetlens.errors import BackendError
from jetlens.export.deepstream import SCRIPT, write_deepstream
from jetlens.media import open_source
from jetlens.spec import read_model

__all__ = ["DeepStream", "why_no_deepstream"]

_RUN_S = 550.0
_BUILD_S = 3500.0
_FIRST_S = 3.0
_STOP_S = 20.0
_ENDED = re.compile(r"Execution ended after (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_ADDRESSES = ("rtsp://", "rtsps://", "http://", "https://")


def why_no_deepstream() -> str:
    """Why DeepStream cannot run here; empty where its programs are there."""
    missing = [name for name in ("deepstream-app", "gst-launch-1.0") if shutil.which(name) is None]
    if not missing:
        return ""
    return (
        f"DeepStream is not installed: no {' and no '.join(missing)} on the PATH; it comes from NVIDIA, on a Jetson through JetPack's apt"
    )


class DeepStream:
    """A folder that DeepStream runs, whose engine is built.

    Raises:
        BackendError: DeepStream is not here, cannot read the source, or fails.
        ModelError: no configuration can be made of the model.
    """

    def __init__(self, model: Path, uri: str, folder: Path) -> None:
        missing = why_no_deepstream()
        if missing:
            raise BackendError(missing)
        if "://" in uri and not uri.startswith(_ADDRESSES):
            raise BackendError("the configuration for DeepStream takes files, rtsp:// and http:// addresses; this source is another")
        self._live = uri.startswith(_ADDRESSES)
        self._uri = uri
        self._output = folder / "deepstream.mp4"
        written = write_deepstream(model, folder / "deepstream", force=True)
        self._script = written.folder / SCRIPT
        self._limit_s = _BUILD_S
        self.run(_FIRST_S)  # builds the engine, which the runs after it load
        self._limit_s = _RUN_S
        self.facts = RunFacts("deepstream", _version(), "nvinfer (TensorRT)", gpu_name(), read_model(model)[1].precision)

    def run(self, seconds: float | None) -> tuple[int, float]:
        """Runs a file to its end, or so many seconds of an address; the frames in the video that came out, and the pipeline's own wall time.

        Raises:
            BackendError: it failed, took too long or wrote no frame.
        """
        self._output.unlink(missing_ok=True)
        process = subprocess.Popen(
            [str(self._script), self._uri],
            env={**os.environ, "SINK": str(self._output)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        guard = threading.Timer(self._limit_s, process.kill)
        guard.start()
        try:
            lines = self._read(process, seconds if self._live else None)
            code = process.wait()
        finally:
            guard.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        return self._counted(lines, code)

    def _read(self, process: subprocess.Popen[str], seconds: float | None) -> list[str]:
        """What it prints; a camera is ended so many seconds after it plays."""
        assert process.stdout is not None
        lines: list[str] = []
        ending: threading.Timer | None = None
        for line in process.stdout:
            lines.append(line.rstrip())
            if seconds is not None and ending is None and "PLAYING" in line:
                ending = threading.Timer(seconds, process.send_signal, (signal.SIGINT,))
                ending.start()
        if ending is not None:
            ending.cancel()
        return lines

    def _counted(self, lines: list[str], code: int) -> tuple[int, float]:
        ended = next((found for line in reversed(lines) if (found := _ENDED.search(line))), None)
        if code != 0 or ended is None or not self._output.is_file():
            said = next((line for line in reversed(lines) if "ERROR" in line.upper()), lines[-1] if lines else "it said nothing")
            raise BackendError(f"DeepStream failed with exit code {code}: {said[:160]}")
        with open_source(self._output) as video:
            frames = video.info.frames or sum(1 for _ in video)
        return frames, 3600 * int(ended[1]) + 60 * int(ended[2]) + float(ended[3])


def _version() -> str:
    try:
        answer = subprocess.run(["deepstream-app", "--version"], capture_output=True, text=True, timeout=_STOP_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"deepstream-app version (\S+)", answer.stdout + answer.stderr)
    return found[1] if found else ""
