"""Buffers are lent again when, and only when, nobody holds them."""

from __future__ import annotations

import threading

import numpy as np

from jetlens.ops.buffers import BufferPool


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_comes_again_after_the_last_view_is_gone() -> None:
    pool = BufferPool()
    first = pool.take((4, 5))
    where = address(first)
    view = first[1:].reshape(-1)[3::2]
    del first
    assert address(pool.take((4, 5))) != where, "lent although a view lives"
    del view
    assert address(pool.take((4, 5))) == where


def test_two_holders_never_share() -> None:
    pool = BufferPool(limit=3)
    held = [pool.take((8,), np.float32) for _ in range(10)]
    for index, array in enumerate(held):
        array[:] = index
    assert [array[0] for array in held] == list(range(10))
    assert len({address(array) for array in held}) == 10


def test_sizes_may_change() -> None:
    pool = BufferPool(limit=2)
    for size in range(1, 20):
        assert pool.take((size, 3)).shape == (size, 3)


def test_threads_never_share() -> None:
    pool, clashes = BufferPool(), []

    def work(mark: int) -> None:
        for _ in range(300):
            array = pool.take((64,))
            array[:] = mark
            if not (array == mark).all():
                clashes.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
