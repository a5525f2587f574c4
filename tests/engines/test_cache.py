"""The engine cache: what is damaged, foreign or tampered with is built anew and never handed out (goals M4, C2, C3, C6)."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_builder import FACTS, HERE, FakeBuilder, naive_obtain

from jetlens.engines import manifest as manifest_module
from jetlens.engines.cache import cached, entries, obtain, prune, why
from jetlens.engines.environment import read_environment
from jetlens.engines.key import key_fields
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Engine
from jetlens.errors import BackendError, OutputError

OPTIONS = BuildOptions()
OTHERS = {
    "model": (b"other model", OPTIONS, HERE),
    "options": (b"model", replace(OPTIONS, batch=(1, 4, 8)), HERE),
    "gpu": (b"model", OPTIONS, replace(HERE, gpu="NVIDIA L4", sm="8.9")),
    "version": (b"model", OPTIONS, replace(HERE, tensorrt="8.6.0")),
    "driver": (b"model", OPTIONS, replace(HERE, driver="550.54")),
}
ROOT = os.geteuid() == 0


class Runtime:
    """Stands where TensorRT deserializes: keeps what it is handed."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def deserialize(self, engine: Engine) -> None:
        self.seen.append(engine.plan)


def get(builder: FakeBuilder, said: list[str] | None = None, **changes: Any) -> Engine:
    return obtain(
        b"model", changes.pop("options", OPTIONS), name="net", builder=builder, environment=HERE, report=(said or []).append, **changes
    )


def files(folder: Path) -> tuple[Path, Path]:
    """The plan and the manifest of the entry of ``get``, which is the only one called net."""
    (plan,) = folder.glob("net-*.plan")
    return plan, plan.with_name(plan.name + ".json")


def rewrite(path: Path, content: bytes) -> None:
    """The content changes, owner and mode stay."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    rewrite(path, bytes(content))


def cut(path: Path, chance: random.Random) -> None:
    rewrite(path, path.read_bytes()[: chance.randrange(path.stat().st_size)])


def zero(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content) - 8)
    content[start : start + 8] = bytes(8) if any(content[start : start + 8]) else bytes([255] * 8)
    rewrite(path, bytes(content))


def grow(path: Path, chance: random.Random) -> None:
    rewrite(path, path.read_bytes() + chance.randbytes(1 + chance.randrange(64)))


def in_place(make: Callable[[Path], Any]) -> Callable[[Path, random.Random], None]:
    """Something else stands where the file stood."""

    def put(path: Path, chance: random.Random) -> None:
        path.unlink()
        make(path)

    return put


def link(path: Path, chance: random.Random) -> None:
    target = path.with_name("elsewhere")
    target.unlink(missing_ok=True)
    path.rename(target)
    path.symlink_to(target)


def mode(path: Path, chance: random.Random) -> None:
    path.chmod(chance.choice((0o644, 0o660, 0o606, 0o777, 0o400, 0o000, 0o4600)))


def owner(path: Path, chance: random.Random) -> None:
    os.chown(path, 1000 + chance.randrange(1000), -1)


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def swapped_plan(folder: Path, chance: random.Random) -> None:
    """The plan of another model, GPU or version under this entry's manifest."""
    rewrite(files(folder)[0], other_files(folder, chance)[0].read_bytes())


def swapped_entry(folder: Path, chance: random.Random) -> None:
    """Plan and manifest of another model, GPU or version, both true, under this entry's names."""
    for own, other in zip(files(folder), other_files(folder, chance), strict=True):
        rewrite(own, other.read_bytes())


def other_files(folder: Path, chance: random.Random) -> tuple[Path, Path]:
    kind = chance.choice(list(OTHERS))
    (plan,) = folder.glob(f"other_{kind}-*.plan")
    return plan, plan.with_name(plan.name + ".json")


def edited(folder: Path, chance: random.Random) -> None:
    """A manifest that agrees with a changed plan in every field, but was not signed."""
    plan, manifest = files(folder)
    flip(plan, chance)
    content = json.loads(manifest.read_bytes())
    edits: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c.update(sha256=manifest_module.hashlib.sha256(plan.read_bytes()).hexdigest()),
        lambda c: c["key"].update(driver="1"),
        lambda c: c["key"].pop("sm"),
        lambda c: c.update(origin="trusted"),
        lambda c: c["facts"].update(precision="int8"),
        lambda c: c.pop("hmac"),
        lambda c: c.update(hmac=""),
        lambda c: c.update(hmac=["x"]),
        lambda c: c.update(jetlens_engine=2),
        lambda c: c.update(plan_bytes=0),
        lambda c: c.clear(),
        lambda c: c.update(more=1),
    ]
    chance.choice(edits)(content)
    edits[0](content)
    rewrite(manifest, json.dumps(content).encode())


def resigned(folder: Path, chance: random.Random) -> None:
    """A manifest that agrees with a changed plan and is signed, with another user's key."""
    plan, manifest = files(folder)
    content = manifest_module.from_json(manifest.read_bytes(), (folder / "signing.key").read_bytes())
    flip(plan, chance)
    digest = manifest_module.hashlib.sha256(plan.read_bytes()).hexdigest()
    rewrite(manifest, manifest_module.to_json(replace(content, sha256=digest), chance.randbytes(32)))


def not_json(folder: Path, chance: random.Random) -> None:
    rewrite(files(folder)[1], chance.choice((b"", b"[]", b"null", b"{", b"[" * 100_000, b"\xff\xfe", b'{"hmac": 1}', b" " * (2 << 20))))


def other_key(folder: Path, chance: random.Random) -> None:
    flip(folder / "signing.key", chance)


def key_file(folder: Path, chance: random.Random) -> None:
    chance.choice((mode, cut, grow, owner) if ROOT else (mode, cut, grow))(folder / "signing.key", chance)


def open_folder(folder: Path, chance: random.Random) -> None:
    folder.chmod(chance.choice((0o777, 0o770, 0o720, 0o702)))


def foreign_folder(folder: Path, chance: random.Random) -> None:
    os.chown(folder, 1000 + chance.randrange(1000), -1)


def on(which: int, change: Callable[[Path, random.Random], None]) -> Callable[[Path, random.Random], None]:
    return lambda folder, chance: change(files(folder)[which], chance)


def alter_file(change: Callable[[Path, random.Random], None]) -> Callable[[Path, random.Random], None]:
    return lambda folder, chance: change(chance.choice(files(folder)), chance)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "flip": on(0, flip),
    "flip in the manifest": on(1, flip),
    "cut": alter_file(cut),
    "zero": alter_file(zero),
    "grow": on(0, grow),
    "folder": alter_file(in_place(Path.mkdir)),
    "filled folder": alter_file(in_place(filled_folder)),
    "pipe": alter_file(in_place(os.mkfifo)),
    "dangling link": alter_file(in_place(lambda path: path.symlink_to("nowhere"))),
    "mode": alter_file(mode),
    **({"owner": alter_file(owner)} if ROOT else {}),
}
TAMPERINGS: dict[str, Callable[[Path, random.Random], None]] = {
    **DAMAGES,
    "swapped plan": swapped_plan,
    "swapped entry": swapped_entry,
    "edited manifest": edited,
    "edited again": edited,
    "foreign signature": resigned,
    "no manifest": lambda folder, chance: files(folder)[1].unlink(),
    "not JSON": not_json,
    "link": alter_file(link),
    "another key": other_key,
    "key file": key_file,
    "open folder": open_folder,
    **({"foreign folder": foreign_folder} if ROOT else {}),
}


def bombard(folder: Path, changes: dict[str, Callable[[Path, random.Random], None]], count: int) -> list[str]:
    """Applies so many changes to a good cache, each followed by a call that wants the engine; returns those that were not noticed."""
    chance, builder, runtime = random.Random(7), FakeBuilder(), Runtime()
    others = [obtain(m, o, name=f"other {kind}", builder=FakeBuilder(), environment=e) for kind, (m, o, e) in OTHERS.items()]
    good = get(builder)
    pristine = folder.parent / "pristine"
    shutil.copytree(folder, pristine)
    unnoticed = []
    for turn in range(count):
        kind = list(changes)[turn % len(changes)]
        changes[kind](folder, chance)
        built, said = len(builder.plans), list[str]()
        engine = obtain(b"model", OPTIONS, name="net", builder=builder, environment=HERE, report=said.append)
        runtime.deserialize(engine)
        noticed = not engine.reused and len(builder.plans) == built + 1 and engine.plan == builder.plans[-1] and engine.plan != good.plan
        warned = any("warning" in line and len(line) < 600 for line in said) or kind == "no manifest"
        unnoticed += [] if noticed and warned else [f"{turn} {kind}: {engine.reused} {said}"]
        again = obtain(b"model", OPTIONS, name="net", builder=builder, environment=HERE) if engine.path else None
        unnoticed += [] if again is None or (again.reused and again.plan == engine.plan) else [f"{turn} {kind}: not kept"]
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
        folder.chmod(0o700)
    assert set(runtime.seen) <= set(builder.plans)
    assert not {row.plan for row in others} & set(runtime.seen)
    assert get(builder).plan == good.plan
    return unnoticed


def test_sixty_tamperings_reach_no_runtime(folder: Path) -> None:
    assert bombard(folder, TAMPERINGS, 69) == []


@pytest.mark.release
def test_a_thousand_tamperings_reach_no_runtime(folder: Path, record_property: Any) -> None:
    unnoticed = bombard(folder, TAMPERINGS, 1000)
    record_property("rebuilt or refused", f"{1000 - len(unnoticed)}/1000")
    assert unnoticed == []


@pytest.mark.release
def test_three_hundred_damages_are_found(folder: Path, record_property: Any) -> None:
    unnoticed = bombard(folder, DAMAGES, 300)
    record_property("found, right answer after", f"{300 - len(unnoticed)}/300")
    assert unnoticed == []


def test_a_naive_cache_hands_out_what_was_tampered_with(tmp_path: Path) -> None:
    builder = FakeBuilder()
    naive_obtain(b"model", OPTIONS, name="net", builder=builder, folder=tmp_path)
    for change in (flip, cut, zero, grow, mode):
        change(tmp_path / "net.plan", random.Random(1))
        (tmp_path / "net.plan").chmod(0o600)
        assert naive_obtain(b"model", OPTIONS, name="net", builder=builder, folder=tmp_path) not in builder.plans
    assert len(builder.plans) == 1


def test_an_engine_is_built_once_and_loaded_whole(folder: Path) -> None:
    builder = FakeBuilder()
    first, second = get(builder), get(builder)
    assert (first.reused, second.reused, len(builder.plans)) == (False, True, 1)
    assert second.plan == first.plan == first.path.read_bytes()
    assert replace(first.manifest, key={}) == replace(second.manifest, key={})
    assert second.manifest.key == key_fields(b"model", OPTIONS, HERE)
    assert (second.manifest.facts, second.manifest.origin, second.manifest.name) == (FACTS, "built", "net")
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"} == {
        first.path.name: 0o600,
        first.path.name + ".json": 0o600,
        "signing.key": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_reason_of_a_build_is_the_field_that_changed(folder: Path) -> None:
    builder = FakeBuilder()
    assert get(builder).why == "no engine of this model yet"
    newer = replace(HERE, driver="580.65")
    assert obtain(b"model", OPTIONS, name="net", builder=builder, environment=newer).why == "driver 560.35.03 -> 580.65"
    assert get(builder, options=replace(OPTIONS, batch=(1, 8, 8))).why == "batch 1:1:1 -> 1:8:8"
    assert obtain(b"changed", OPTIONS, name="net", builder=builder, environment=HERE).why.startswith("model ")
    assert obtain(b"unknown", OPTIONS, name="new", builder=builder, environment=HERE).why == "no engine of this model yet"
    plan, _ = next((row.path, 0) for row in entries() if row.manifest and row.manifest.key == key_fields(b"model", OPTIONS, HERE)), 0
    rewrite(plan[0], b"short")
    assert "bytes, 4128 are right" in get(builder).why
    assert get(builder).why == ""


def test_what_is_not_to_be_saved_stays_in_memory(folder: Path) -> None:
    builder = FakeBuilder()
    engine = get(builder, options=replace(OPTIONS, save=False))
    assert (engine.path, engine.plan) == (None, builder.plans[0])
    assert not folder.exists()


def test_a_failed_build_leaves_nothing_and_frees_the_lock(folder: Path) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise BackendError("out of memory")

    with pytest.raises(BackendError, match="out of memory"):
        get(fails)  # type: ignore[arg-type]
    assert entries() == []
    assert not get(FakeBuilder()).reused


def test_why_names_the_field_and_builds_nothing(folder: Path) -> None:
    assert why(b"model", OPTIONS, name="net", environment=HERE).reason == "no engine of this model yet"
    engine = get(FakeBuilder())
    hit = why(b"model", OPTIONS, name="renamed", environment=HERE)
    assert (hit.cached, hit.reason, hit.entry.path) == (True, "in the cache", engine.path)
    miss = why(b"model", replace(OPTIONS, batch=(1, 1, 4)), name="net", environment=replace(HERE, driver="580.65"))
    assert (miss.cached, miss.reason) == (False, "batch 1:1:1 -> 1:1:4, driver 560.35.03 -> 580.65")
    blind = why(b"model", OPTIONS, name="net", environment=replace(HERE, tensorrt="", gpu="", sm=""))
    assert (blind.cached, blind.unknown, blind.differences) == (True, ("tensorrt", "gpu", "sm"), ())
    assert blind.reason == "in the cache, as far as can be told here: tensorrt, gpu, sm unknown"
    flip(engine.path, random.Random(1))
    assert "not those that were built" in why(b"model", OPTIONS, name="net", environment=HERE).reason


def test_cached_asks_names_and_manifests_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cached(b"model", OPTIONS)
    monkeypatch.setattr("jetlens.engines.cache.read_environment", lambda: HERE)
    assert not cached(b"model", OPTIONS)
    engine = get(FakeBuilder())
    assert cached(b"model", OPTIONS)
    assert not cached(b"model", replace(OPTIONS, workspace_mib=7))
    rewrite(engine.path.with_name(engine.path.name + ".json"), b"{}")
    assert not cached(b"model", OPTIONS)


def test_prune_removes_what_was_asked(folder: Path) -> None:
    assert prune(environment=HERE) == []
    builder = FakeBuilder()
    for kind, (model, options, environment) in OTHERS.items():
        obtain(model, options, name=kind, builder=builder, environment=environment)
    get(builder)
    assert len(entries()) == 6
    assert sorted(row.name for row in prune(environment=HERE)) == ["driver", "gpu", "version"]
    old = next(row for row in entries() if row.name == "options")
    os.utime(old.path.with_name(old.path.name + ".json"), (1, time.time() - 40 * 86400))
    assert [row.name for row in prune(older_than_days=30, environment=HERE)] == ["options"]
    assert [row.name for row in prune(name="model", everything=True, environment=HERE)] == ["model"]
    rewrite(files(folder)[0], b"")
    (folder / "orphan.plan.json").write_bytes(b"{}")
    (folder / ".x.plan.abc.tmp").write_bytes(b"")
    assert {row.problem[:14] for row in prune(environment=HERE)} == {"it has 0 bytes", "never finished"}
    assert [path.name for path in folder.iterdir() if path.is_file()] == [p.name for p in folder.iterdir() if p.suffix in (".key", ".lock")]
    get(builder)
    assert len(prune(everything=True, environment=HERE)) == 1
    assert entries() == []


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """A disk that takes no more than so many bytes a file; Python ignores the signal, so that a write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_the_disk(folder: Path, count: int) -> int:
    """How often a build on a full disk gave its engine, named path and bytes, and left the others as they were."""
    builder = FakeBuilder(size=100_000)
    before = get(builder)
    held = 0
    for turn in range(count):
        said: list[str] = []
        with largest_file(200 + turn * 100_000 // count):
            engine = obtain(b"big", OPTIONS, name="big", builder=builder, environment=HERE, report=said.append)
        held += (
            engine.plan == builder.plans[-1]
            and engine.path is None
            and any(str(folder / "big-") in line and "100032 bytes" in line for line in said)
            and sorted(path.name for path in folder.glob("*.plan*")) == sorted([before.path.name, before.path.name + ".json"])
            and not list(folder.glob(".*.tmp"))
            and get(builder).plan == before.plan
        )
    return held


def test_a_full_disk_costs_no_engine(folder: Path) -> None:
    assert fill_the_disk(folder, 5) == 5


@pytest.mark.release
def test_a_full_disk_costs_no_engine_at_fifty_places(folder: Path, record_property: Any) -> None:
    held = fill_the_disk(folder, 50)
    record_property("old file intact, engine given", f"{held}/50")
    assert held == 50


@pytest.mark.parametrize("failing", range(1, 5))
@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.chmod", "tempfile.mkstemp", "os.fdopen"])
def test_a_fault_in_any_call_of_the_writer_leaves_whole_entries(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, failing: int
) -> None:
    """The call fails the nth time; the engine is given, and what is found afterwards is whole or nothing."""
    builder = FakeBuilder()
    get(builder)
    module, _, name = call.partition(".")
    real, calls, said = getattr(sys.modules[module], name), list[str](), list[str]()

    def fault(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", fault)
        engine = obtain(b"other", OPTIONS, name="other", builder=builder, environment=HERE, report=said.append)
    assert engine.plan == builder.plans[-1]
    assert (engine.path is None) == bool(said)
    assert [row.problem for row in entries() if row.problem] == []
    assert list(folder.glob(".*.tmp")) == []
    again = obtain(b"other", OPTIONS, name="other", builder=builder, environment=HERE)
    assert again.reused == (engine.path is not None)


def test_a_naive_cache_keeps_half_an_engine(tmp_path: Path) -> None:
    builder = FakeBuilder(size=100_000)
    with largest_file(5000), pytest.raises(OSError, match="File too large"):
        naive_obtain(b"big", OPTIONS, name="big", builder=builder, folder=tmp_path)
    assert len(naive_obtain(b"big", OPTIONS, name="big", builder=builder, folder=tmp_path)) == 5000


KILLED = """
import sys
from fake_builder import HERE, FakeBuilder
from jetlens.engines.cache import obtain
from jetlens.engines.options import BuildOptions
print("ready", flush=True)
for turn in range(100000):
    obtain(b"%d" % turn, BuildOptions(), name="net", builder=FakeBuilder(size=1_000_000), environment=HERE)
"""


def kill_while_writing(folder: Path, count: int) -> list[str]:
    """Kills a process that writes entry after entry, so many times; what is then found wrong."""
    chance, wrong = random.Random(3), []
    for turn in range(count):
        child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, cwd=Path(__file__).parent)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(chance.random() * 0.15)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        wrong += [f"{turn}: {row.problem}" for row in entries() if row.problem and not row.problem.startswith("never finished")]
        builder = FakeBuilder()
        obtain(b"after", OPTIONS, name="after", builder=builder, environment=HERE)
        wrong += [f"{turn}: {path.name} is left" for path in folder.glob(".*.tmp")]
        prune(everything=True, environment=HERE)
    return wrong


def test_a_killed_writer_leaves_whole_entries(folder: Path) -> None:
    assert kill_while_writing(folder, 3) == []


@pytest.mark.release
def test_fifty_killed_writers_leave_whole_entries(folder: Path, record_property: Any) -> None:
    wrong = kill_while_writing(folder, 50)
    record_property("old or new", f"{50 - len(wrong)}/50")
    assert wrong == []


def use_a_read_only_cache(folder: Path) -> None:
    """Builds, locks the folder, asks again: in a process of its own, without root's rights, for whom nothing is read-only."""
    if ROOT:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    builder, said = FakeBuilder(), list[str]()
    first = get(builder)
    folder.chmod(0o555)
    again = get(builder)
    assert (again.reused, again.plan, again.path) == (True, first.plan, first.path)
    other = obtain(b"other", OPTIONS, name="net", builder=builder, environment=HERE, report=said.append)
    assert (other.reused, other.path, other.plan) == (False, None, builder.plans[-1])
    assert "stays in memory" in said[0], said
    assert "Permission denied" in said[0], said
    with pytest.raises(OutputError, match="Permission denied"):
        prune(everything=True)


def test_a_read_only_cache_is_read(tmp_path: Path, folder: Path) -> None:
    folder.parent.mkdir()
    if ROOT:
        os.chown(folder.parent, 65534, 65534)
        for path in (tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o011)
    child = multiprocessing.get_context("fork").Process(target=use_a_read_only_cache, args=(folder,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    engine = obtain(b"model", OPTIONS, name="net", builder=FakeBuilder(), environment=HERE, report=said.append)
    assert engine.path is None
    assert "stays in memory" in said[0]
    assert entries() == []
    with pytest.raises(OutputError, match="JETLENS_CACHE"):
        manifest_module.make_folder(tmp_path / "file" / "engines")


def test_no_module_lets_a_plan_bring_code_of_its_own() -> None:
    source = Path(manifest_module.__file__).parents[1]
    assert [path.name for path in source.rglob("*.py") if "engine_host_code_allowed = True" in path.read_text()] == []


def test_the_facts_of_this_machine_are_read_once() -> None:
    read_environment.cache_clear()
    assert read_environment() is read_environment()
    assert read_environment().platform
