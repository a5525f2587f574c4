"""The image loader: legal but odd pictures (goal I2), every kind of source, every code of failure."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile

from imagefile_cases import Tags, grey_tiff, jpeg_of, tiff
from imagefile_odd import CASES, UNDO, Case, count_right, levels_off, naive, saved, turned_jpeg
from jetlens.errors import ImageError, UsageError
from jetlens.imagefile import IMAGE_SUFFIXES, image_size, load_image


def code_of(source: Any, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source, **limits)
    assert type(caught.value) is ImageError
    assert caught.value.file
    assert caught.value.why
    assert "\n" not in caught.value.why
    assert len(caught.value.why) <= 220
    return caught.value.code


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_odd_but_legal(case: Case, tmp_path: Path) -> None:
    made = load_image(case.content)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    assert made.flags.writeable
    assert made.shape == case.shown.shape
    assert levels_off(made, case) <= case.within
    assert image_size(case.content) == case.shown.shape[:2]
    path = tmp_path / "picture.with-the-wrong-suffix.txt"
    path.write_bytes(case.content)
    with path.open("rb") as file:
        roads: list[Any] = [str(path), path, bytearray(case.content), memoryview(case.content), io.BytesIO(case.content), file]
        assert all(np.array_equal(load_image(road), made) for road in roads)


def test_naive_loading_fails_on_odd_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    """The negative control of the test above."""
    ours, theirs = count_right(load_image, CASES), count_right(naive, CASES)
    with capsys.disabled():
        print(f"\nodd but legal pictures right: {ours}/{len(CASES)}; naive Pillow {theirs}/{len(CASES)}")
    assert ours == len(CASES) >= 45
    assert theirs < len(CASES) - 15


def test_all_eight_orientations_show_one_picture() -> None:
    files = [turned_jpeg(orientation) for orientation in UNDO]
    first = load_image(files[0])
    assert sum(np.array_equal(load_image(file), first) for file in files) == 8
    assert sum(np.array_equal(naive(file), first) for file in files) == 1


def test_sixteen_bit_ramp_keeps_its_levels() -> None:
    content = CASES[[case.name for case in CASES].index("png 16-bit grey")].content
    assert len(np.unique(load_image(content))) >= 250
    assert len(np.unique(naive(content))) < 250


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (np.array([[0.0, np.nan]], np.float32), "finite"),
        (np.array([[0.0, np.inf]], np.float32), "finite"),
        (np.array([[-0.5, 1.0]], np.float32), "-0.5"),
        (np.array([[0.0, 1000.0]], np.float32), "1000"),
    ],
)
def test_floats_without_agreed_meaning_are_refused(values: NDArray[np.float32], part: str) -> None:
    content = saved(PillowImage.fromarray(values), "TIFF")
    assert code_of(content) == "unsupported-pixels"
    with pytest.raises(ImageError, match=part):
        load_image(content)


def test_integers_out_of_range_are_refused() -> None:
    signed: Tags = {339: ("H", 2)}
    assert code_of(grey_tiff(2, 1, 32, struct.pack("<ii", 0, 65_536), more=signed)) == "unsupported-pixels"
    assert code_of(grey_tiff(2, 1, 16, struct.pack("<hh", -1, 5), more=signed)) == "unsupported-pixels"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"hello, this is a text file\nof two lines\n", "not-an-image"),
        (b"BM, said the text", "not-an-image"),
        (bytes(100), "not-an-image"),
        (b"\xff", "not-an-image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"GIF89a", "truncated"),
        (b"II*\0", "damaged"),
        (b"RIFF\x10\0\0\0WEBP", "truncated"),
        (b"%PDF-1.7", "unsupported-format"),
        (b"P6\n1 1\n255\nabc", "unsupported-format"),
        (b"\0\0\0\x1cftypavif....", "unsupported-format"),
        (b"\0\0\0\x1cftypisom....", "unsupported-format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported-format"),
    ],
)
def test_what_is_no_image(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert code_of(content) == code_of(path) == code_of(io.BytesIO(content)) == code
    with pytest.raises(ImageError) as caught:
        image_size(path)
    assert caught.value.code == code
    assert caught.value.file == str(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_files_cut_anywhere(kind: str) -> None:
    """Most of a file is never an image, save for formats whose ends hold nothing."""
    noise = np.random.default_rng(5).integers(0, 256, (40, 40, 3), np.uint8)
    whole = saved(PillowImage.fromarray(noise), kind)
    cuts = range(16, len(whole) * 9 // 10, max(1, len(whole) // 40))
    codes = [code_of(whole[:cut]) for cut in cuts]
    allowed = {"truncated", "not-an-image"} if kind != "TIFF" else {"truncated", "damaged"}
    assert set(codes) <= allowed
    assert codes.count("truncated") >= len(codes) - 3 or kind == "TIFF"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    link = tmp_path / "link.png"
    link.symlink_to("/dev/zero")
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert code_of(tmp_path / "s") == "not-a-file"
    assert code_of(tmp_path) == code_of(fifo) == code_of(link) == code_of("/dev/null") == "not-a-file"
    assert code_of(tmp_path / "nothing.png") == code_of("") == code_of("a\0b.png") == "missing"
    assert code_of(loop) == code_of("x" * 5000) == "unreadable"


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")

    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert code_of(path) == "unreadable"


def test_streams_that_fail_and_sources_of_no_kind() -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    assert code_of(Failing()) == "unreadable"
    assert code_of(io.StringIO("text")) == "unreadable"
    for source in (None, 3, [b"x"]):
        with pytest.raises(UsageError, match="path"):
            load_image(source)  # type: ignore[arg-type]


def test_files_above_the_byte_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(2**30 + 1)
    assert code_of(path) == "too-large"


def test_decoder_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    assert code_of(jpeg_of((8, 8))) == "too-large"


@pytest.mark.parametrize(
    "error", [SyntaxError("a\nb" * 200), struct.error("x"), OverflowError(), RecursionError("deep"), KeyError(3), AssertionError()]
)
def test_whatever_a_decoder_raises_is_an_image_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert code_of(jpeg_of((8, 8))) == "damaged"


def test_no_handle_stays_open(tmp_path: Path) -> None:
    paths = []
    for number, content in enumerate([*(case.content for case in CASES), b"", b"text", jpeg_of((64, 64))[:300], CASES[-1].content[:900]]):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(content)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("no /proc here")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for path in paths:
            for read in (load_image, image_size):
                try:
                    read(path)
                except ImageError:
                    continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_pillow_keeps_its_settings_and_stays_silent(recwarn: pytest.WarningsRecorder) -> None:
    settings_before = (ImageFile.LOAD_TRUNCATED_IMAGES, PillowImage.MAX_IMAGE_PIXELS, list(warnings.filters))
    for case in CASES:
        load_image(case.content)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, PillowImage.MAX_IMAGE_PIXELS, list(warnings.filters)) == settings_before
    assert [str(warning.message) for warning in recwarn if "exif" not in str(warning.message).lower()] == []


def test_threads_load_at_once() -> None:
    whole = [load_image(case.content) for case in CASES]
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(case.name for case, right in zip(CASES, whole, strict=True) if not np.array_equal(load_image(case.content), right))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_stream_is_read_from_where_it_stands() -> None:
    with io.BytesIO(b"header" + jpeg_of((20, 10))) as file:
        file.seek(6)
        assert load_image(file).shape == (10, 20, 3)


def test_suffixes_are_for_listing() -> None:
    assert {".jpg", ".png", ".webp", ".bmp", ".tif", ".gif"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


def test_photos_with_wrong_suffixes(shared_data: Path) -> None:
    """Several .jpg of the navel oranges are PNG inside."""
    paths = [path for path in sorted((shared_data / "images").rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    assert paths
    for path in paths:
        assert image_size(path)[0] > 0
    disguised = [path for path in paths if path.suffix == ".jpg" and path.read_bytes()[:4] == b"\x89PNG"]
    assert disguised
    assert load_image(disguised[0]).shape[:2] == image_size(disguised[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=300), st.sampled_from([b"", *(case.content[:40] for case in CASES[::6])]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_an_image_or_an_image_error(content: bytes, head: bytes) -> None:
    try:
        proper = load_image(head + content).ndim == 3
    except ImageError as error:
        proper = bool(error.code and error.why)
    assert proper


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_lossless_formats_give_back_every_picture(height: int, width: int, kind: str, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(load_image(saved(PillowImage.fromarray(picture), kind, **options)), picture)


def test_tile_larger_than_memory_is_refused() -> None:
    tags = {256: ("I", 1), 257: ("I", 1), 258: ("H", 8), 259: ("H", 1), 262: ("H", 1), 277: ("H", 1)}
    content = tiff(tags | {322: ("I", 2**31), 323: ("I", 2**31), 324: ("I", 8), 325: ("I", 4)}, bytes(4))
    assert code_of(content) == "too-large"
