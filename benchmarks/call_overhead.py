"""Measures what Python adds to one call of a TensorRT session: a network that does next to nothing, beside the bare launch of its graph.

    python benchmarks/call_overhead.py [--calls N] [--output FILE]

Needs an NVIDIA GPU, TensorRT and cuda-python; takes seconds after the engine is built. The blocks of the cases take turns, so that a clock that
drifts meets them all. The goal is at most 20 microseconds (the input is 64 bytes, so that its copy counts for nothing).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from jetlens.backends.base import SessionOptions
from jetlens.backends.tensorrt import TensorRt, TensorRtSession
from jetlens.backends.tensorrt.cuda import cuda_python
from jetlens.engines.options import BuildOptions

GOAL_US = 20.0
BLOCKS = 20
# An ONNX graph of opset 17: answer = Relu(numbers), float32 [1, 16]. In bytes, so that no onnx package is needed on the GPU's machine.
NULL_GRAPH = bytes.fromhex(
    "080812076a65746c656e733a5a0a1d0a076e756d626572731206616e737765721a0472656c75220452656c7512046e756c6c5a190a076e"
    "756d62657273120e0a0c080112080a0208010a02081062180a06616e73776572120e0a0c080112080a0208010a02081042040a001011"
)


def cases(session: TensorRtSession) -> dict[str, Callable[[], object]]:
    """The calls that are compared, each for one run from start to end."""
    feed = {session.inputs[0].name: np.linspace(-1, 1, 16, dtype=np.float32)[None]}
    slot = session._slots[0]
    program = slot.ready(1)
    assert program is not None
    if program.graph is None:
        raise SystemExit(f"no CUDA graph was captured: {slot.refusal}")
    runtime: Any = __import__(str(cuda_python()), fromlist=["cudaGraphLaunch"])
    launch, synchronize = runtime.cudaGraphLaunch, runtime.cudaStreamSynchronize

    def bare() -> None:
        launch(program.graph, slot.stream)
        synchronize(slot.stream)

    def lane() -> object:
        lent = session.lane()
        return session.submit(lent).result()

    return {
        "bare launch and wait": bare,
        "run()": lambda: session.run(feed),
        "submit(arrays).result()": lambda: session.submit(feed).result(),
        "lane(), submit(lane).result()": lane,
    }


def measure(calls: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Microseconds of every call, by case; the first block of each is not kept."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(BLOCKS + 1):
        for name, call in calls.items():
            for _ in range(count // BLOCKS):
                start = perf_counter_ns()
                call()
                taken = perf_counter_ns() - start
                if block:
                    times[name].append(taken / 1000)
    return times


def main() -> None:
    """Prints the medians, and what lies over the bare launch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--output", type=Path)
    flags = parser.parse_args()
    with TensorRt.open(NULL_GRAPH, SessionOptions(build=BuildOptions(save=False))) as session:
        answer = session.run({session.inputs[0].name: np.linspace(-1, 1, 16, dtype=np.float32)[None]})
        np.testing.assert_allclose(next(iter(answer.values())), np.maximum(np.linspace(-1, 1, 16), 0)[None], atol=1e-3)
        times = measure(cases(session), flags.calls)
        facts = session.facts
    medians = {name: statistics.median(values) for name, values in times.items()}
    bare = medians["bare launch and wait"]
    record = {
        "device": facts.device,
        "tensorrt": facts.version,
        "cuda_python": str(cuda_python()),
        "calls": flags.calls,
        "goal_us": GOAL_US,
        "median_us": {name: round(value, 2) for name, value in medians.items()},
        "over_bare_us": {name: round(value - bare, 2) for name, value in medians.items() if value is not bare},
        "p99_us": {name: round(float(np.percentile(values, 99)), 2) for name, values in times.items()},
    }
    for name, value in medians.items():
        print(f"{name:32} {value:8.2f} us   {value - bare:+8.2f} us over the bare launch")
    met = medians["run()"] - bare <= GOAL_US
    print(f"run() adds {medians['run()'] - bare:.1f} us; the goal is at most {GOAL_US:.0f}: {'met' if met else 'missed'}")
    if flags.output:
        flags.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
