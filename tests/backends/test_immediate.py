"""Lanes of runtimes that answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetlens.backends.immediate import ImmediateLanes
from jetlens.errors import BackendError
from jetlens.spec import TensorSpec


class Sums(ImmediateLanes):
    """Answers with the sum of each picture."""

    inputs = (TensorSpec("images", "uint8", ("N", 2, 2, 3)),)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"sums": inputs["images"].sum((1, 2, 3))}


def picture(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 3), value, np.uint8)


def test_what_a_lane_borrows_is_copied_into_its_first_rows() -> None:
    session, lent = Sums(), [picture(1), picture(2)]
    lane = session.lane(3)
    lane.borrow("images", lent)
    lent[0][:] = 9
    assert session.submit(lane).result()["sums"].tolist() == [12, 24, 0]


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ([picture(1)] * 3, "takes 2 pictures uint8 .2, 2, 3., and 3 pictures came"),
        ([picture(1)[:1]], r"uint8 \[1, 2, 3\] came"),
        ([picture(1).astype(np.float32)], r"float32 \[2, 2, 3\] came"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pictures: list[NDArray[Any]], said: str) -> None:
    with pytest.raises(BackendError, match=said):
        Sums().lane(2).borrow("images", pictures)
