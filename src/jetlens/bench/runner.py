"""Runs cases by turns, each in its own process, so that drift of the machine hits all alike and only one computes at a time."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jetlens import __version__
from jetlens.backends.base import RunFacts
from jetlens.bench.checks import DRAWN, Checks, difference
from jetlens.bench.inputs import Pictures
from jetlens.bench.process import WorkerProcess
from jetlens.bench.records import Block, Case, Measurement, Memory, Run, Scenario, Scope, WarmUp
from jetlens.bench.scenarios import overhead_ms
from jetlens.bench.worker import LocalWorker
from jetlens.device import machine
from jetlens.device.sampling import Sampler, sample_idle
from jetlens.device.state import read_state
from jetlens.errors import JetlensError

__all__ = ["Asked", "InProcess", "Plan", "measure"]

_IDLE_S = 3.0


class Asked(Protocol):
    """A worker, in this process or in its own."""

    def ask(self, do: str, **arguments: Any) -> Any: ...

    def close(self) -> None: ...


class InProcess:
    """A worker without a process of its own: for quick tables; memory and crashes are not kept apart."""

    def __init__(self) -> None:
        self._worker = LocalWorker()

    def ask(self, do: str, **arguments: Any) -> Any:
        """One request and its answer; what this process takes is not the case's alone, and so unknown."""
        return asdict(Memory()) if do == "memory" else getattr(self._worker, do)(**arguments)

    def close(self) -> None:
        """Frees the model."""
        self._worker.close()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how.

    Attributes:
        cases: all of one model.
        paths: the file that each case runs: the model's own, or that of its precision; an error in its place is why there is none.
        fps: of the camera in that scenario.
        stream: of a video or camera: the facts for the record, and under ``open`` what ``streams.StreamWork`` is given; None for calls.
        blocks: turns of each case.
        block_s: about how long a turn is.
        checks: the gates; None for none.
        worker: what makes a worker; each case's own process if not given.
        command: as it was typed, for the record.
    """

    cases: tuple[Case, ...]
    paths: dict[Case, Path | JetlensError]
    pictures: Pictures
    scenario: Scenario = "single"
    fps: float | None = None
    stream: Mapping[str, Any] | None = None
    scope: Scope = "answer"
    blocks: int = 10
    block_s: float = 0.5
    threads: int | None = None
    checks: Checks | None = None
    worker: Callable[[], Asked] = WorkerProcess
    command: tuple[str, ...] = ()


@dataclass
class _Running:
    """A case whose process runs, and what is known of it so far."""

    measurement: Measurement
    worker: Asked
    blocks: list[Block] = field(default_factory=list)

    def ask(self, do: str, **arguments: Any) -> Any:
        return self.worker.ask(do, **arguments)

    def now(self) -> Measurement:
        return replace(self.measurement, blocks=tuple(self.blocks))

    def fail(self, error: JetlensError) -> None:
        self.measurement = replace(self.measurement, failed=str(error))
        self.worker.close()


def measure(plan: Plan, *, save: Callable[[Run], None] = lambda run: None, said: Callable[[str], None] = lambda message: None) -> Run:
    """Checks, times and records every case; one that cannot run is a row that says why.

    Args:
        save: given the run as it stands, incomplete until the last time; called after every turn.
        said: told what was done, for a progress display.
    """
    started = Run(
        created=datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        measurements=(),
        versions={"jetlens": __version__, "python": platform.python_version(), "numpy": np.__version__},
        command=plan.command,
        scenario=plan.scenario,
        fps=plan.fps,
        scope=plan.scope,
        images=plan.pictures.names,
        images_sha256=plan.pictures.sha256,
        machine=asdict(machine()),
        state_before=dict(read_state().as_dict()),
        overhead_ms=overhead_ms(),
        unscored=plan.checks.unscored if plan.checks else "",
        stream={name: value for name, value in (plan.stream or {}).items() if name != "open"},
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jetlens-bench-")))
        bench = _Bench(plan, started, folder, stack, said)
        try:
            bench.load()
            bench.warm_up()
            bench.check()
            bench.time(save)
            run = bench.finish("done")
        except KeyboardInterrupt:
            save(bench.finish("interrupted"))
            raise
    save(run)
    return run


class _Bench:
    """One run on its way."""

    def __init__(self, plan: Plan, started: Run, folder: Path, stack: ExitStack, said: Callable[[str], None]) -> None:
        self._plan = plan
        self._run = started
        self._folder = folder
        self._stack = stack
        self._said = said
        self._sampler: Sampler | None = None
        self._rows: dict[Case, _Running | Measurement] = {}
        self._pictures = folder / "pictures"
        self._pictures.mkdir()
        for number, content in enumerate(plan.pictures.contents):
            (self._pictures / f"{number:06}").write_bytes(content)

    def load(self) -> None:
        """Reads what the idle machine takes, then starts the workers one after the other."""
        with Sampler() as sampler:
            time.sleep(0.05)
        if sampler.samples().power_rail:
            self._run = replace(self._run, idle=sample_idle(_IDLE_S).as_dict())
        for case in self._plan.cases:
            self._rows[case] = self._opened(case)
            self._said(f"loaded {case.title}")

    def warm_up(self) -> None:
        """Lets every case settle, and reads what its process took at most until then: scoring takes more than running does."""
        for running in self._running:
            self._attempt(running, self._warm_up)

    def check(self) -> None:
        """Compares outputs and measures accuracy; a row whose gate says no is not timed."""
        checks = self._plan.checks
        if checks is None:
            return
        # A folder that goes before the timing: drawn pictures are large, and a run that is killed leaves what it holds.
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            self._take_reference(checks, folder)
            for running in self._running:
                running.measurement = replace(running.measurement, **self._checked(running, checks, folder))
                self._said(f"checked {running.measurement.case.title}")

    def time(self, save: Callable[[Run], None]) -> None:
        """Gives all cases turns."""
        timed = [running for running in self._running if not running.measurement.refused]
        with Sampler() as self._sampler:
            for turn in range(self._plan.blocks if timed else 0):
                # Each turn begins with another case, so that none always follows the same one.
                for place in range(len(timed)):
                    running = timed[(turn + place) % len(timed)]
                    if not running.measurement.failed:
                        self._attempt(running, self._block)
                self._said(f"timed turn {turn + 1} of {self._plan.blocks}")
                save(self._now())
        for running in self._running:
            self._attempt(running, self._last)

    def finish(self, ended: str) -> Run:
        """The run as it stands, with how it ended."""
        return replace(self._now(), ended=ended, state_after=dict(read_state().as_dict()))

    @property
    def _running(self) -> list[_Running]:
        return [row for row in self._rows.values() if isinstance(row, _Running) and not row.measurement.failed]

    def _now(self) -> Run:
        rows = tuple(row.now() if isinstance(row, _Running) else row for row in self._rows.values())
        waiting = tuple(Measurement(case, planned=self._plan.blocks) for case in self._plan.cases if case not in self._rows)
        reference = self._plan.checks.title if self._plan.checks else ""
        samples = self._sampler.samples().as_dict() if self._sampler else {}
        return replace(self._run, measurements=rows + waiting, samples=samples, reference=reference)

    def _opened(self, case: Case) -> _Running | Measurement:
        path = self._plan.paths[case]
        if isinstance(path, JetlensError):
            return Measurement(case, failed=str(path))
        try:
            worker = self._plan.worker()
            self._stack.callback(worker.close)
            given = {"pictures": str(self._pictures), "threads": self._plan.threads, "fps": self._plan.fps, "stream": self._stream()}
            facts = worker.ask("open", case=asdict(case), path=str(path), **given)
        except JetlensError as error:
            return Measurement(case, failed=str(error))
        facts["facts"]["notes"] = tuple(facts["facts"]["notes"])
        facts["facts"] = RunFacts(**facts["facts"])
        return _Running(Measurement(case, planned=self._plan.blocks, **facts), worker)

    def _stream(self) -> dict[str, Any] | None:
        """What a worker opens, with a folder of its own for what it encodes."""
        if self._plan.stream is None:
            return None
        return {**self._plan.stream["open"], "folder": tempfile.mkdtemp(dir=self._folder)}

    def _checked(self, running: _Running, checks: Checks, folder: Path) -> dict[str, Any]:
        try:
            found = checks.check(running.measurement, running.ask, folder)
        except JetlensError as error:
            running.fail(error)
            return {"failed": str(error)}
        if any(not gate.passed for gate in found["gates"]):
            found["planned"] = 0
        return found

    def _take_reference(self, checks: Checks, folder: Path) -> None:
        """From the reference's own row where it is one, otherwise from a worker that ends afterwards."""
        case = checks.case
        if case is None:
            return
        row = self._rows.get(case) or self._opened(case)
        if isinstance(row, Measurement) or row.measurement.failed:
            self._said(f"no reference: {row.failed if isinstance(row, Measurement) else row.measurement.failed}")
            return
        try:
            checks.take_reference(row.measurement, row.ask, folder)
            self._said(f"took the reference, {checks.title}")
        except JetlensError as error:
            self._said(f"no reference: {error}")
        finally:
            if case not in self._rows:
                row.worker.close()

    def _attempt(self, running: _Running, do: Callable[[_Running], None]) -> None:
        try:
            do(running)
        except JetlensError as error:
            running.fail(error)

    def _warm_up(self, running: _Running) -> None:
        answer = running.ask("warm_up", scenario=self._plan.scenario)
        warm_up = WarmUp(tuple(answer["calls_ms"]), tuple(answer["windows_ms"]), answer["settled"])
        running.measurement = replace(running.measurement, warm_up=warm_up, memory=Memory(**running.ask("memory")))
        self._said(f"warmed up {running.measurement.case.title}" + ("" if warm_up.settled else ", which did not settle"))

    def _block(self, running: _Running) -> None:
        answer = running.ask("block", scenario=self._plan.scenario, block_s=self._plan.block_s)
        tables = {name: {stage: tuple(times) for stage, times in answer[name].items()} for name in ("stages_ms", "device_ms")}
        running.blocks.append(
            Block(**{**answer, "calls_ms": tuple(answer["calls_ms"]), "yardstick_ms": tuple(answer["yardstick_ms"]), **tables})
        )

    def _last(self, running: _Running) -> None:
        predictions, overlays = running.ask("drawings", count=DRAWN)
        reference = self._plan.checks.reference if self._plan.checks else None
        differences = [difference(one, other) for one, other in zip(reference.overlays, overlays, strict=True)] if reference else []
        running.measurement = replace(
            running.measurement,
            predictions=tuple(predictions),
            overlays=tuple(overlays),
            differences=tuple(differences),
        )
        running.worker.close()
