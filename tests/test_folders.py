"""Where cached files go."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetlens.folders import cache_folder


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JETLENS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a/models")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/jetlens/models")),
        ({}, Path("/home/someone/.cache/jetlens/models")),
    ],
)
def test_the_nearest_setting_decides(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Path) -> None:
    for name in ("JETLENS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder("models") == expected
