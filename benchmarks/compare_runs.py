"""How often `jetlens compare` cries change over separately taken runs of one case, and how often it finds an injected slowdown.

    python benchmarks/compare_runs.py --output benchmarks/results/compare_runs.json     # 20 pairs; about 5 minutes, 12 at most
    python benchmarks/compare_runs.py --from benchmarks/results/compare_runs.json

Every run starts a process of its own and lasts as long as one of `jetlens bench`; no run is in two pairs. A pair that compare refuses, because
the machine was too busy or its clocks changed, is counted as refused and another one is taken, until there are enough or the time is up.
Exit code 0 if change was cried at most once in 20 pairs and the slowdown was found at least 19 times in 20, 3 if not, or if pairs are missing.
The file keeps every call's time, so that the counts can be computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from jetlens.atomic import write_atomic
from jetlens.bench.compare import RowComparison, compare_rows
from jetlens.bench.inputs import find_pictures
from jetlens.bench.records import Block, Case, Measurement
from jetlens.bench.runner import Plan, measure
from jetlens.device import cpu_model
from jetlens.errors import JetlensError
from jetlens.predictor import model_path
from jetlens.spec import read_model

SLOWER = 1.10
PICTURES = 16
SHARE = 20


def take(options: argparse.Namespace) -> list[Measurement]:
    """Runs, the two of a pair one after the other."""
    path = model_path(options.model)
    pictures = find_pictures(read_model(path)[1], None, None, PICTURES)
    case = Case(options.model, options.backend, "fp32")
    plan = Plan((case,), {case: path}, pictures, blocks=options.blocks, block_s=options.block_seconds, threads=1)
    rows: list[Measurement] = []
    began, compared = time.monotonic(), 0
    while compared < options.pairs and time.monotonic() - began < 60 * options.minutes:
        pair = [measure(plan).measurements[0] for _ in range(2)]
        for row in pair:
            if row.refused:
                raise SystemExit(f"{case.title}: {row.refused}")
        rows += pair
        about = change(*pair)
        compared += not about.refused
        print(f"pair {len(rows) // 2}: {about.refused or about.change} ({about.ratio:.3f}), load {os.getloadavg()[0]:.1f}", flush=True)
    return rows


def change(first: Measurement, second: Measurement) -> RowComparison:
    return compare_rows(first, second, "answer", "single", PICTURES)


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


def read(path: Path) -> tuple[dict[str, str], list[Measurement]]:
    """The case and the runs of a file."""
    content = json.loads(path.read_text())
    case = Case(content["model"], content["backend"], "fp32")

    def block(kept: dict) -> Block:
        return Block(0.0, 0.0, len(kept["answers_ms"]), tuple(kept["answers_ms"]), yardstick_ms=(kept["yardstick_ms"],))

    return content, [Measurement(case, planned=len(row), blocks=tuple(block(kept) for kept in row)) for row in content["runs"]]


def counts(rows: list[Measurement]) -> dict[str, dict[str, int]]:
    """Over pairs that share no run, and over every ordered pair of two runs, which says more and is not independent."""
    found = {}
    for name, pairs in (
        ("separate pairs", list(zip(rows[::2], rows[1::2], strict=False))),
        ("all pairs", list(itertools.permutations(rows, 2))),
    ):
        plain = [change(a, b) for a, b in pairs]
        injected = [change(a, slowed(b, SLOWER)) for (a, b), answer in zip(pairs, plain, strict=True) if not answer.refused]
        found[name] = {
            "compared": len(injected),
            "refused": len(pairs) - len(injected),
            "cried change": sum(answer.change in ("slower", "faster") for answer in plain),
            "found 10 % slower": sum(answer.change == "slower" for answer in injected),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="orange-grade")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=11.0, help="no pair begins later")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--block-seconds", type=float, default=0.5)
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.source:
        about, rows = read(options.source)
    else:
        about, rows = {"model": options.model, "backend": options.backend, "cpu": cpu_model()}, take(options)
    result = counts(rows)
    for name, values in result.items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in values.items())}")
    if options.output and not options.source:
        runs = [[kept_of(block) for block in row.blocks] for row in rows]
        content = {**about, "block_seconds": options.block_seconds, "counts": result, "runs": runs}
        write_atomic(options.output, json.dumps(content, separators=(",", ":")).encode())
    separate = result["separate pairs"]
    compared = separate["compared"]
    good = SHARE * separate["cried change"] <= compared and SHARE * separate["found 10 % slower"] >= (SHARE - 1) * compared
    if compared < options.pairs:
        print(f"{compared} pairs compared, {options.pairs} asked for: a quieter machine is needed")
    elif not good:
        print("FAILED: change cried more than once in 20, or the slowdown missed more than once in 20")
    if compared < options.pairs or not good:
        sys.exit(3)


if __name__ == "__main__":
    try:
        main()
    except (JetlensError, OSError) as error:
        sys.exit(f"error: {error}")
