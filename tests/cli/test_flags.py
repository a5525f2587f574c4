from collections.abc import Callable

import pytest

from jetlens.cli import flags
from jetlens.errors import UsageError


def test_known_values_are_taken() -> None:
    assert flags.size_hw("360X640") == (360, 640)
    assert [flags.device(name) for name in ("auto", "cpu", "cuda")] == ["auto", "cpu", "cuda"]
    assert [flags.precision(name) for name in (None, "fp32", "bf16")] == [None, "fp32", "bf16"]
    assert flags.split("val") == "val"


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (flags.size_hw, "360", "--size '360': give height x width in pixels, such as 360x640"),
        (flags.size_hw, "0x64", "--size"),
        (flags.device, "tpu", "--device is 'tpu'; allowed: auto, cpu, cuda"),
        (flags.precision, "int4", "--precision is 'int4'; allowed: fp32, bf16"),
        (flags.split, "dev", "--split 'dev'; allowed: train, val, test, all"),
    ],
)
def test_others_are_one_line(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(text)
