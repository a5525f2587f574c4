"""A cache folder of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the engines of this test are kept; not made yet."""
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"
