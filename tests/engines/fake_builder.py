"""Builders that make no TensorRT plan: for everything that happens around the build."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetlens.engines.environment import Environment
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import PlanFacts
from jetlens.spec import TensorSpec

HERE = Environment("10.3.0", "12.6", "560.35.03", "NVIDIA H200", "9.0", "none", "53-0123456789ab", "linux-x86_64")
FACTS = PlanFacts(
    (TensorSpec("images", "uint8", ("N", 8, 12, 3)),),
    (TensorSpec("logits", "float32", ("N", 3)),),
    "fp16",
    {"fp16": 20, "fp32": 3},
    1.5,
    1024,
    3.25,
    ("the builder said ä\ud800",),
)


@dataclass
class FakeBuilder:
    """Gives other bytes at every build, so that a plan tells which build it came from."""

    size: int = 4096
    plans: list[bytes] = field(default_factory=list)
    wait_s: float = 0.0

    def __call__(
        self, model: bytes, options: BuildOptions, *, name: str, timing_cache: Path | None, report: Callable[[str], None]
    ) -> tuple[bytes, PlanFacts]:
        time.sleep(self.wait_s)
        plan = hashlib.sha256(model).digest() + os.urandom(self.size)
        self.plans.append(plan)
        return plan, FACTS


class LoggedBuilder:
    """Writes a line for each build into a file that several processes share, then takes its time."""

    def __init__(self, log: Path, wait_s: float) -> None:
        self.log = log
        self.wait_s = wait_s

    def __call__(self, model: bytes, options: BuildOptions, *, name: str, **rest: Any) -> tuple[bytes, PlanFacts]:
        with self.log.open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        time.sleep(self.wait_s)
        return os.urandom(4096), FACTS


def naive_obtain(model: bytes, options: BuildOptions, *, name: str, builder: Callable[..., Any], folder: Path, **rest: Any) -> bytes:
    """What most programs do: a file that is there is loaded. The control that shows what the tests can see."""
    path = folder / f"{name}.plan"
    if path.exists():
        return path.read_bytes()
    plan, _ = builder(model, options, name=name, timing_cache=None, report=print)
    path.write_bytes(plan)
    return bytes(plan)
