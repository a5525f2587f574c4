"""Guesses: the usual way to feed a family, told by the shapes of its answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jetlens.errors import UsageError
from jetlens.export.describe import _READ_OPTIONS, _check_decoder_options
from jetlens.export.guess import guesses
from jetlens.tasks.heads import HEADS


@pytest.mark.parametrize(
    ("shape", "size_hw", "preset"),
    [
        ((1, 1000), (224, 224), "torchvision-classifier"),
        ((1, 1000, 1, 1), (224, 224), "caffe-classifier"),
        ((1, 21, 513, 513), (513, 513), "deeplab"),
        ((1, 21, 512, 512), (512, 512), "torchvision-segmentation"),
    ],
)
def test_the_preset_follows_the_family(shape: tuple[int, ...], size_hw: tuple[int, int], preset: str) -> None:
    answers = {"out": np.full(shape, 1 / shape[1], np.float32)}
    assert guesses(answers, size_hw)[0].preset == preset


def test_the_options_of_every_detection_decoder_are_known() -> None:
    assert set(HEADS) <= set(_READ_OPTIONS)


@pytest.mark.parametrize(
    ("decoder", "key", "value"),
    [
        ("yolox", "stride", [8]),
        ("yolox", "strides", "8"),
        ("yolox", "strides", [0]),
        ("nanodet", "bins", "eight"),
        ("ssd", "corners", "xywh"),
    ],
)
def test_a_wrong_decoder_option_is_refused(decoder: str, key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=key):
        _check_decoder_options(decoder, {key: value})
    _check_decoder_options("yolox", {"strides": [8, 16, 32], "decoded": True})
