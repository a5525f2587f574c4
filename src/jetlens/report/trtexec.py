"""What a log of trtexec says, in words for a page."""

from __future__ import annotations

from pathlib import Path

from jetlens.engines.trtexec import read_log
from jetlens.errors import DataError
from jetlens.report.rows import number

__all__ = ["summary", "tail"]

_LARGEST_BYTES = 64 << 20
_LINES = 60


def summary(path: Path) -> dict[str, str]:
    """Name to value of what the log tells; trtexec measures the network alone, on its own inputs.

    Raises:
        DataError: the file cannot be read, or is no log of trtexec.
    """
    told = read_log(_text(path))
    facts = {"TensorRT": told.version, "device": told.device}
    if told.throughput_per_s is not None:
        facts["throughput"] = number(told.throughput_per_s, "runs/s")
    for name, times in (("latency, copies included", told.latency_ms), ("GPU compute alone", told.gpu_compute_ms)):
        facts[name] = ", ".join(f"{statistic} {number(ms, 'ms')}" for statistic, ms in times.items())
    if told.build_s is not None:
        facts["engine built in"] = number(told.build_s, "s")
    if not any(facts.values()):
        raise DataError(f"{path}: no line of it is one of trtexec's; give the log that trtexec printed")
    return {name: value for name, value in facts.items() if value}


def tail(path: Path) -> str:
    """The last lines of a log, as they are.

    Raises:
        DataError: the file cannot be read.
    """
    return "\n".join(_text(path).splitlines()[-_LINES:])


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"{path}: larger than any log of trtexec")
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
