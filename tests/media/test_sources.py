"""open_source: what a name stands for, and clear words where it stands for nothing."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from jetlens.errors import InputError, JetlensError, UnknownNameError, UsageError
from jetlens.media import open_source
from jetlens.media.containers import sniff_container
from jetlens.media.jsonlines import JsonLines
from jetlens.media.sources import is_video, list_files, scheme_of


def picture(path: Path, level: int = 100) -> Path:
    PillowImage.fromarray(np.full((8, 12, 3), level, np.uint8)).save(path)
    return path


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        picture(tmp_path / f"shot{number}.png", number)
    (tmp_path / "notes.txt").write_text("words")
    with open_source(tmp_path) as source:
        assert source.info.frames == 3
        assert source.info.size_hw == (8, 12)
        assert [int(frame.image_rgb[0, 0, 0]) for frame in source] == [1, 2, 10]


def test_a_pattern(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png"):
        picture(tmp_path / name)
    with open_source(f"{tmp_path}/a*.png") as source:
        assert [Path(frame.stream).name for frame in source] == ["a1.png", "a2.png"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    picture(tmp_path / "photo[1].png")
    assert list_files(f"{tmp_path}/photo[1].png") == [tmp_path / "photo[1].png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.jpg", "no such file"), ("empty", "holds no image"), ("*.png", "no file matches"), ("text.png", "text"), ("zero.png", "empty")],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    if name != "*.png":
        (tmp_path / "zero.png").touch()
    else:
        (tmp_path / "text.png").unlink()
    with pytest.raises(InputError, match=words) as caught:
        list(open_source(f"{tmp_path}/{name}"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(tmp_path)) <= 300


def test_a_broken_image_among_others_is_named_at_the_end(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    levels: list[int] = []
    with open_source(tmp_path) as source, pytest.raises(InputError, match=r"1 of 3 .*1\.png"):
        levels.extend(int(frame.image_rgb[0, 0, 0]) for frame in source)
    assert levels == [0, 2]


def test_the_orange_line_by_address() -> None:
    with open_source("test://orange-line?seed=3&frames=2&size=64x96&fps=10") as source:
        assert (source.info.size_hw, source.info.fps, source.info.frames) == ((64, 96), 10.0, 2)
        frames = list(source)
    assert [frame.pts_s for frame in frames] == [0.0, 0.1]
    with open_source("test://orange-line?seed=3&frames=1&size=64x96&fps=10") as again:
        assert (next(iter(again)).image_rgb == frames[0].image_rgb).all()


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("test://orange-lin", UnknownNameError),
        ("test://orange-line?sed=1", UsageError),
        ("test://orange-line?seed=x", UsageError),
        ("test://orange-line?size=64", UsageError),
        ("test://orange-line?size=4x4", UsageError),
        ("test://orange-line?frames=0", UsageError),
        ("ftp://host/video.mp4", UsageError),
        ("rtmp://user:pw@host/stream", UsageError),
    ],
)
def test_addresses_that_are_wrong(uri: str, error: type[JetlensError]) -> None:
    with pytest.raises(error):
        open_source(uri)


def test_schemes_and_files_that_look_like_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scheme_of("HTTP://x/y.jpg") == "http"
    assert scheme_of("photos/a.jpg") == ""
    assert scheme_of("C:\\a.jpg") == ""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "data:1.png")
    assert scheme_of("data:1.png") == ""


def test_videos_are_told_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\xff\xd8\xff\xe0 a photo")
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypisom")
    assert not is_video(tmp_path / "film.mp4")
    assert is_video(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\0\0\0\x18ftypmp42", "mov"),
        (b"\0\0\0\x18ftypavif", None),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (b"RIFF\0\0\0\0WEBPVP8 ", None),
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"G" + b"\0" * 187 + b"G" + b"\0" * 187 + b"G", "mpegts"),
        (b"Good morning", None),
        (b"#EXTM3U\n", None),
        (b"", None),
    ],
)
def test_first_bytes(head: bytes, container: str | None) -> None:
    assert sniff_container(head) == container


def test_json_lines_are_one_object_a_line() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as sink:
        sink.write({"path": "a\nb\udcff", "n": 1})
        sink.write({"n": 2})
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert rows == [{"path": "a\nb\udcff", "n": 1}, {"n": 2}]
    with pytest.raises(ValueError):
        JsonLines(stream).write({"n": float("nan")})


def test_a_fifo_is_told_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "camera.mp4")
    assert not is_video(tmp_path / "camera.mp4")


def test_an_empty_text_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="input is empty"):
        list_files("")


def test_a_folder_of_folders_says_how_to_search_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for \.jpg"):
        list_files(str(tmp_path))
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"not searched; a pattern does: '.*/\*\*/\*\.jpg'"):
        list_files(str(tmp_path))
