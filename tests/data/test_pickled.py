"""Pickles are read as data: arrays come out right, and nothing that a file asks to run is run."""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.data.layouts.pickled import read_pickled_data
from jetlens.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner) | st.tuples(inner, inner, inner, inner),
    max_leaves=20,
)


def python2_batch(data: np.ndarray[Any, Any]) -> bytes:
    """What Python 2 wrote: protocol 2, byte strings for texts and for the array's bytes."""
    raw = data.tobytes()
    rows, columns = data.shape
    return b"".join(
        (
            b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04(",
            b"K\x01" + b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86",
            b"cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb",
            b"U\x06labelsq\x07]q\x08(K\x01K\x07eu.",
        )
    )


def test_python_2s_batches_are_read(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    file = tmp_path / "data_batch_1"
    file.write_bytes(python2_batch(data))
    table = read_pickled_data(file)
    np.testing.assert_array_equal(table["data"], data)
    assert table["labels"] == [1, 7]
    oracle = pickle.loads(file.read_bytes(), encoding="latin-1")  # noqa: S301
    np.testing.assert_array_equal(oracle["data"], data)


@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value: Any, protocol: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "plain"
    file.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickled_data(file) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "f4"])
def test_arrays_come_back(tmp_path: Path, protocol: int, order: str, kind: str) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 100, (5, 7)), dtype=kind, order=order)  # type: ignore[call-overload]
    file = tmp_path / "array"
    file.write_bytes(pickle.dumps({"data": array}, protocol=protocol))
    back = read_pickled_data(file)["data"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


class Runs:
    """Runs a command when Python's own loader reads it."""

    def __init__(self, mark: Path) -> None:
        self._command = f"touch {mark}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


class Built:
    """Calls a state setter when Python's own loader reads it."""


def attacks(mark: Path) -> list[bytes]:
    command = f"touch {mark}".encode()
    made = [pickle.dumps({"data": Runs(mark)}, protocol=protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    made += [pickle.dumps({"data": Built()}, protocol=protocol) for protocol in (0, 2, 4)]
    made += [
        b"(S'" + command + b"'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'" + command + b"'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85\x81.",  # NEWOBJ
        b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R.",
        b"\x80\x02\x82\x01.",  # an extension's code
        b"P0\n.",  # a persistent id
        b"\x80\x02K\x01K\x02\x85R.",  # a call of a number
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",  # an array of objects
        b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",  # two gigabytes
    ]
    return made


def test_nothing_in_a_pickle_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    file = tmp_path / "data_batch_1"
    for content in attacks(mark):
        file.write_bytes(content)
        with pytest.raises(DataError, match="data_batch_1"):
            read_pickled_data(file)
        assert not mark.exists()
    # The negative control: Python's own loader runs it.
    pickle.loads(attacks(mark)[0])  # noqa: S301
    assert mark.exists()


@given(st.data())
def test_damaged_pickles_are_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(python2_batch(np.zeros((2, 40), np.uint8)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with suppress(DataError):
        read_pickled_data(file)
