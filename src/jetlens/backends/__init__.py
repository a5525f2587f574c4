"""Backends: one runtime a file behind one small protocol."""

from __future__ import annotations

from jetlens.registry import Table

__all__ = ["BACKENDS"]

BACKENDS = Table(
    "backend",
    {
        "onnxruntime": "jetlens.backends.onnxruntime:OnnxRuntime",
        "onnxruntime-tensorrt": "jetlens.backends.onnxruntime:OnnxRuntimeTensorRt",
        "openvino": "jetlens.backends.openvino:OpenVino",
        "pytorch": "jetlens.backends.pytorch:PyTorch",
        "tensorrt": "jetlens.backends.tensorrt:TensorRt",
    },
)
