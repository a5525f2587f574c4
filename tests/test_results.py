import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetlens.errors import MissingDependencyError
from jetlens.results import Classification, Detections, Segmentation


def detections(count: int = 3) -> Detections:
    return Detections(
        xyxy=np.arange(count * 4, dtype=np.float32).reshape(count, 4),
        confidence=np.linspace(0.9, 0.5, count, dtype=np.float32),
        class_id=np.arange(count),
        size_hw=(20, 30),
        labels=("cat", "", "dog"),
        tracker_id=np.arange(count) + 10,
    )


def test_classification_as_json() -> None:
    result = Classification(np.array([2, 0]), np.array([0.75, 0.25], np.float32), (4, 4), ("a", "b", "c"))
    assert result.label == "c"
    assert json.loads(json.dumps(result.to_dict())) == {
        "top": [{"class_id": 2, "label": "c", "confidence": 0.75}, {"class_id": 0, "label": "a", "confidence": 0.25}]
    }


def test_detections_as_json_name_a_gap_in_the_labels() -> None:
    rows = json.loads(json.dumps(detections().to_dict()))["detections"]
    assert [row["label"] for row in rows] == ["cat", "class 1", "dog"]
    assert rows[1]["xyxy"] == [4.0, 5.0, 6.0, 7.0]
    assert rows[2]["tracker_id"] == 12


def test_picking_detections_keeps_all_fields_together() -> None:
    picked = detections()[np.array([False, True, True])]
    assert len(picked) == 2
    assert picked.class_id.tolist() == [1, 2]
    assert picked.tracker_id is not None
    assert picked.tracker_id.tolist() == [11, 12]


@pytest.mark.parametrize(("field", "value"), [("confidence", np.zeros(2)), ("xyxy", np.zeros((3, 5))), ("mask", np.zeros((1, 2, 2), bool))])
def test_fields_of_unequal_length_are_refused(field: str, value: np.ndarray) -> None:
    good = detections()
    fields = {name: getattr(good, name) for name in ("xyxy", "confidence", "class_id", "size_hw", "labels", "mask", "tracker_id")}
    with pytest.raises(ValueError, match=field):
        Detections(**{**fields, field: value})


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5)))
def test_pixel_counts_and_ratios_are_whole(mask: np.ndarray) -> None:
    rows = Segmentation(mask, ("background", "a", "b", "c")).to_dict()["classes"]
    assert sum(row["pixels"] for row in rows) == mask.size
    assert sum(row["ratio"] for row in rows) == pytest.approx(1, abs=1e-6)


def test_to_supervision_without_the_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="supervision"):
        detections().to_supervision()


def test_to_supervision_passes_the_fields_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    given_fields = detections().to_supervision()
    assert given_fields["class_id"].tolist() == [0, 1, 2]
    assert given_fields["data"]["class_name"].tolist() == ["cat", "class 1", "dog"]
