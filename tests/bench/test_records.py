import json
from pathlib import Path

import pytest

from jetlens.bench.records import Case, Measurement, write_records

MEASUREMENT = Measurement(
    Case("m", "onnxruntime"), stages_ms={"preprocess": (1.0, 1.0, 1.0), "infer": (8.0, 9.0, 98.0), "postprocess": (1.0, 0.0, 1.0)}
)


def test_figures_come_from_the_raw_values() -> None:
    assert MEASUREMENT.latency_ms(50) == 10.0
    assert MEASUREMENT.latency_ms(100) == 100.0
    # Items over wall time: not the mean of rates, which one slow call would hardly move.
    assert MEASUREMENT.images_per_s() == pytest.approx(3000 / 120)


def test_the_file_holds_every_value_and_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    write_records(file, [MEASUREMENT], {"cpu": "some"})
    content = json.loads(file.read_text())
    assert content["machine"] == {"cpu": "some"}
    assert content["measurements"][0]["stages_ms"]["infer"] == [8.0, 9.0, 98.0]
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
