"""A network for the fake GPU, whose answers tell one picture from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from fake_engines import FakeTensorRt, Net
from numpy.typing import NDArray

import jetlens.backends.tensorrt as backend
from jetlens.backends.tensorrt.cuda import Cuda

Arrays = dict[str, NDArray[Any]]


def classify(images: NDArray[Any]) -> Arrays:
    """A classifier's stand-in: the sum of the pixels and which of them is largest."""
    flat = images.reshape(len(images), -1).astype(np.int64)
    sums = flat.sum(1, dtype=np.int64)
    return {
        "logits": np.stack([sums, -sums, flat.max(1)], 1).astype(np.float32),
        "best": flat.argmax(1).astype(np.int32),
        "half": (flat[:, :2] / 4).astype(np.float16),
        "bright": flat.mean(1) > 127,
    }


def net(batch: int = 1, profile: tuple[int, int, int] | None = None, **changes: Any) -> Net:
    """The network with a fixed batch, or with a batch axis that is free within a profile."""
    axis = batch if profile is None else -1
    tensors = {
        "images": ("UINT8", (axis, 4, 4, 3), True),
        "logits": ("FLOAT", (axis, 3), False),
        "best": ("INT32", (axis,), False),
        "half": ("HALF", (axis, 2), False),
        "bright": ("BOOL", (axis,), False),
    }
    return Net(tensors, changes.pop("compute", classify), profile or (batch,) * 3, **changes)


def on_fake_gpu(monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, which: Net, version: str = "8.6.0") -> FakeTensorRt:
    """Puts a fake CUDA and a fake TensorRT in the place of the real ones."""
    trt = FakeTensorRt(cudart, which, version)
    monkeypatch.setattr(backend, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(backend, "load_cuda", lambda: Cuda(cudart))
    return trt


def pictures(batch: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures that fit the network."""
    return np.random.default_rng(seed).integers(0, 256, (batch, 4, 4, 3), np.uint8)


def assert_answers(answers: Arrays, images: NDArray[Any]) -> None:
    """The answers are exactly those of these pictures."""
    expected = classify(images)
    assert answers.keys() == expected.keys()
    for name, want in expected.items():
        assert answers[name].dtype == want.dtype
        np.testing.assert_array_equal(answers[name], want)
