"""Figures computed from the raw values of a run: percentiles, rates, stages, energy, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.bench.records import SCOPES, STAGES, Measurement, Run, Scope
from jetlens.device.sampling import Samples, net_energy_j

__all__ = [
    "BUSY",
    "NOISY",
    "PERCENTILES",
    "Undisturbed",
    "block_medians",
    "calls_ms",
    "doubt",
    "drop_rate",
    "gpu_percent",
    "images_per_s",
    "joules_per_image",
    "latency_figures",
    "mean_power_w",
    "median_interval",
    "noise",
    "on_gpu",
    "scope_medians",
    "stage_medians",
    "stage_sum_error",
    "summary",
    "ties",
    "undisturbed",
]

PERCENTILES: dict[str, float] = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9, "max": 100}
NOISY = 0.10
"""A spread of block medians above which a row warns."""

BUSY = 0.35
"""A distance of the median from the fastest call, in logarithms, beyond which the fastest were disturbed too."""

_LEFT_IN = 0.10  # of the median's distance from the fastest: what disturbance leaves in the fastest
_SPREAD = 0.03  # of the same distance: how much that varies
_SPREAD_BUSY = 0.3  # of what is beyond BUSY
_BETWEEN_RUNS = 0.010  # what starting a process anew changes: addresses, threads, caches
_RESAMPLES = 2000
_SEED = 5


def calls_ms(row: Measurement, scope: Scope, scenario: str = "single") -> NDArray[np.float64]:
    """The latency of every call of all blocks, in the order they ran; only one-at-a-time calls are split by scope, others are whole."""
    return np.concatenate([_block_calls(block, scope, scenario) for block in row.blocks]) if row.blocks else np.empty(0)


def block_medians(row: Measurement, scope: Scope, scenario: str = "single") -> NDArray[np.float64]:
    """The median latency of each block."""
    return np.array([np.median(_block_calls(block, scope, scenario)) for block in row.blocks if block.calls_ms])


def latency_figures(row: Measurement, scope: Scope, scenario: str = "single") -> dict[str, float | None]:
    """By name each of PERCENTILES in ms; None where fewer calls ran than one of them stands for (1000 for p99.9)."""
    times = calls_ms(row, scope, scenario)
    figures: dict[str, float | None] = {}
    for name, percent in PERCENTILES.items():
        needed = 1 if percent == 100 else round(1 / (1 - percent / 100))
        figures[name] = float(np.percentile(times, percent)) if len(times) >= needed else None
    return figures


def images_per_s(row: Measurement, scope: Scope, scenario: str = "single") -> float | None:
    """Pictures over wall time; of calls one at a time the wall time of the scope's stages, in every other scenario that of the whole turns."""
    items = sum(block.items for block in row.blocks)
    if not items:
        return None
    if scenario == "single":
        return 1000 * items / float(calls_ms(row, scope, scenario).sum())
    return items / sum(block.wall_s for block in row.blocks)


def drop_rate(row: Measurement) -> float:
    """The share of a camera's frames that nobody could take."""
    dropped, items = (sum(values) for values in zip(*((b.dropped, b.items) for b in row.blocks), strict=True)) if row.blocks else (0, 0)
    return dropped / max(1, dropped + items)


def stage_medians(row: Measurement) -> dict[str, float]:
    """The median time of each stage in ms, in the order they run."""
    found = {stage: [block.stages_ms[stage] for block in row.blocks if stage in block.stages_ms] for stage in STAGES}
    return {stage: float(np.median(np.concatenate(parts))) for stage, parts in found.items() if parts}


def scope_medians(run: Run, row: Measurement) -> dict[str, float]:
    """Those of the stages that the latency covers; all of them where calls are not split by scope."""
    return {stage: time for stage, time in stage_medians(row).items() if stage in SCOPES[run.scope] or run.scenario != "single"}


def stage_sum_error(row: Measurement) -> float:
    """How far the sum of all stages is from the wall time of the calls, as a share of it."""
    wall = sum(sum(block.calls_ms) for block in row.blocks)
    stages = sum(sum(times) for block in row.blocks for times in block.stages_ms.values())
    return abs(stages - wall) / wall if wall else 0.0


def median_interval(row: Measurement, scope: Scope, scenario: str = "single") -> tuple[float, float] | None:
    """95 % of the median latency over blocks drawn again; None with fewer than three blocks."""
    medians = block_medians(row, scope, scenario)
    if len(medians) < 3:
        return None
    drawn = np.random.default_rng(_SEED).integers(0, len(medians), (_RESAMPLES, len(medians)))
    low, high = np.percentile(np.median(medians[drawn], axis=1), (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """The latency without what else the machine did, as logarithms of ms.

    Attributes:
        log_ms: mean over the pictures.
        deviation: one standard deviation of it between runs.
        above: how far the median lies above the fastest call, the share of disturbance.
    """

    log_ms: float
    deviation: float
    above: float

    @property
    def ms(self) -> float:
        """The latency."""
        return math.exp(self.log_ms)

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 % of it."""
        half = 1.96 * self.deviation
        return math.exp(self.log_ms - half), math.exp(self.log_ms + half)


def undisturbed(row: Measurement, scope: Scope, scenario: str, pictures: int) -> Undisturbed:
    """What repeats from run to run: other work only ever adds time, so for every picture the fastest of its calls says most.

    Some disturbance is left in that, in proportion to how far the median lies above it; that share is taken off and widens the deviation.
    The constants come from runs of one case, one after the other, on a machine that others used too (benchmarks/compare_runs.py).
    """
    times = _by_picture(row, scope, scenario, pictures)
    fastest = float(np.log(times.min(axis=0)).mean())
    above = float(np.log(np.median(times, axis=0)).mean()) - fastest
    return Undisturbed(fastest - _LEFT_IN * above, _BETWEEN_RUNS + _SPREAD * above + _SPREAD_BUSY * max(0.0, above - BUSY), above)


def _by_picture(row: Measurement, scope: Scope, scenario: str, pictures: int) -> NDArray[np.float64]:
    """The latencies [times, pictures]: every block runs the same pictures in the same order, whole rounds or the first few."""
    times = calls_ms(row, scope, scenario)
    lengths = {len(block.calls_ms) for block in row.blocks}
    if scenario == "camera" or len(lengths) != 1:
        return times[:, None]
    length = lengths.pop()
    period = -(-pictures // row.case.batch)
    return times.reshape(-1, period if period and length % period == 0 else length)


def noise(row: Measurement, scope: Scope, scenario: str = "single") -> float:
    """The spread of the blocks' medians: from the tenth to the ninetieth percent, over their median."""
    medians = block_medians(row, scope, scenario)
    if len(medians) < 2:
        return 0.0
    low, middle, high = np.percentile(medians, (10, 50, 90))
    return float((high - low) / middle)


def ties(run: Run) -> dict[int, int]:
    """For each measured row its rank by undisturbed latency, 1 the fastest; rows that a chain of overlapping intervals joins share one."""
    found: list[tuple[float, float, int]] = []
    for number, row in enumerate(run.measurements):
        if any(block.calls_ms for block in row.blocks) and not row.refused:
            found.append((*undisturbed(row, run.scope, run.scenario, len(run.images)).interval_ms, number))
    ranks: dict[int, int] = {}
    highest, rank = 0.0, 0
    for place, (low, high, number) in enumerate(sorted(found), 1):
        if low > highest:
            rank = place
        highest = max(highest, high)
        ranks[number] = rank
    return ranks


def doubt(run: Run, row: Measurement) -> str:
    """What was not checked of a row, in words; empty where all was that was asked for."""
    if not (row.gates or row.accuracy):
        return "answers not checked"
    return "accuracy not measured" if run.unscored and not row.accuracy else ""


def on_gpu(row: Measurement) -> bool:
    """Whether the network really ran on a GPU."""
    return row.facts is not None and row.facts.on_gpu


def mean_power_w(run: Run, row: Measurement) -> float | None:
    """Average power while this case computed; None where the machine cannot say, or says it of another part than the case ran on."""
    if not run.samples:
        return None
    samples = Samples.from_dict(run.samples)
    if not _covered(samples, row):
        return None
    parts = [(samples.power_w(b.started_s, b.started_s + b.wall_s), b.wall_s) for b in row.blocks]
    known = [(watts, wall_s) for watts, wall_s in parts if watts is not None]
    return sum(watts * wall_s for watts, wall_s in known) / sum(wall_s for _, wall_s in known) if known else None


def joules_per_image(run: Run, row: Measurement) -> float | None:
    """Energy of one picture above what the machine takes when idle; None where either cannot be known, as in ``mean_power_w``."""
    if not (run.samples and run.idle):
        return None
    samples, idle = Samples.from_dict(run.samples), Samples.from_dict(run.idle)
    if not _covered(samples, row):
        return None
    known = [(net_energy_j(samples, idle, b.started_s, b.started_s + b.wall_s), b.items) for b in row.blocks]
    pairs = [(joules, items) for joules, items in known if joules is not None]
    return sum(joules for joules, _ in pairs) / sum(items for _, items in pairs) if pairs else None


def _covered(samples: Samples, row: Measurement) -> bool:
    """Whether the power is of what the case ran on: a GPU's says nothing of a processor's work."""
    return on_gpu(row) or not all(rail.endswith("(NVML)") for rail in samples.power_rail.split(" + "))


def gpu_percent(run: Run, row: Measurement) -> tuple[float, float] | None:
    """Mean and most of the GPU's use while this case computed; None where the machine cannot say."""
    if not run.samples:
        return None
    samples = Samples.from_dict(run.samples)
    ranges = [samples.between(b.started_s, b.started_s + b.wall_s).gpu_percent() for b in row.blocks]
    known = [found for found in ranges if found is not None]
    if not known:
        return None
    return sum(found.mean * found.count for found in known) / sum(found.count for found in known), max(found.highest for found in known)


def summary(run: Run, row: Measurement) -> dict[str, Any]:
    """Every figure of a row by name, ready for JSON; None for what is not known."""
    scope, scenario = run.scope, run.scenario
    calls = sum(len(block.calls_ms) for block in row.blocks)
    alone = undisturbed(row, scope, scenario, len(run.images)) if calls else None
    return {
        **latency_figures(row, scope, scenario),
        "undisturbed_ms": alone.ms if alone else None,
        "undisturbed_interval": alone.interval_ms if alone else None,
        "interval": median_interval(row, scope, scenario),
        "noise": noise(row, scope, scenario),
        "images_per_s": images_per_s(row, scope, scenario),
        "first_ms": row.first_ms,
        "load_ms": row.load_ms,
        "settled": row.warm_up.settled,
        "calls": calls,
        "stages_ms": stage_medians(row),
        "stage_sum_error": stage_sum_error(row) if scenario == "single" else None,
        "drop_rate": drop_rate(row) if scenario == "camera" else None,
        "mean_power_w": mean_power_w(run, row),
        "joules_per_image": joules_per_image(run, row),
        "gpu_percent": gpu_percent(run, row),
    }


def _block_calls(block: Any, scope: Scope, scenario: str) -> NDArray[np.float64]:
    whole = np.asarray(block.calls_ms, np.float64)
    if scenario != "single":
        return whole
    # What the scope leaves out is taken off the wall, so that time between the stages stays counted.
    for stage, times in block.stages_ms.items():
        if stage not in SCOPES[scope]:
            whole = whole - np.asarray(times, np.float64)
    return whole
