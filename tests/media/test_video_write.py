"""Sinks: N frames in, N frames out, same size and rate, whole under its final name or not there."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded_video import coded_image, read_code

from jetlens.errors import OutputError, VideoError
from jetlens.frame import Frame
from jetlens.media import StreamInfo, open_sink, open_source
from jetlens.media.base import scratch_path
from jetlens.media.images import write_image
from jetlens.media.sources import open_video

ENCODERS = ("av", "cv2")


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def info(size_hw: tuple[int, int], fps: float = 25.0) -> StreamInfo:
    return StreamInfo(size_hw, fps, None, "test", "test")


def frames(count: int, size_hw: tuple[int, int], fps: float = 25.0) -> list[Frame]:
    return [Frame(coded_image(index, size_hw), index, index / fps, 0.0, "test") for index in range(count)]


def write(path: Path, count: int = 20, size_hw: tuple[int, int] = (96, 160), fps: float = 25.0, encoder: str = "av") -> str:
    with open_sink(path, info(size_hw, fps), encoder=encoder) as sink:
        for frame in frames(count, size_hw, fps):
            sink.write(frame)
    return sink.note


def write_and_fail(path: Path, count: int, encoder: str, error: BaseException) -> None:
    with open_sink(path, info((96, 160)), encoder=encoder) as sink:
        for frame in frames(count, (96, 160)):
            sink.write(frame)
        raise error


@pytest.mark.parametrize("fps", [10.0, 25.0, 30000 / 1001, 179 / 6, 60.0])
def test_same_number_size_rate_and_order(tmp_path: Path, encoder: str, fps: float) -> None:
    path = tmp_path / "out.mp4"
    write(path, 20, fps=fps, encoder=encoder)
    with open_video(path) as source:
        assert source.info.size_hw == (96, 160)
        assert source.info.fps == pytest.approx(fps, rel=1e-4)
        back = list(source)
    assert [read_code(frame.image_rgb) for frame in back] == list(range(20))
    assert [frame.pts_s for frame in back] == pytest.approx([index / fps for index in range(20)], abs=0.001)
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_any_player_s_pixels(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "out.mp4"
    write(path)
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25)
        assert sum(1 for _ in container.decode(stream)) == 20


def test_opencv_reads_it_whole(tmp_path: Path, encoder: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "out.mp4"
    write(path, encoder=encoder)
    capture: Any = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    assert (count, capture.get(cv2.CAP_PROP_FPS)) == (20, 25.0)
    capture.release()


def test_times_of_a_varying_rate_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("av")
    times = [0.0, 0.04, 0.5, 0.51, 2.0]
    path = tmp_path / "out.mp4"
    with open_sink(path, info((64, 64))) as sink:
        for index, pts_s in enumerate(times):
            sink.write(Frame(coded_image(index, (64, 64)), index, pts_s, 0.0, "test"))
    with open_video(path) as source:
        assert [frame.pts_s for frame in source] == pytest.approx(times, abs=0.0001)


@pytest.mark.parametrize("size_hw", [(97, 161), (96, 161), (97, 160), (1, 1)])
def test_odd_sides_are_padded_by_one_pixel_and_said(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    pytest.importorskip("av")
    path = tmp_path / "out.mp4"
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, ((size_hw[0] + 15) // 16, (size_hw[1] + 15) // 16, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    image = np.ascontiguousarray(image[: size_hw[0], : size_hw[1]])
    with open_sink(path, info(size_hw)) as sink:
        sink.write(Frame(image, 0, 0.0, 0.0, "test"))
        assert "padded" in sink.note
    with open_video(path) as source:
        back = next(iter(source)).image_rgb
    height, width = (side + side % 2 for side in size_hw)
    assert back.shape == (height, width, 3)
    # The new column is the picture's own last one: no black edge that a player would show.
    expected = np.pad(image, ((0, height - size_hw[0]), (0, width - size_hw[1]), (0, 0)), mode="edge")
    assert np.abs(back.astype(int) - expected).mean() < 25


def test_colours_come_back(tmp_path: Path) -> None:
    pytest.importorskip("av")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "out.mp4"
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40)]
    image = np.zeros((64, 256, 3), np.uint8)
    for index, colour in enumerate(colours):
        image[:, index * 64 : index * 64 + 64] = colour
    with open_sink(path, info((64, 256))) as sink:
        sink.write(Frame(image, 0, 0.0, 0.0, "test"))
    with open_video(path) as source:
        ours = next(iter(source)).image_rgb
    capture: Any = cv2.VideoCapture(str(path))
    theirs = capture.read()[1][..., ::-1]
    for index, colour in enumerate(colours):
        for read in (ours, theirs):
            assert np.abs(read[32, index * 64 + 32].astype(int) - colour).max() <= 8


def test_a_frame_of_another_size_is_scaled(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "out.mp4"
    with open_sink(path, info((96, 160)), encoder=encoder) as sink:
        for index, size_hw in enumerate([(96, 160), (48, 80), (96, 160), (200, 100)]):
            sink.write(Frame(coded_image(index, size_hw), index, index / 25, 0.0, "test"))
    with open_video(path) as source:
        back = list(source)
    assert {frame.size_hw for frame in back} == {(96, 160)}
    assert [read_code(frame.image_rgb) for frame in back] == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), VideoError("the input ends")])
def test_what_was_written_before_ctrl_c_can_be_played(tmp_path: Path, encoder: str, error: BaseException) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(type(error)):
        write_and_fail(path, 7, encoder, error)
    with open_video(path) as source:
        assert len(list(source)) == 7
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_after_another_failure_nothing_is_left_and_the_old_file_stays(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_fail(path, 1, encoder, RuntimeError("a stage failed"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_negative_control_a_writer_that_is_not_closed_leaves_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "out.mp4"
    container = av.open(str(path), "w")
    stream: Any = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
    for frame in frames(7, (96, 160)):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image_rgb)))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())  # as a killed program leaves it
    with pytest.raises(VideoError):
        open_video(copy)
    container.close()


def test_no_frames_no_file(tmp_path: Path, encoder: str) -> None:
    write(tmp_path / "out.mp4", 0, encoder=encoder)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_output_error(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "out.mp4"
    scratch_path(path).symlink_to("/dev/full")
    with pytest.raises(OutputError):
        write(path, 60, (240, 320), encoder=encoder)
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_written(tmp_path: Path, encoder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"out\.mp4"):
        write(tmp_path / "file" / "out.mp4", encoder=encoder)
    with pytest.raises(OutputError, match="suffix"):
        open_sink(tmp_path / "out.gif", info((96, 160)))


def test_a_folder_of_images(tmp_path: Path) -> None:
    with open_sink(tmp_path / "new" / "folder", info((32, 64))) as sink:
        for frame in frames(3, (32, 64)):
            sink.write(frame)
    with open_source(tmp_path / "new" / "folder") as source:
        back = list(source)
    assert [read_code(frame.image_rgb) for frame in back] == [0, 1, 2]
    assert all((frame.image_rgb == coded_image(frame.index, (32, 64))).all() for frame in back)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_images_are_written_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, coded_image(5))
    with open_source(path) as source:
        assert read_code(next(iter(source)).image_rgb) == 5
    with pytest.raises(OutputError):
        write_image(tmp_path / "none" / f"out{suffix}", coded_image(5))
    with pytest.raises(OutputError, match="written as"):
        write_image(tmp_path / "out.tiff", coded_image(5))
    assert os.listdir(tmp_path) == [path.name]
