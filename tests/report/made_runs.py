"""Runs made up for tests of what is written about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from jetlens.backends.base import RunFacts
from jetlens.bench.records import Block, Case, Gate, Measurement, Memory, Run

__all__ = ["picture", "row", "run"]


def picture(level: int) -> str:
    """A grey picture as base64 of PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), level, np.uint8)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def row(backend: str, compute_ms: float, *, gates: Sequence[Gate] = (), blocks: int = 6, seed: int = 0, **others: object) -> Measurement:
    """A case with 40 calls a block: 1 ms of preprocessing, so much of computing with a little spread, 0.5 ms of postprocessing."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(blocks):
        compute = compute_ms * (1 + 0.02 * generator.standard_normal(40))
        stages = {"preprocess": (1.0,) * 40, "compute": tuple(compute), "postprocess": (0.5,) * 40}
        calls = tuple(compute + 1.5)
        made.append(Block(float(index), sum(calls) / 1000, 40, calls, stages))
    measurement = Measurement(
        Case("cat", backend, "fp32"),
        RunFacts(backend, "1.0", f"{backend} provider", "a device", "fp32"),
        model_sha256="a" * 64,
        input_sha256="b" * 64,
        blocks=tuple(made),
        planned=6,
        memory=Memory(20.0, 120.0, None, 2.0, None),
        deviation={"max_abs": 0.001, "top1_agreement": 1.0},
        accuracy={"top1": 0.9, "pictures": 100},
        gates=tuple(gates),
        predictions=({"top": [{"class_id": 1, "label": "tabby", "confidence": 0.8}]},),
        overlays=(picture(200),),
        differences=(picture(0),),
    )
    return replace(measurement, **others)  # type: ignore[arg-type]


def run(*rows: Measurement, ended: str = "done", **others: object) -> Run:
    """A run of these cases, the first of them the reference."""
    made = Run("2026-01-01T00:00:00+00:00", rows, ended, images=("one.jpg",), images_sha256="c" * 64, reference=f"{rows[0].case.title}")
    return replace(made, **others)  # type: ignore[arg-type]
