"""The TensorRT side: builds engines through jetlens, then times jetlens' session, the bound and Polygraphy on the same plan, in short blocks."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from numpy.typing import NDArray
from turns import serve

from jetlens.backends import BACKENDS
from jetlens.backends.base import Session, SessionOptions
from jetlens.deviation import deviation
from jetlens.engines.options import BuildOptions

RUNTIME = os.environ.get("ENGINE_RUNS_RUNTIME", "tensorrt")
"""Another backend's name tries the script without a GPU; only jetlens' own session is timed then."""
LANES = 4


class State:
    """What is open."""

    pictures: NDArray[np.uint8]
    cases: dict[str, Callable[[float], dict[str, Any]]]
    closers: list[Callable[[], None]]
    plans: dict[str, bytes]


state = State()
state.cases, state.closers, state.plans = {}, [], {}


def _options(model: str, profile: list[int], level: int | None) -> BuildOptions:
    """The options of a build; each engine gets a cache folder of its own, so that builds on several GPUs do not wait for each other."""
    label = "-".join([Path(model).stem, *map(str, profile)])
    os.environ["JETLENS_CACHE"] = str(Path(model).parent / "cache" / label)
    return BuildOptions(batch=(profile[0], profile[1], profile[2]), optimization_level=level, workspace_mib=4096)


def build(model: str, profile: list[int], level: int | None, name: str) -> dict[str, Any]:
    """Builds an engine into the cache, or finds it there."""
    content = Path(model).read_bytes()
    if RUNTIME != "tensorrt":
        return {"build_s": 0.0, "plan_mib": round(len(content) / 2**20, 2), "runs_in": "fp32", "layers": {}, "reused": False}
    from jetlens.engines.cache import obtain

    began = time.perf_counter()
    engine = obtain(content, _options(model, profile, level), name=name, report=lambda line: print(line, file=sys.stderr, flush=True))
    took = time.perf_counter() - began
    facts = engine.manifest.facts
    state.plans[f"{model} {profile} {level}"] = engine.plan
    return {
        "seconds": round(took, 2),
        "build_s": round(facts.build_s, 2),
        "plan_mib": round(len(engine.plan) / 2**20, 2),
        "sha256": hashlib.sha256(engine.plan).hexdigest(),
        "runs_in": facts.precision,
        "layers": dict(facts.layers),
        "device_memory_mib": round(facts.device_memory_mib, 2),
        "workspace_mib": facts.workspace_mib,
        "reused": engine.reused,
        "notes": list(facts.notes),
    }


def _plan(model: str, profile: list[int], level: int | None) -> bytes:
    key = f"{model} {profile} {level}"
    if key not in state.plans:
        build(model, profile, level, Path(model).stem)
    return state.plans[key]


def load_pictures(path: str) -> None:
    """Keeps the pictures that all are fed with."""
    state.pictures = np.load(path)


def _memory() -> int:
    if RUNTIME != "tensorrt":
        return 0
    from raw import memory_used

    return memory_used()


def open_engine(
    label: str, model: str, profile: list[int], level: int | None, batch: int, polygraphy: bool, raw_lanes: int
) -> dict[str, Any]:
    """Opens jetlens' session, the bound and Polygraphy on one plan and makes their cases ``LABEL/...``."""
    before, began = _memory(), time.perf_counter()
    session = BACKENDS.load(RUNTIME).open(
        Path(model).read_bytes(),
        SessionOptions("cuda" if RUNTIME == "tensorrt" else "cpu", lanes=LANES, build=_options(model, profile, level)),
    )
    open_s = time.perf_counter() - began
    state.closers.append(session.close)
    name = session.inputs[0].name
    began = time.perf_counter()
    session.run({name: _batch(0, batch)})
    first_ms = 1000 * (time.perf_counter() - began)
    _lanes_block(session, name, batch, LANES)(0.05)
    memory = (_memory() - before) / 2**20
    state.cases[f"{label}/run"] = _run_block(session, name, batch)
    state.cases[f"{label}/lane"] = _lane_block(session, name, batch)
    for lanes in range(1, LANES + 1):
        state.cases[f"{label}/lanes-{lanes}"] = _lanes_block(session, name, batch, lanes)
    row = {"open_s": round(open_s, 3), "first_ms": round(first_ms, 3), "memory_mib": round(memory, 1), "facts": str(session.facts)}
    if RUNTIME == "tensorrt":
        _open_raw(label, _plan(model, profile, level), batch, raw_lanes)
        if polygraphy:
            row["polygraphy"] = _open_polygraphy(label, _plan(model, profile, level), name, batch)
    return row


def _batch(turn: int, batch: int) -> NDArray[np.uint8]:
    first = (turn * batch) % (len(state.pictures) - batch + 1)
    return state.pictures[first : first + batch]


def _timed(step: Callable[[int], None]) -> Callable[[float], dict[str, Any]]:
    """A block that calls a step again and again and keeps each call's milliseconds."""

    def block(seconds: float) -> dict[str, Any]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < end or turn < 3:
            began = time.perf_counter_ns()
            step(turn)
            times.append((time.perf_counter_ns() - began) / 1e6)
            turn += 1
        return {"ms": times}

    return block


def _run_block(session: Session, name: str, batch: int) -> Callable[[float], dict[str, Any]]:
    return _timed(lambda turn: session.run({name: _batch(turn, batch)}) and None)


def _lane_block(session: Session, name: str, batch: int) -> Callable[[float], dict[str, Any]]:
    """One lane whose page-locked input was filled before the clock starts, as the bound's."""

    def block(seconds: float) -> dict[str, Any]:
        times: list[float] = []
        end = time.perf_counter() + seconds
        turn = 0
        while time.perf_counter() < end or turn < 3:
            lane = session.lane(batch)
            np.copyto(lane.inputs[name], _batch(turn, batch))
            began = time.perf_counter_ns()
            pending = session.submit(lane)
            pending.view()
            times.append((time.perf_counter_ns() - began) / 1e6)
            pending.release()
            turn += 1
        return {"ms": times}

    return block


def _lanes_block(session: Session, name: str, batch: int, lanes: int) -> Callable[[float], dict[str, Any]]:
    """Images/s with so many runs in flight; filling the input is part of the work."""

    def block(seconds: float) -> dict[str, Any]:
        flight: deque[Any] = deque()
        began = time.perf_counter()
        end = began + seconds
        turn = 0
        while time.perf_counter() < end or turn < 2 * lanes:
            if len(flight) == lanes:
                done = flight.popleft()
                done.view()
                done.release()
            lane = session.lane(batch)
            np.copyto(lane.inputs[name], _batch(turn, batch))
            flight.append(session.submit(lane))
            turn += 1
        while flight:
            done = flight.popleft()
            done.view()
            done.release()
        return {"images": turn * batch, "seconds": time.perf_counter() - began}

    return block


def _open_raw(label: str, plan: bytes, batch: int, lanes: int) -> None:
    from raw import RawEngine, RawRun

    engine = RawEngine(plan)
    runs = [RawRun(engine, batch) for _ in range(max(1, lanes))]
    for i, run in enumerate(runs):
        for array in run.arrays.values():
            if array.dtype == np.uint8 and array.ndim == 4:
                array[...] = _batch(i, batch)
    first = runs[0]

    def launch(_: int) -> None:
        first.start()
        first.wait()

    def compute(seconds: float) -> dict[str, Any]:
        end, times = time.perf_counter() + seconds, []
        while time.perf_counter() < end or len(times) < 3:
            times.append(first.compute_ms())
        return {"ms": times}

    def lanes_block(count: int) -> Callable[[float], dict[str, Any]]:
        def block(seconds: float) -> dict[str, Any]:
            began = time.perf_counter()
            end, turn = began + seconds, 0
            while time.perf_counter() < end or turn < 2 * count:
                run = runs[turn % count]
                if turn >= count:
                    run.wait()
                run.start()
                turn += 1
            for run in runs[:count]:
                run.wait()
            return {"images": turn * batch, "seconds": time.perf_counter() - began}

        return block

    def close() -> None:
        for run in runs:
            run.close()

    state.cases[f"{label}/raw"] = _timed(launch)
    state.cases[f"{label}/compute"] = compute
    for count in range(1, lanes + 1):
        state.cases[f"{label}/raw-lanes-{count}"] = lanes_block(count)
    state.closers.append(close)


def _open_polygraphy(label: str, plan: bytes, name: str, batch: int) -> str:
    try:
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        runner = TrtRunner(EngineFromBytes(plan))
        runner.activate()
        runner.infer({name: np.ascontiguousarray(_batch(0, batch))})
    except Exception as error:
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    state.cases[f"{label}/polygraphy"] = _timed(lambda turn: runner.infer({name: _batch(turn, batch)}, check_inputs=False) and None)
    state.closers.append(runner.deactivate)
    import polygraphy

    return f"Polygraphy {polygraphy.__version__} TrtRunner.infer, input not checked"


def block(case: str, seconds: float) -> dict[str, Any]:
    """Runs one case for so long."""
    return state.cases[case](seconds)


def cases() -> list[str]:
    """The names of all that is open."""
    return list(state.cases)


def close_engines() -> float:
    """Closes all; returns the MiB of GPU memory that are in use then."""
    for close in reversed(state.closers):
        close()
    state.closers.clear()
    state.cases.clear()
    return _memory() / 2**20


def answers(task: str, model: str, profile: list[int], level: int | None, batch: int, reference: str) -> dict[str, Any]:
    """How far an engine's outputs are from the reference's on the same pictures: at the task's level, and of raw numbers."""
    options = SessionOptions("cuda" if RUNTIME == "tensorrt" else "cpu", build=_options(model, profile, level))
    with BACKENDS.load(RUNTIME).open(Path(model).read_bytes(), options) as session, np.load(reference) as expected:
        name = session.inputs[0].name
        pieces = [session.run({name: state.pictures[i : i + batch]}) for i in range(0, len(state.pictures) - batch + 1, batch)]
        got = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        count = len(next(iter(got.values())))
        wanted = {key: expected[key][:count] for key in got}
    row: dict[str, Any] = {"pictures": count, "batch": batch}
    first = next(iter(got))
    row.update(deviation(task, {first: wanted[first]}, {first: got[first]}))
    for key, value in wanted.items():
        if value.dtype.kind == "f" and key != "detections":
            error, scale = np.linalg.norm((got[key] - value).ravel().astype(np.float64)), np.linalg.norm(value.ravel().astype(np.float64))
            row[f"{key}_relative_l2"] = float(error / scale)
    if task == "detection":
        row["reference_boxes"] = int((wanted[first][..., 4] >= 0.25).sum())
    return row


def facts() -> dict[str, Any]:
    """What runs here."""
    row: dict[str, Any] = {"python": sys.version.split()[0], "runtime": RUNTIME, "numpy": np.__version__}
    if RUNTIME == "tensorrt":
        from dataclasses import asdict

        from jetlens.engines.environment import read_environment

        row["environment"] = asdict(read_environment())
    return row


if __name__ == "__main__":
    serve(
        {
            "answers": answers,
            "block": block,
            "build": build,
            "cases": cases,
            "close_engines": close_engines,
            "facts": facts,
            "load_pictures": load_pictures,
            "open_engine": open_engine,
        }
    )
