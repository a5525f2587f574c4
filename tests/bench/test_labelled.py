from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.bench import checks as checks_module
from jetlens.bench.checks import Checks, Labelled
from jetlens.bench.inputs import find_pictures
from jetlens.bench.labelled import keep, kept
from jetlens.bench.records import Case
from jetlens.bench.runner import Plan, measure
from jetlens.data.samples import ORANGE_LINE_LABELS, orange_line_samples
from jetlens.errors import DataError, OutputError
from jetlens.predictor import model_path
from jetlens.results import Detections
from jetlens.spec import read_model


@pytest.mark.parametrize("task", list(ORANGE_LINE_LABELS))
def test_samples_come_back_as_they_were_drawn(task: Any, tmp_path: Path) -> None:
    samples = list(orange_line_samples(task, 2))
    back = list(kept(tmp_path / "kept", keep(samples, tmp_path / "kept")))
    assert [sample.name for sample in back] == [sample.name for sample in samples]
    for one, other in zip(samples, back, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert type(one.truth) is type(other.truth)
        if isinstance(one.truth, Detections) and isinstance(other.truth, Detections):
            assert one.truth.to_dict() == other.truth.to_dict()
        else:
            np.testing.assert_array_equal(one.truth, other.truth)  # type: ignore[arg-type]


@pytest.mark.parametrize("spoil", ["swap", "drop"])
def test_other_pictures_than_those_that_were_drawn_are_an_error(spoil: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    digest = keep(orange_line_samples("detection", 2, (90, 160)), folder)
    first, second = sorted(folder.iterdir())
    if spoil == "swap":
        first.write_bytes(second.read_bytes())
    else:
        second.unlink()
    with pytest.raises(DataError, match="changed during the run"):
        list(kept(folder, digest))


def test_no_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        keep(orange_line_samples("detection", 1, (90, 160)), tmp_path / "kept")


def test_a_run_draws_once_for_all_its_processes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    drawn: list[Path] = []

    def counted(samples: Any, folder: Path) -> str:
        drawn.append(folder)
        return keep(samples, folder)

    monkeypatch.setattr(checks_module, "keep", counted)
    path = model_path("orange-grade")
    spec = read_model(path)[1]
    one, two = Case("m", "onnxruntime", "fp32"), Case("m", "onnxruntime", None)
    pictures = find_pictures(spec, None, None, 2)
    gates = Checks(spec, pictures.names, one, labelled=Labelled("orange-line", 3))
    plan = Plan((one, two), {one: path, two: path}, pictures, blocks=1, block_s=0.01, threads=1, checks=gates)
    for runs in (1, 2):  # the second run of the same checks has a folder of its own
        scores = [row.accuracy for row in measure(plan).measurements]
        assert scores[0] == scores[1]
        assert scores[0]["pictures"] >= 3
        assert len(drawn) == len(set(drawn)) == runs
    assert not any(folder.exists() for folder in drawn)
