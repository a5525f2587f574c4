"""Runs made by hand, for tests that need one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from jetlens.backends.base import RunFacts
from jetlens.bench.records import Block, Case, Gate, Measurement, Run

CASE = Case("m", "onnxruntime", "fp32")
FACTS = RunFacts("onnxruntime", "1.0", "CPUExecutionProvider", "a processor", "fp32")
PASSED = (Gate("numeric", True, "as the reference"),)
NOISE = Path(__file__).with_name("noise.json")


def block(*answers_ms: float, decode_ms: float = 1.0, yardstick_ms: float = 0.2, started_s: float = 0.0) -> Block:
    """A turn whose calls decode, compute and draw; ``answers_ms`` are what lies between."""
    stages = {
        "decode": (decode_ms,) * len(answers_ms),
        "preprocess": tuple(0.25 * value for value in answers_ms),
        "compute": tuple(0.75 * value for value in answers_ms),
        "draw": (0.5,) * len(answers_ms),
    }
    calls = tuple(value + decode_ms + 0.5 for value in answers_ms)
    return Block(started_s, sum(calls) / 1000, len(calls), calls, stages, yardstick_ms=(yardstick_ms,))


def measurement(*blocks: Block, case: Case = CASE, **changed: Any) -> Measurement:
    made = Measurement(case, FACTS, "model", "input", 10.0, 5.0, blocks=blocks, planned=len(blocks), gates=PASSED)
    return replace(made, **changed)


def run(*rows: Measurement, **changed: Any) -> Run:
    made = Run(
        "2026-11-21T10:00:00+00:00", rows, ended="done", images=("a", "b"), images_sha256="pictures", machine={"cpu": "x", "cores": 2}
    )
    return replace(made, **changed)


def noisy_measurements() -> list[Measurement]:
    """Runs of one case that were really taken, one after the other, while others used the machine."""
    runs = json.loads(NOISE.read_text())["runs"]
    return [measurement(*(block(*times, decode_ms=0.0) for times in row)) for row in runs]
