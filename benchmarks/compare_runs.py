"""How often `jetlens compare` cries change over separately taken runs of one case, and how often it finds an injected slowdown.

    python benchmarks/compare_runs.py --model orange-grade --backend onnxruntime --runs 24 --output benchmarks/results/compare-runs.json
    python benchmarks/compare_runs.py --from benchmarks/results/compare-runs.json

Every run starts a process of its own. The file keeps every call's time, so that the counts can be computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

from jetlens.atomic import write_atomic
from jetlens.bench.compare import compare_rows
from jetlens.bench.inputs import find_pictures
from jetlens.bench.records import Block, Case, Measurement
from jetlens.bench.runner import Plan, measure
from jetlens.device import cpu_model
from jetlens.predictor import model_path
from jetlens.spec import read_model

SLOWER = 1.10
PICTURES = 16


def take(model: str, backend: str, runs: int, blocks: int, block_s: float) -> list[Measurement]:
    path = model_path(model)
    pictures = find_pictures(read_model(path)[1], None, None, PICTURES)
    case = Case(model, backend, "fp32")
    rows = []
    for number in range(runs):
        run = measure(Plan((case,), {case: path}, pictures, blocks=blocks, block_s=block_s, threads=1))
        rows.append(run.measurements[0])
        print(f"run {number + 1} of {runs}, load {os.getloadavg()[0]:.1f}", flush=True)
    return rows


def slowed(row: Measurement, factor: float) -> Measurement:
    """The row as if every stage took longer by a factor."""

    def times(block: Block) -> Block:
        stages = {name: tuple(value * factor for value in values) for name, values in block.stages_ms.items()}
        return replace(block, calls_ms=tuple(value * factor for value in block.calls_ms), stages_ms=stages)

    return replace(row, blocks=tuple(times(block) for block in row.blocks))


def kept_of(block: Block) -> dict[str, object]:
    """The latency of every call from pixels to answer, and the quickest yardstick."""
    left_out = [block.stages_ms.get(stage, (0.0,) * len(block.calls_ms)) for stage in ("decode", "draw")]
    answers = [round(whole - decode - draw, 3) for whole, decode, draw in zip(block.calls_ms, *left_out, strict=True)]
    return {"answers_ms": answers, "yardstick_ms": min(block.yardstick_ms)}


def counts(rows: list[Measurement]) -> dict[str, str]:
    """Over all ordered pairs, and over pairs of runs that no other pair shares."""
    found = {}
    disjoint = [pair for i in range(0, len(rows) - 1, 2) for pair in ((rows[i], rows[i + 1]), (rows[i + 1], rows[i]))]
    for name, pairs in (("all pairs", list(itertools.permutations(rows, 2))), ("neighbours", disjoint)):
        plain = [compare_rows(a, b, "answer", "single", PICTURES).change for a, b in pairs]
        injected = [compare_rows(a, slowed(b, SLOWER), "answer", "single", PICTURES).change for a, b in pairs]
        compared = sum(change != "not comparable" for change in plain)
        found[f"{name}: cried change"] = f"{sum(change in ('slower', 'faster') for change in plain)}/{compared}"
        found[f"{name}: found 10 % slower"] = f"{sum(change == 'slower' for change in injected)}/{compared}"
        found[f"{name}: refused, clocks or a busy machine"] = f"{len(pairs) - compared}/{len(pairs)}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="orange-grade")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--block-seconds", type=float, default=0.2)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.source:
        kept = json.loads(options.source.read_text())
        rows = [
            Measurement(
                Case(kept["model"], kept["backend"], "fp32"),
                planned=len(blocks),
                blocks=tuple(
                    Block(0.0, 0.0, len(block["answers_ms"]), tuple(block["answers_ms"]), yardstick_ms=(block["yardstick_ms"],))
                    for block in blocks
                ),
            )
            for blocks in kept["runs"]
        ]
    else:
        rows = take(options.model, options.backend, options.runs, options.blocks, options.block_seconds)
    result = counts(rows)
    for name, value in result.items():
        print(f"{name}: {value}")
    if options.output:
        runs = [[kept_of(block) for block in row.blocks] for row in rows]
        about = {"cpu": cpu_model(), "model": options.model, "backend": options.backend, "counts": result}
        write_atomic(options.output, json.dumps({**about, "runs": runs}, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
