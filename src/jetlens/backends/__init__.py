"""Backends: one runtime a file behind one small protocol."""

from __future__ import annotations

from jetlens.registry import Table

__all__ = ["BACKENDS"]

BACKENDS = Table(
    "backend",
    {
        "onnxruntime": "jetlens.backends.onnxruntime:OnnxRuntime",
        "openvino": "jetlens.backends.openvino:OpenVino",
        "pytorch": "jetlens.backends.pytorch:PyTorch",
    },
)
