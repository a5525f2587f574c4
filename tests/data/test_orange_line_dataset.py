"""Datasets of the orange line on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jetlens.cli import main
from jetlens.data.orange_line import OrangeLine, still, write_dataset
from jetlens.errors import OutputError, UsageError

SIZE = (64, 96)


def test_what_is_written_is_what_was_made(tmp_path: Path) -> None:
    written = write_dataset(tmp_path / "set", seed=3, count=4, size_hw=SIZE)
    content = json.loads((written.folder / "annotations.json").read_text())
    assert [row["file_name"] for row in content["images"]] == [f"images/{k:06d}.png" for k in range(4)]
    for k, row in enumerate(content["images"]):
        image, truth = still(3 + k, SIZE)
        assert np.array_equal(np.asarray(Image.open(written.folder / row["file_name"])), image)
        with Image.open(written.folder / row["mask_file"]) as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # type: ignore[index]
            assert np.array_equal(np.asarray(mask), truth.mask)
        rows = [a for a in content["annotations"] if a["image_id"] == k]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)], np.float32).reshape(-1, 4)
        assert np.array_equal(boxes, truth.xyxy)
        assert [a["grade"] for a in rows] == truth.grade.tolist()
        assert [a["track_id"] for a in rows] == truth.tracker_id.tolist()
    assert written.fruits == len(content["annotations"]) == sum(written.grades.values())
    assert len({a["id"] for a in content["annotations"]}) == written.fruits


def test_video_frames(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=2, count=3, size_hw=SIZE, video=True)
    line = OrangeLine(2, SIZE, frames=3)
    for k in range(3):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"images/{k:06d}.png")), line[k][0].image_rgb)


def test_a_folder_with_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        write_dataset(tmp_path, count=1, size_hw=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"image_format": "gif"}, {"size_hw": (1, 1)}, {"seed": -1}])
def test_wrong_arguments_write_nothing(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        write_dataset(tmp_path / "set", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_dataset(tmp_path / "file" / "set", count=1, size_hw=SIZE)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "orange-line", str(tmp_path / "set"), "--count", "2", "--size", "64x96", "--format", "jpeg", "--json"])
    assert not caught.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 2
    assert len(list((tmp_path / "set" / "images").glob("*.jpg"))) == 2


@pytest.mark.parametrize("arguments", [["--size", "big"], ["--size", "9x9"], ["--format", "gif"]])
def test_command_with_wrong_flags(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "orange-line", str(tmp_path / "set"), *arguments])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
