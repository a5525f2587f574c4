"""Trust: a plan that nobody vouched for, or that changed since, is never handed out (goal M4)."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_builder import FACTS, HERE, FakeBuilder

from jetlens.engines import trust as trust_module
from jetlens.engines.cache import entries, obtain, prune
from jetlens.engines.options import BuildOptions
from jetlens.engines.trust import UNREAD, adopt_command, distrust, is_trusted, read_facts, trust, trusted, trusted_plans
from jetlens.errors import BackendError, OutputError

PLAN = bytes(range(256)) * 40
HASH = hashlib.sha256(PLAN).hexdigest()


def test_a_plan_is_loaded_after_the_user_vouched_for_it(folder: Path) -> None:
    with pytest.raises(BackendError, match="nobody vouched"):
        trusted(PLAN)
    written = trust(PLAN, FACTS, "net.plan")
    engine = trusted(PLAN)
    assert (engine.plan, engine.manifest, engine.path, engine.reused) == (PLAN, written, None, True)
    assert (written.origin, written.facts, written.plan_bytes) == ("trusted", FACTS, len(PLAN))
    (record,) = (folder / "trusted").iterdir()
    assert record.stat().st_mode & 0o777 == 0o600
    trust(PLAN, UNREAD, "net.plan")
    assert trusted(PLAN).manifest.facts == UNREAD


def test_the_refusal_says_why_and_what_to_do(folder: Path) -> None:
    with pytest.raises(BackendError) as refused:
        trusted(PLAN, "/models/net.plan")
    said = str(refused.value)
    assert adopt_command("/models/net.plan") == "jetlens adopt /models/net.plan --trust --task T --labels FILE"
    assert said.endswith(adopt_command("/models/net.plan"))
    assert "code that TensorRT runs" in said
    assert len(said) < 285


def test_trust_is_in_the_bytes_and_can_be_taken_back(folder: Path) -> None:
    trust(PLAN, FACTS, "net.plan")
    chance = random.Random(5)
    for _ in range(100):
        changed = bytearray(PLAN)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        assert not is_trusted(bytes(changed))
    assert not any(is_trusted(plan) for plan in (b"", PLAN[:-1], PLAN + b"\0", PLAN[1:]))
    assert [row.sha256 for row in trusted_plans()] == [HASH]
    assert (distrust(HASH), distrust(HASH), is_trusted(PLAN), trusted_plans()) == (True, False, False, [])


def forge(folder: Path, how: str) -> None:
    """Something that another could do to the records to have a plan of his loaded."""
    record = next((folder / "trusted").glob("*.json"))
    digest = hashlib.sha256(b"evil").hexdigest()
    forged = record.with_name(f"{digest}.json")
    if how == "copied record":
        shutil.copy(record, forged)
    elif how == "edited record":
        forged.write_text(record.read_text().replace(record.stem, digest))
    elif how == "link":
        forged.symlink_to(record)
    elif how == "entry of the cache":
        obtain(b"model", BuildOptions(), name="net", builder=lambda *a, **k: (b"evil", FACTS), environment=HERE)
        shutil.copy(next(folder.glob("net-*.plan.json")), forged)
    for path in (forged,) if not forged.is_symlink() else ():
        path.chmod(0o600)


@pytest.mark.parametrize("how", ["copied record", "edited record", "link", "entry of the cache"])
def test_a_forged_record_trusts_nothing(folder: Path, how: str) -> None:
    trust(PLAN, FACTS, "net.plan")
    forge(folder, how)
    with pytest.raises(BackendError, match="record of its trust"):
        trusted(b"evil")
    assert [row.sha256 for row in trusted_plans()] == [HASH]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, record: record.chmod(0o644),
        lambda folder, record: record.parent.chmod(0o777),
        lambda folder, record: folder.chmod(0o770),
        lambda folder, record: (folder / "signing.key").unlink(),
        lambda folder, record: (folder / "signing.key").chmod(0o640),
        lambda folder, record: (folder / "signing.key").write_bytes(os.urandom(32)),
        lambda folder, record: record.write_bytes(b"{}"),
        lambda folder, record: (record.unlink(), record.mkdir()),
        lambda folder, record: (record.unlink(), os.mkfifo(record)),
        lambda folder, record: record.unlink(),
    ],
)
def test_a_record_that_others_could_have_made_trusts_nothing(folder: Path, change: Any) -> None:
    trust(PLAN, FACTS, "net.plan")
    change(folder, next((folder / "trusted").glob("*.json")))
    assert not is_trusted(PLAN)
    assert trusted_plans() == []


def test_a_record_is_no_entry_of_the_cache(folder: Path) -> None:
    trust(PLAN, FACTS, "net.plan")
    assert entries() == []
    obtain(b"model", BuildOptions(), name="net", builder=FakeBuilder(), environment=HERE)
    assert len(prune(everything=True, environment=HERE)) == 1
    assert is_trusted(PLAN)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="JETLENS_CACHE"):
        trust(PLAN, FACTS, "net.plan")


def test_facts_are_read_by_loading_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    class Report:
        layers: ClassVar = {"fp16": 3}
        precision = staticmethod(lambda: "")

    def absent() -> None:
        raise BackendError("TensorRT is not installed")

    opened: list[bytes] = []
    monkeypatch.setattr(trust_module, "load_tensorrt", absent)
    with pytest.raises(BackendError, match="not installed"):
        read_facts(PLAN)
    monkeypatch.setattr(trust_module, "load_tensorrt", lambda: None)
    monkeypatch.setattr(trust_module, "make_logger", lambda *_: None)
    monkeypatch.setattr(trust_module, "open_plan", lambda module, plan, *_: (opened.append(plan), "engine"))
    monkeypatch.setattr(trust_module, "tensor_rows", lambda *_: (FACTS.inputs, FACTS.outputs))
    monkeypatch.setattr(trust_module, "layer_report", lambda *_: Report)
    facts = read_facts(PLAN)
    assert (facts.inputs, facts.outputs, facts.precision, facts.layers) == (FACTS.inputs, FACTS.outputs, "unknown", {"fp16": 3})
    assert opened == [PLAN]
