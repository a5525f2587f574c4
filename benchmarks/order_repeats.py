"""Whether the order of the rows of `jetlens bench` is the same every time it is measured, rows that print as ties aside.

    python benchmarks/order_repeats.py --output benchmarks/results/order_repeats.json     # five repetitions; about 2 minutes

Each repetition starts every case's process anew. Two rows contradict themselves where one repetition ranks the first ahead of the second and
another one the second ahead of the first; that they tie in one and not in another is no contradiction. Exit code 3 on a contradiction.
Accuracy is not scored here: it takes no part in the order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jetlens.atomic import write_atomic
from jetlens.bench import figures
from jetlens.bench.cases import case_paths, make_cases
from jetlens.bench.inputs import find_pictures
from jetlens.bench.runner import Plan, measure
from jetlens.cli import flags
from jetlens.device import cpu_model
from jetlens.errors import JetlensError
from jetlens.predictor import model_path
from jetlens.spec import read_model

PICTURES = 16


def contradictions(repetitions: Sequence[Mapping[str, Mapping[str, float]]], figure: str) -> list[str]:
    """The pairs of rows that a figure put in one order and in the other."""
    found = []
    for one, other in itertools.combinations(sorted({title for rows in repetitions for title in rows}), 2):
        pairs = [(rows[one][figure], rows[other][figure]) for rows in repetitions if one in rows and other in rows]
        if len({first < second for first, second in pairs if first != second}) > 1:
            found.append(f"{one} and {other}")
    return found


def apart(repetitions: Sequence[Mapping[str, Mapping[str, float]]], one: str, other: str) -> bool:
    """Whether the two were no tie at least once."""
    return any(one in rows and other in rows and rows[one]["rank"] != rows[other]["rank"] for rows in repetitions)


def measured(plan: Plan) -> dict[str, dict[str, float]]:
    """The rank of every row that ran, its undisturbed latency with the interval that makes ties, and its median."""
    run = measure(plan)
    rows = {}
    for place, rank in figures.ties(run).items():
        row = run.measurements[place]
        latency = figures.undisturbed(row, run.scope, run.scenario, len(run.images))
        low, high = latency.interval_ms
        p50 = figures.latency_figures(row, run.scope, run.scenario)["p50"]
        rows[row.case.title] = {"rank": rank, "ms": latency.ms, "low_ms": low, "high_ms": high, "p50": p50 or 0.0}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="orange-detect")
    parser.add_argument("--backends", default="onnxruntime,openvino,pytorch")
    parser.add_argument("--precisions", default="fp32,bf16,int8")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--block-seconds", type=float, default=0.25)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    path = model_path(options.model)
    cases = make_cases(options.model, options.backends.split(","), [flags.precision(word) for word in options.precisions.split(",")])
    pictures = find_pictures(read_model(path)[1], None, None, PICTURES)
    plan = Plan(cases, case_paths(cases, path, print), pictures, blocks=options.blocks, block_s=options.block_seconds)
    repetitions: list[dict[str, dict[str, float]]] = []
    for number in range(options.repetitions):
        rows = measured(plan)
        repetitions.append(rows)
        shown = ", ".join(
            f"{row['rank']} {title} {row['ms']:.2f} ms" for title, row in sorted(rows.items(), key=lambda row: row[1]["rank"])
        )
        print(f"repetition {number + 1}, load {os.getloadavg()[0]:.1f}: {shown}", flush=True)
    ordered = [pair for pair in itertools.combinations(cases, 2) if apart(repetitions, *(case.title for case in pair))]
    found, by_median = contradictions(repetitions, "rank"), contradictions(repetitions, "p50")
    print(f"{len(ordered)} pairs of rows in an order, {len(found)} of them in two orders{': ' + '; '.join(found) if found else ''}")
    print(f"the control, by the median of all calls and without ties: {len(by_median)} pairs in two orders")
    if options.output:
        result = {"pairs in an order": len(ordered), "in two orders": found, "in two orders by the median": by_median}
        about = {"cpu": cpu_model(), "model": options.model, **result, "repetitions": repetitions}
        write_atomic(options.output, json.dumps(about, indent=1).encode())
    if found or not ordered:
        sys.exit(3)


if __name__ == "__main__":
    try:
        main()
    except (JetlensError, OSError) as error:
        sys.exit(f"error: {error}")
