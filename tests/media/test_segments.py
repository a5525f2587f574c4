"""RecordingSink: video that starts with the first frame, in one file or in several."""

from __future__ import annotations

from pathlib import Path

import pytest
from coded_video import coded_image, read_code

from jetlens.errors import OutputError
from jetlens.frame import Frame
from jetlens.media import StreamInfo, open_source
from jetlens.media.segments import RecordingSink

UNKNOWN = StreamInfo((0, 0), 0.0, None, "camera", "")


def frames(first: int, count: int, size_hw: tuple[int, int] = (96, 160)) -> list[Frame]:
    return [Frame(coded_image(index, size_hw), index, index / 10, 0.0, "camera") for index in range(first, first + count)]


def codes(path: Path) -> list[int]:
    with open_source(path) as source:
        return [read_code(frame.image_rgb) for frame in source]


@pytest.fixture(autouse=True)
def _needs_av() -> None:
    pytest.importorskip("av")


def test_a_stream_of_unknown_size_that_is_joined_late(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "new" / "a.mp4", UNKNOWN) as sink:
        for frame in frames(50, 12):
            sink.write(frame)
    assert codes(tmp_path / "new" / "a.mp4") == list(range(50, 62))
    with open_source(tmp_path / "new" / "a.mp4") as source:
        times = [frame.pts_s for frame in source]
    assert times == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    assert sink.paths == [tmp_path / "new" / "a.mp4"]


def test_segments_hold_every_frame_once_and_those_before_the_last_are_whole_already(tmp_path: Path) -> None:
    sink = RecordingSink(tmp_path / "a.mkv", UNKNOWN, segment_s=0.5)
    for frame in frames(0, 12):
        sink.write(frame)
    # Killed now, only the last would be lost.
    assert codes(tmp_path / "a-0001.mkv") == [0, 1, 2, 3, 4]
    assert codes(tmp_path / "a-0002.mkv") == [5, 6, 7, 8, 9]
    assert not (tmp_path / "a-0003.mkv").exists()
    sink.close()
    assert codes(tmp_path / "a-0003.mkv") == [10, 11]


def test_a_new_size_or_a_clock_that_starts_again_begins_a_segment(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "a.mkv", UNKNOWN, segment_s=60) as sink:
        for frame in [*frames(5, 4), *frames(9, 4, (64, 112)), *frames(0, 3, (64, 112))]:
            sink.write(frame)
    assert [codes(path) for path in sink.paths] == [[5, 6, 7, 8], [9, 10, 11, 12], [0, 1, 2]]


def test_without_segments_a_new_size_is_scaled(tmp_path: Path) -> None:
    with RecordingSink(tmp_path / "a.mkv", UNKNOWN) as sink:
        for frame in [*frames(0, 4), *frames(4, 4, (64, 112))]:
            sink.write(frame)
    assert codes(tmp_path / "a.mkv") == list(range(8))


def test_nothing_is_left_of_a_stream_without_frames_or_of_one_that_failed(tmp_path: Path) -> None:
    RecordingSink(tmp_path / "a.mp4", UNKNOWN).close()
    sink = RecordingSink(tmp_path / "b.mp4", UNKNOWN)
    sink.write(frames(0, 1)[0])
    sink.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="closed already"):
        sink.write(frames(0, 1)[0])


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        RecordingSink(tmp_path / "file" / "a.mp4", UNKNOWN)
