"""LockedPages: memory that comes again is locked once, and unlocked before it goes."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import FakeCudart

from jetlens.backends.tensorrt.cuda import Cuda
from jetlens.backends.tensorrt.pages import LockedPages


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    monkeypatch.setattr("jetlens.backends.tensorrt.pages.LEAST_BYTES", 48)
    return FakeCudart()


def test_memory_that_comes_again_is_locked_once_and_unlocked_before_it_goes(cudart: FakeCudart) -> None:
    pages = LockedPages(Cuda(cudart))
    owner = np.zeros((2, 4, 4, 3), np.uint8)
    assert [pages.address(owner[1]) for _ in range(3)] == [None, owner[1].ctypes.data, owner[1].ctypes.data]
    assert pages.address(owner[0]) == owner.ctypes.data
    assert (cudart.locked, cudart.calls["cudaHostRegister"]) == ({owner.ctypes.data}, 1)
    del owner
    assert not cudart.locked
    kept = np.zeros(48, np.uint8)
    for _ in range(2):
        pages.address(kept)
    pages.close()
    assert not cudart.locked
    del kept


def test_what_cannot_be_read_in_place_is_said_to_be_copied(cudart: FakeCudart) -> None:
    pages = LockedPages(Cuda(cudart))
    plain = np.zeros((4, 4, 3), np.uint8)
    foreign = np.frombuffer(bytes(48), np.uint8)
    for array in (plain[::2], plain[:, 1:], foreign):
        assert [pages.address(array) for _ in range(3)] == [None] * 3
    assert "cudaHostRegister" not in cudart.calls


def test_small_pictures_are_copied(cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetlens.backends.tensorrt.pages.LEAST_BYTES", 49)
    pages, array = LockedPages(Cuda(cudart)), np.zeros(48, np.uint8)
    assert [pages.address(array) for _ in range(3)] == [None] * 3


def test_memory_that_cannot_be_locked_is_tried_once(cudart: FakeCudart) -> None:
    cudart.locking_fails = True
    pages, array = LockedPages(Cuda(cudart)), np.zeros(48, np.uint8)
    assert [pages.address(array) for _ in range(5)] == [None] * 5
    assert cudart.calls["cudaHostRegister"] == 1
    del array


def test_a_source_that_makes_every_frame_anew_locks_nothing(cudart: FakeCudart) -> None:
    pages = LockedPages(Cuda(cudart))
    for _ in range(200):
        assert pages.address(np.zeros(1 << 16, np.uint8)) is None
    assert not pages._owners
    assert "cudaHostRegister" not in cudart.calls


def test_no_more_than_some_are_known(cudart: FakeCudart) -> None:
    pages = LockedPages(Cuda(cudart))
    many = [np.zeros(64, np.uint8) for _ in range(100)]
    for _ in range(2):
        found = [pages.address(array) for array in many]
    assert sum(address is not None for address in found) == len(cudart.locked) == 64
    pages.close()
