"""The builder of the export tests, which lies in another folder of tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def build_engine(model: bytes) -> dict[str, Any]:
    """Parses and builds a graph strongly typed with tensorrt-rtx; gives its inputs and outputs."""
    path = Path(__file__).parents[1] / "export" / "test_tensorrt_rtx.py"
    spec = importlib.util.spec_from_file_location("tensorrt_rtx_builder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built: dict[str, Any] = module.build_engine(model)
    return built
