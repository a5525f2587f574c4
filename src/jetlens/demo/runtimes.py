"""The table: every runtime and precision that is there, on the three networks, with deviation and accuracy beside the speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from jetlens.bench.cases import installed_backends
from jetlens.bench.checks import Checks, Labelled
from jetlens.bench.inputs import find_pictures
from jetlens.bench.records import Case, Run
from jetlens.bench.runner import InProcess, Plan, measure
from jetlens.data.opening import ORANGE_LINE
from jetlens.predictor import model_path
from jetlens.spec import TaskName, read_model

__all__ = ["NETWORKS", "cases", "measure_runtimes"]

NETWORKS: dict[str, TaskName] = {"orange-detect": "detection", "orange-grade": "classification", "orange-segment": "segmentation"}
TIMED = 16
BLOCKS = 6
BLOCK_S = 0.25


def cases(available: Sequence[str]) -> list[Case]:
    """What is measured, the reference (fp32 on the first runtime) first."""
    asked: list[tuple[str, Literal["fp32", "bf16"]]] = [(backend, "fp32") for backend in available]
    if "openvino" in available:
        asked.append(("openvino", "bf16"))
    return [Case(network, backend, precision) for network in NETWORKS for backend, precision in asked]


def measure_runtimes(pictures: int, said: Callable[[str], None]) -> Run:
    """Times, compares and scores the three networks on pictures of the orange line that no training has seen.

    In this process, for speed: `jetlens bench` gives every case its own. One run holds the rows of all networks.
    """
    runs: list[Run] = []
    for network in NETWORKS:
        path = model_path(network)
        spec = read_model(path)[1]
        chosen = tuple(case for case in cases(installed_backends()) if case.model == network)
        timed = find_pictures(spec, None, None, TIMED)
        plan = Plan(
            cases=chosen,
            paths=dict.fromkeys(chosen, path),
            pictures=timed,
            blocks=BLOCKS,
            block_s=BLOCK_S,
            checks=Checks(spec, timed.names, chosen[0], labelled=Labelled(ORANGE_LINE, pictures)),
            worker=InProcess,
        )
        runs.append(measure(plan, said=partial(_say, said, network)))
    return replace(
        runs[0], measurements=tuple(row for run in runs for row in run.measurements), state_after=runs[-1].state_after, images=()
    )


def _say(said: Callable[[str], None], network: str, message: str) -> None:
    said(f"{network}: {message}")
