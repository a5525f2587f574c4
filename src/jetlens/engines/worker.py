"""The child that builds one TensorRT plan: python -m jetlens.engines.worker FOLDER."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from jetlens.engines.api import load_tensorrt
from jetlens.engines.builder import make_plan
from jetlens.engines.job import Answer, Job, read_job, write_answer, write_progress
from jetlens.errors import BackendError, JetlensError, ModelError

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_MOST_ERRORS = 200


def main(folder: Path) -> None:
    """Builds the job that lies in a folder and lays the answer beside it."""
    job, model = read_job(folder)
    _die_with(job.parent)
    try:
        write_answer(folder, _built(folder, job, model))
    except ModelError as error:
        write_answer(folder, Answer("model", str(error)))
    except MemoryError as error:
        write_answer(folder, Answer("memory", str(error)))
    except JetlensError as error:
        write_answer(folder, Answer("backend", str(error)))


def _built(folder: Path, job: Job, model: bytes) -> Answer:
    said = 0

    def echo(text: str) -> None:
        """Into the log that outlives a crash; a builder that repeats itself is cut off."""
        nonlocal said
        said += 1
        if said <= _MOST_ERRORS:
            print(f"TensorRT: {text}", file=sys.stderr, flush=True)

    tensorrt = load_tensorrt(job.module)
    try:
        plan, facts = make_plan(tensorrt, model, job, progress=lambda text: write_progress(folder, text), echo=echo)
    except (RuntimeError, TypeError) as error:
        # What TensorRT's bindings raise, such as a factory that got no GPU.
        raise BackendError(f"TensorRT failed: {' '.join(str(error).split())[:200]}; check the GPU and its driver: nvidia-smi") from error
    return Answer("built", plan=plan, facts=facts)


def _die_with(parent: int) -> None:
    """Ends this process when the one that asked does, however that happens."""
    if sys.platform != "linux" or not parent:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have died before that call.
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stderr.flush()
    # The answer is on the disk: what the libraries do on the way out may crash and would count as the build's own failure.
    os._exit(0)
