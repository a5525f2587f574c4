import json
from pathlib import Path

import numpy as np
import pytest

from jetlens.bench.figures import calls_ms
from jetlens.cli import main
from jetlens.data.orange_line import OrangeLine
from jetlens.demo import SEED, run_demo
from jetlens.demo.video import as_inspection, draw_inspection, graded
from jetlens.imagefile import load_image
from jetlens.media import open_source


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    return run_demo(tmp_path_factory.mktemp("demo") / "new" / "folder", frames=6, pictures=2)


def test_the_video_holds_every_frame_at_the_lines_size_and_rate(demo) -> None:
    with open_source(demo.files["video"]) as source:
        frames = list(source)
        assert source.info.fps == pytest.approx(30)
    assert len(frames) == demo.stats.frames == 6
    assert {frame.size_hw for frame in frames} == {(360, 640)}


def test_the_video_shows_answers(demo) -> None:
    with open_source(demo.files["video"]) as source:
        drawn = next(iter(source)).image_rgb
    plain = OrangeLine(SEED, (360, 640), 6)[0][0].image_rgb
    assert (np.abs(drawn.astype(int) - plain).max(axis=2) > 60).sum() > 500


def test_the_contact_sheet_has_three_rows_of_three(demo) -> None:
    assert load_image(demo.files["contact sheet"]).shape == (3 * (360 + 24) + 2 * 8, 3 * 640 + 2 * 8, 3)


def test_grades_agree_with_the_truth(demo) -> None:
    found, right = demo.objects
    assert found >= 40
    assert right >= 0.95 * found


def test_every_row_has_speed_deviation_and_accuracy(demo) -> None:
    content = json.loads(demo.files["raw measurements"].read_text())
    assert content["machine"]["cpu"]
    assert len(content["measurements"]) == len(demo.measurements) >= 9
    for row in demo.measurements:
        if row.failed:
            # Only what this machine's processor cannot do may be missing.
            assert row.case.precision == "bf16"
            continue
        times = calls_ms(row, "answer")
        assert len(times) >= 16
        assert (times > 0).all()
        assert row.deviation
        assert row.accuracy["pictures"] >= 2


def test_the_truth_drawn_as_an_answer_agrees_with_itself() -> None:
    frame, truth = OrangeLine(SEED, (360, 640), 1)[0]
    inspection = as_inspection(truth, frame.image_rgb)
    assert graded(inspection.objects, truth) == (len(truth), len(truth))
    assert draw_inspection(frame.image_rgb.copy(), inspection).shape == frame.image_rgb.shape


@pytest.mark.parametrize(
    ("words", "message"), [(["--backend", "tensorrtt"], "unknown backend 'tensorrtt'"), (["--output", "FILE/x"], "cannot be made")]
)
def test_a_wrong_call_is_one_line(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").touch()
    words = [word.replace("FILE", str(tmp_path / "FILE")) for word in words]
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--output", str(tmp_path / "d"), *words])
    assert caught.value.code in (1, 2)
    assert message in capsys.readouterr().err
