"""Real engines on a real GPU: skipped, with the reason, where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jetlens.backends.base import SessionOptions
from jetlens.engines.options import BuildOptions

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "jetlens" / "assets" / "models"
QUICK = BuildOptions(optimization_level=1)
"""Few tactics: the tests ask whether an engine is right, and not how fast it is."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        from jetlens.backends.tensorrt import TensorRt
    except ImportError as error:
        missing: str | None = str(error)
    else:
        missing = TensorRt.unavailable()
    for item in items:
        if "gpu" in item.keywords and missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs TensorRT and an NVIDIA GPU: {missing}"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for a test; gives the folder of the engines."""
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def quick() -> SessionOptions:
    """A session on an engine that is built fast."""
    return SessionOptions("cuda", build=QUICK)


@pytest.fixture(scope="session")
def grade() -> bytes:
    """The smallest model that ships."""
    return (SHIPPED / "orange-grade.onnx").read_bytes()


@pytest.fixture(scope="session")
def exported() -> Path:
    """A folder of ONNX files that another Python exported: JETLENS_GPU_MODELS."""
    folder = os.environ.get("JETLENS_GPU_MODELS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JETLENS_GPU_MODELS names no folder of exported networks (torch and TensorRT may live in different Pythons)")
    return Path(folder)
