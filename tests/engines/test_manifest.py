"""Signed manifests and private files."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fake_builder import FACTS, HERE
from hypothesis import given
from hypothesis import strategies as st

from jetlens.engines.key import key_fields
from jetlens.engines.manifest import from_json, make_folder, make_key, read_key, read_private, to_json
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Manifest
from jetlens.errors import ModelError, OutputError

KEY = bytes(range(32))
MANIFEST = Manifest(key_fields(b"model", BuildOptions(), HERE), "ab" * 32, FACTS, "net", "2026-11-21T11:00:00+00:00", plan_bytes=7)
TEXT = to_json(MANIFEST, KEY)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert from_json(TEXT, KEY) == MANIFEST


@given(st.integers(0, len(TEXT) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    changed = bytearray(TEXT)
    changed[place] ^= change
    try:
        got = from_json(bytes(changed), KEY)
    except ModelError:
        return
    # Only what JSON does not tell apart, such as one blank for another, may pass.
    assert got == MANIFEST


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_any_bytes_are_refused_with_one_error(text: bytes) -> None:
    with pytest.raises(ModelError, match="manifest"):
        from_json(text, KEY)


@given(st.text(max_size=40), st.floats(allow_nan=False), st.lists(st.text(max_size=20), max_size=3))
def test_any_name_time_and_note_come_back(name: str, build_s: float, notes: list[str]) -> None:
    manifest = replace(MANIFEST, name=name, facts=replace(FACTS, build_s=build_s, notes=tuple(notes)))
    assert from_json(to_json(manifest, KEY), KEY) == manifest


def test_another_key_signs_otherwise() -> None:
    with pytest.raises(ModelError, match="changed or signed by another user"):
        from_json(TEXT, bytes(32))


def key_of(folder: Path) -> bytes:
    return make_key(folder)


def test_processes_agree_on_one_key(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    make_folder(folder)
    assert read_key(folder) is None
    with multiprocessing.get_context("fork").Pool(8) as pool:
        keys = set(pool.map(key_of, [folder] * 32, chunksize=1))
    assert len(keys) == 1
    assert keys == {read_key(folder)}
    assert sorted(path.name for path in folder.iterdir()) == ["key.lock", "signing.key"]
    assert (folder / "signing.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o400])
def test_a_key_that_others_could_have_read_is_replaced(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "engines"
    make_folder(folder)
    first = make_key(folder)
    (folder / "signing.key").chmod(mode)
    with pytest.raises(ModelError, match="key that signs"):
        read_key(folder)
    assert make_key(folder) != first
    assert make_key(folder) == read_key(folder)


def test_a_key_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    make_folder(folder)
    (tmp_path / "known").write_bytes(KEY)
    (tmp_path / "known").chmod(0o600)
    (folder / "signing.key").symlink_to(tmp_path / "known")
    with pytest.raises(ModelError, match="it is a link"):
        read_key(folder)
    assert make_key(folder) == read_key(folder) != KEY
    assert (tmp_path / "known").read_bytes() == KEY


def test_a_key_that_the_disk_does_not_give_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "engines"
    make_folder(folder)
    key = make_key(folder)

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdopen", fails)
        with pytest.raises(OutputError, match="Input/output error"):
            make_key(folder)
    assert read_key(folder) == key


def test_a_key_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    make_folder(folder)
    (folder / "signing.key").mkdir()
    with pytest.raises(OutputError, match=r"signing\.key: cannot be written"):
        make_key(folder)
    (folder / "key.lock").unlink()
    (folder / "key.lock").mkdir()
    with pytest.raises(OutputError, match="JETLENS_CACHE"):
        make_key(folder)


def test_what_was_checked_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o600)
    assert read_private(path) == read_private(path, size=7) == b"content"
    for size, largest in ((6, 100), (None, 6)):
        with pytest.raises(ModelError, match="7 bytes"):
            read_private(path, size=size, largest=largest)
    path.chmod(0o601)
    with pytest.raises(ModelError, match="mode is 601"):
        read_private(path)
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "none")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        read_private(tmp_path / "link")
    with pytest.raises(ModelError, match="no plain file"):
        read_private(Path(os.devnull))


def test_a_foreign_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "engines")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o600)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OutputError, match="belongs to another user"):
        make_folder(tmp_path / "engines")
    with pytest.raises(ModelError, match="belongs to another user"):
        read_private(tmp_path / "file")
