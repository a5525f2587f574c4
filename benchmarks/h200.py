"""Everything that needs a GPU, on a machine that is lent for half an hour: phases by importance, each with its own limit.

    python3 benchmarks/h200.py list [--gpus N] [--minutes 27]     what runs in which order, and about how long
    python3 benchmarks/h200.py start [--parts 15] [--only TEXT]   once, at the beginning: phases run from now on in the background
    python3 benchmarks/h200.py part                               takes the parts of the bundle (TensorRT 8.6, Python 3.10) that have come, and packs as below
    python3 benchmarks/h200.py wait SECONDS                       shows what ends, then packs all results into $OUT

The phases go on between two commands, and while the bundle comes those run that need no TensorRT. Each writes its files as it goes, so that a
machine that is taken away costs what runs then and no more. On one GPU up to three builds run at once and what is timed runs alone; with
several GPUs what is timed has one for itself while the others build. Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from engine_runs.phases import OUT, PARTS, TREE, WORK, Phase, phases

ROOT = Path(__file__).resolve().parents[1]
STATE, LOG = OUT / "state.json", OUT / "phases.log"
PREPARING = 5
"""Phases that need no engine at once: exports and graphs, on 16 cores."""
LONGEST_LOG = 400_000
MOST_BYTES = 15 << 20


class Board:
    """Which phases wait, run and are done, and who has which GPU."""

    def __init__(self, chosen: list[Phase], gpus: int, slots: int) -> None:
        self.waiting, self.gpus, self.slots = list(chosen), gpus, slots
        self.free = [slots] * gpus
        self.running: list[tuple[Phase, int, int, float, subprocess.Popen[bytes]]] = []
        self.rows: dict[str, dict[str, object]] = {}
        self.began = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self.began

    def place(self, phase: Phase, closed: set[int]) -> tuple[int, int] | None:
        """A GPU for a phase, and how many of its slots; None if it must wait, and a GPU is kept free for one that is timed."""
        if phase.kind == "prepare":
            busy = sum(row[0].kind == "prepare" for row in self.running)
            return (len(self.rows) % self.gpus, 0) if busy < PREPARING else None
        open_gpus = [gpu for gpu in range(self.gpus) if gpu not in closed]
        if not open_gpus:
            return None
        gpu = max(open_gpus, key=lambda number: self.free[number])
        wanted = self.slots if phase.kind == "alone" else 1
        if self.free[gpu] >= wanted:
            return gpu, wanted
        if phase.kind == "alone":
            closed.add(gpu)
        return None

    def start_what_can(self) -> None:
        closed: set[int] = set()
        names = {phase.name for phase in self.waiting} | {row[0].name for row in self.running}
        for phase in list(self.waiting):
            if names & set(phase.needs):
                continue
            found = self.place(phase, closed)
            if found is None:
                continue
            gpu, taken = found
            self.free[gpu] -= taken
            self.waiting.remove(phase)
            self.running.append((phase, gpu, taken, time.monotonic(), self.launch(phase, gpu)))
            self.rows[phase.name] = {"gpu": gpu, "began_s": round(self.now()), "state": "running"}

    def launch(self, phase: Phase, gpu: int) -> subprocess.Popen[bytes]:
        share = max(1, (os.cpu_count() or 1) // self.gpus)
        cores = f"{gpu * share}-{(gpu + 1) * share - 1}"
        threads = str(max(1, min(share // 3, 6)))
        environment = {**os.environ, "GPU": str(gpu), "CORES": cores, "CUDA_VISIBLE_DEVICES": str(gpu), "OMP_NUM_THREADS": threads}
        # A prepare phase of another GPU's share must not be timed against: all stay on their cores.
        command = ["taskset", "-c", cores, "bash", "-c", phase.command]
        with (OUT / f"{phase.name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=TREE, stdout=log, stderr=log, env=environment, start_new_session=True)

    def look(self) -> None:
        """Takes away what has ended, and ends what is over its limit."""
        for row in list(self.running):
            phase, gpu, taken, started, process = row
            code: int | str | None = process.poll()
            if code is None and time.monotonic() - started > phase.limit_s:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = "TIME"
            if code is not None:
                self.running.remove(row)
                self.free[gpu] += taken
                took = time.monotonic() - started
                self.rows[phase.name] |= {"state": "done", "rc": code, "seconds": round(took, 1), "estimate": phase.seconds}
                line = f"{self.now():6.0f} s  gpu{gpu} rc={code} {took:5.0f} s (thought {phase.seconds:.0f})  {phase.name}"
                with LOG.open("a") as log:
                    log.write(line + "\n")

    def keep(self) -> None:
        partial = STATE.with_suffix(".part")
        waiting = [phase.name for phase in self.waiting]
        partial.write_text(json.dumps({"seconds": round(self.now()), "gpus": self.gpus, "phases": self.rows, "waiting": waiting}, indent=1))
        os.replace(partial, STATE)

    def run(self) -> None:
        while self.waiting or self.running:
            self.start_what_can()
            if not self.running:
                break  # what waits needs something that is not there
            self.look()
            self.keep()
            time.sleep(0.3)
        with LOG.open("a") as log:
            log.write(f"{self.now():6.0f} s  all phases ended\n")
        (OUT / "ended").touch()


def gpus_here() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 1
    return max(1, sum(line.startswith("GPU ") for line in listed.splitlines()))


def chosen_phases(arguments: argparse.Namespace, gpus: int) -> list[Phase]:
    words = [word for word in arguments.only.split(",") if word]
    found = phases(gpus, arguments.parts)
    if not words:
        return found
    needs = {phase.name: phase.needs for phase in found}
    # How early: the first word that names a phase, or one that needs it.
    turns = {phase.name: turn for turn, word in reversed(list(enumerate(words))) for phase in found if word in phase.name}
    todo = list(turns)
    while todo:
        name = todo.pop()
        for need in needs[name]:
            if turns.get(need, len(words)) > turns[name]:
                turns[need] = turns[name]
                todo.append(need)
    return sorted((phase for phase in found if phase.name in turns), key=lambda phase: turns[phase.name])


def start(arguments: argparse.Namespace) -> None:
    for folder in (OUT, PARTS, WORK, TREE):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("src", "benchmarks", "tests", "pyproject.toml", ".gpu/tools", ".gpu/d1", ".gpu/ready", ".gpu/x/whl"):
        source, target = ROOT / name, TREE / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copyfile(source, target)
        else:
            print(f"missing: {name}")
    # A session of its own: it goes on when this command has returned.
    passed = ("--parts", str(arguments.parts), "--only", arguments.only, "--slots", str(arguments.slots))
    words = [sys.executable, str(TREE / "benchmarks" / "h200.py"), "board", *passed]
    with (OUT / "board.log").open("ab") as log:
        subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    time.sleep(2)
    print((OUT / "board.log").read_text() or f"{gpus_here()} GPUs; phases run in the background")


def take_parts() -> None:
    PARTS.mkdir(parents=True, exist_ok=True)
    for piece in sorted(ROOT.glob(".gpu/part*/bundle.*")):
        target = PARTS / piece.name
        if not target.exists():
            shutil.copyfile(piece, target.with_suffix(target.suffix + ".part"))
            target.with_suffix(target.suffix + ".part").rename(target)
    print(len(list(PARTS.glob("bundle.??"))), "parts;", LOG.read_text().splitlines()[-1:] if LOG.exists() else "")
    pack(Path(os.environ["OUT"]))


def wait(seconds: float) -> None:
    end_s, shown = time.monotonic() + seconds, 0
    while True:
        lines = LOG.read_text().splitlines() if LOG.exists() else []
        for line in lines[shown:]:
            print(line, flush=True)
        shown = len(lines)
        if time.monotonic() > end_s or (OUT / "ended").exists():
            break
        time.sleep(1)
    pack(Path(os.environ["OUT"]))
    state = json.loads(STATE.read_text()) if STATE.exists() else {"phases": {}, "waiting": []}
    running = [name for name, row in state["phases"].items() if row["state"] == "running"]
    print("running:", *running, "| waiting:", *state["waiting"])


def pack(target: Path) -> None:
    """All results so far, in archives that are small enough to come back; logs come last and are cut in the middle."""
    groups: list[list[tuple[str, bytes]]] = [[]]
    size = 0
    for path in sorted(OUT.rglob("*"), key=lambda path: (path.suffix == ".log", path.name)):
        try:
            content = path.read_bytes()
        except OSError:
            continue  # a folder, or a file that got its last name meanwhile
        if path.suffix == ".log" and len(content) > LONGEST_LOG:
            content = content[: LONGEST_LOG // 2] + b"\n[...]\n" + content[-LONGEST_LOG // 2 :]
        # Records of numbers shrink to a third at least.
        size += len(content) // 3
        if size > MOST_BYTES:
            groups.append([])
            size = len(content) // 3
        groups[-1].append((str(path.relative_to(OUT)), content))
    for number, group in enumerate(groups):
        with tarfile.open(target / f"results{number}.tar.gz", "w:gz") as archive:
            for name, content in group:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    for state in (STATE, LOG):
        if state.exists():
            shutil.copyfile(state, target / state.name)


def show(arguments: argparse.Namespace) -> None:
    """The phases and a simulation of the board: when each begins and ends if every estimate is right."""
    gpus = arguments.gpus or gpus_here()
    board = Board(chosen_phases(arguments, gpus), gpus, slots(gpus, arguments.slots))
    clock, ends = 0.0, []
    while board.waiting or ends:
        closed: set[int] = set()
        names = {phase.name for phase in board.waiting} | {phase.name for _, phase, *_ in ends}
        for phase in list(board.waiting):
            found = None if names & set(phase.needs) else board.place(phase, closed)
            if found is None:
                continue
            gpu, taken = found
            board.free[gpu] -= taken
            board.waiting.remove(phase)
            board.running.append((phase, gpu, taken, 0.0, None))  # type: ignore[arg-type]
            ends.append((clock + phase.seconds, phase, gpu, taken, clock))
        ends.sort(key=lambda row: row[0])
        clock, phase, gpu, taken, began = ends.pop(0)
        board.free[gpu] += taken
        board.running = [row for row in board.running if row[0] is not phase]
        late = "  LATE" if clock > 60 * arguments.minutes else ""
        print(f"| {phase.name} | {phase.kind} | {began:.0f} | {clock:.0f} | {phase.seconds:.0f} | {phase.limit_s:.0f} |{late}")
    print(f"{clock / 60:.1f} minutes on {gpus} GPUs")


def slots(gpus: int, asked: int) -> int:
    """Builds at once on a GPU: they are the work of one core each, and share the GPU for their measurements."""
    return asked or (3 if gpus == 1 else 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("list", "start", "part", "wait", "board"))
    parser.add_argument("seconds", nargs="?", type=float, default=560.0)
    parser.add_argument("--parts", type=int, default=15)
    parser.add_argument(
        "--only",
        default="",
        help="words that are in the names of phases, with commas between them, in their order; what they need comes too",
    )
    parser.add_argument("--gpus", type=int, help="with list: as if there were so many")
    parser.add_argument("--slots", type=int, default=0, help="builds at once on a GPU")
    parser.add_argument("--minutes", type=float, default=27.0, help="with list: what ends later is marked")
    arguments = parser.parse_args()
    if arguments.do == "start":
        start(arguments)
    elif arguments.do == "part":
        take_parts()
    elif arguments.do == "wait":
        wait(arguments.seconds)
    elif arguments.do == "list":
        show(arguments)
    else:
        gpus = gpus_here()
        Board(chosen_phases(arguments, gpus), gpus, slots(gpus, arguments.slots)).run()


if __name__ == "__main__":
    main()
