"""Convolution in plain loops: against the libraries, with every stride, padding and kernel; and steps that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jetlens.errors import GateError, UnknownNameError, UsageError
from jetlens.learn.convolution import _libraries, convolution, convolve, steps
from jetlens.learn.kernels import KERNELS, read_kernel
from jetlens.learn.lesson import compared

RNG = np.random.default_rng(0)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel_hw=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_it_is_what_the_libraries_compute(height, width, kernel_hw, stride, padding, seed) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("cv2")
    rng = np.random.default_rng(seed)
    pixels, kernel = rng.random((height, width)), rng.normal(size=kernel_hw)
    if height + 2 * padding < kernel_hw[0] or width + 2 * padding < kernel_hw[1]:
        with pytest.raises(UsageError, match="larger than the picture"):
            convolve(pixels, kernel, stride, padding)
        return
    answer = convolve(pixels, kernel, stride, padding)
    others = _libraries(pixels, kernel, stride, padding)
    assert len(others) == 2
    compared("test", answer, others, 1e-5)


def test_a_wrong_result_is_refused() -> None:
    """Negative control: turning the kernel, as mathematics does, is another operation."""
    pytest.importorskip("cv2")
    pixels, kernel = RNG.random((9, 9)), KERNELS["sobel-x"]
    with pytest.raises(GateError, match="differ by"):
        compared("test", convolve(pixels, kernel[::-1, ::-1], 1, 1), _libraries(pixels, kernel, 1, 1))
    with pytest.raises(GateError, match="shapes"):
        compared("test", np.zeros((2, 2)), {"other": np.zeros((2, 3))})
    with pytest.raises(GateError, match="no finite"):
        compared("test", np.array([np.nan]), {"other": np.zeros(1)})


def test_identity_keeps_the_picture_and_steps_add_up() -> None:
    levels = RNG.integers(0, 256, (8, 10)).astype(float)
    np.testing.assert_array_equal(convolve(levels, KERNELS["identity"], 1, 1), levels)
    result = convolve(levels, KERNELS["sobel-y"], 2, 1)
    for step in steps(levels, KERNELS["sobel-y"], (1, 4), 2, 1):
        assert step.total == result[step.row, step.column]
        np.testing.assert_array_equal(step.products, step.patch * KERNELS["sobel-y"])
    assert [step.column for step in steps(levels, KERNELS["sobel-y"], (1, 4), 2, 1)] == [2, 3, 4]  # moved so that three fit


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_makes_a_lesson(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    kernel, called = read_kernel(name)
    image = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    lesson = convolution(image, kernel, called, tmp_path / "c.png", stride=2 if name == "gaussian" else 1)
    assert all(value <= 1e-5 for value in lesson.numbers["largest_difference"].values())
    assert lesson.numbers["steps"][0]["sum"] == pytest.approx(np.sum(lesson.numbers["steps"][0]["products"]))
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 400
    symmetric = np.array_equal(kernel, kernel[::-1, ::-1])
    assert (lesson.numbers["difference_to_flipped_kernel"] == 0) == symmetric


def test_kernels_are_read() -> None:
    kernel, name = read_kernel("-1,0,1; -2,0,2 ;-1,0,1")
    np.testing.assert_array_equal(kernel, KERNELS["sobel-x"])
    assert name == "your kernel"
    assert read_kernel("0.5")[0].shape == (1, 1)
    with pytest.raises(UnknownNameError, match="did you mean 'sobel-x'"):
        read_kernel("sobelx")
    for text in ("1,2;3", "1,a", "1,,2", "nan1", "1e9", ";".join(["1"] * 16)):
        with pytest.raises(UsageError):
            read_kernel(text)
